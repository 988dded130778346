"""Servers of one model, each started alone: ours, and the peers that it is compared with.

The peers live in .venv-peers (requirements-peers.txt): the code of SageMaker's scikit-learn
container, and MLServer. All listen on loopback.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from common import ROOT
from common.errors import UserError
from common.params import load_params
from measure import load
from measure.place import Place, Sandbox
from orchestrator.images import image_uri
from orchestrator.pipelines.models import sklearn_environment
from orchestrator.sandbox.hosting.process import start
from orchestrator.sandbox.nursery import Nursery

PEERS = ROOT / ".venv-peers"
START_SECONDS = 60
CSV = {"Content-Type": "text/csv", "Accept": "text/csv"}


@dataclass(frozen=True)
class Server:
    address: load.Address
    request: bytes
    probability: Callable[[bytes], float]  # of an answer


def _csv_probability(answer: bytes) -> float:
    return float(answer.split(b",")[-1])


@contextmanager
def process(place: Place, model: str) -> Iterator[Server]:
    """An endpoint's process on its own socket, data capture on."""
    folder = place.folder / "process"
    (folder / "run").mkdir(parents=True, exist_ok=True)
    job = {
        "endpoint": "bench", "config": "bench", "variant": "AllTraffic",
        "model_dir": str(place.models[model]), "spool": str(folder / "spool"),
        "environment": sklearn_environment(), "command": None,
        "image": image_uri("sklearn", load_params()["image"], "us-east-1"),
        "capture": {
            "EnableCapture": True, "InitialSamplingPercentage": 100,
            "CaptureOptions": [{"CaptureMode": "InputAndOutput"}],
            "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"]},
        },
    }  # fmt: skip
    nursery = Nursery([])
    nursery.warm_up()
    with chdir(folder):
        running = start(nursery, "endpoint", job, folder / "log")
    try:
        request = load.request("/invocations", "endpoint", place.row, CSV)
        yield Server(str(folder / "run" / "endpoint" / "sock"), request, _csv_probability)
    finally:
        running.stop()
        nursery.close()


def through_sandbox(place: Place, sandbox: Sandbox, endpoint: str) -> Server:
    """The whole way of a signed request, which is good for 15 minutes; data capture on."""
    target = sandbox.target
    url = f"{target.endpoint_url}/endpoints/{endpoint}/invocations"
    request = AWSRequest("POST", url, data=place.row, headers=CSV)
    SigV4Auth(target.session.get_credentials(), "sagemaker", target.region).add_auth(request)
    parts = urlsplit(url)
    message = load.request(parts.path, parts.netloc, place.row, dict(request.headers))
    return Server((parts.hostname, parts.port), message, _csv_probability)


@contextmanager
def _running(
    command: list, folder: Path, log: Path, server: Server, more: dict[str, str]
) -> Iterator[Server]:
    """A peer's processes, from its first answer to their end."""
    with open(log, "ab") as output:
        running = subprocess.Popen(
            command, cwd=folder, env=os.environ | more, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                load.ask(server.address, server.request)
                break
            except (OSError, RuntimeError) as error:
                if running.poll() is not None or time.monotonic() > deadline:
                    last = log.read_text(errors="replace").strip().rpartition("\n")[2]
                    raise UserError(f"{command[0]} does not answer: {last or error}") from None
                time.sleep(0.2)
        yield server
    finally:
        running.terminate()
        running.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def sagemaker(place: Place, model: str, code: Path) -> Iterator[Server]:
    """SageMaker's container without the container: its server's own package under gunicorn,
    with the flags and the two workers that it has on an instance of two cores, behind nginx
    where that is installed. `code` is the inference.py that it serves."""
    folder = place.folder / "sagemaker"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place.models[model], folder / "model")
    shutil.copy(code, folder / "model" / "code" / "inference.py")
    (folder / "code").mkdir()  # or both workers make it, and one of them dies of it
    port = _free_port()
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    bind = f"unix:{folder}/gunicorn.sock" if nginx else f"127.0.0.1:{port}"
    search = f"{folder}/model/code,{Path(__file__).parent}"
    gunicorn = [
        PEERS / "bin" / "gunicorn", "--timeout", "60", "-k", "gevent", "--pythonpath", search, "-b", bind,
        "--worker-connections", "2000", "-w", "2", "--log-level", "info", "sagemaker_app:main",
    ]  # fmt: skip
    environment = sklearn_environment() | {
        "SAGEMAKER_BASE_DIR": str(folder),
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",  # its generated code is that old
    }
    host = f"127.0.0.1:{port}"
    request = load.request("/invocations", host, place.row, CSV)
    server = Server(("127.0.0.1", port), request, _csv_probability)
    with ExitStack() as stack:
        if nginx:
            (folder / "nginx.conf").write_text(NGINX % {"folder": folder, "host": host})
            command = [nginx, "-e", folder / "nginx.log", "-c", folder / "nginx.conf"]
            front = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(front.wait)
            stack.callback(front.terminate)
        yield stack.enter_context(_running(gunicorn, folder, folder / "log", server, environment))


# What the container's template comes to, but for the places of its files.
NGINX = """
user root;  # heeded only when root starts it, whose folder it could not enter otherwise
worker_processes auto;
daemon off;
pid %(folder)s/nginx.pid;
worker_rlimit_nofile 4096;
events { worker_connections 2048; }
http {
  access_log %(folder)s/access.log combined;
  upstream gunicorn { server unix:%(folder)s/gunicorn.sock; }
  server {
    listen %(host)s deferred;
    client_max_body_size 0;
    keepalive_timeout 3;
    location ~ ^/(ping|invocations|execution-parameters) {
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header Host $http_host;
      proxy_redirect off;
      proxy_read_timeout 60s;
      proxy_pass http://gunicorn;
    }
  }
}
"""


@contextmanager
def mlserver(place: Place, model: str) -> Iterator[Server]:
    """MLServer with its scikit-learn runtime, as it comes: one worker, JSON (Open Inference
    Protocol), for it takes no CSV."""
    folder = place.folder / "mlserver"
    folder.mkdir(exist_ok=True)
    ports = {key: _free_port() for key in ("http_port", "grpc_port", "metrics_port")}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "debug": False} | ports))
    settings = {
        "name": "pulsar",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(place.models[model] / "model_pulsar.joblib")},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    rows = place.rows[:1]
    body = {
        "inputs": [
            {"name": "x", "shape": rows.shape, "datatype": "FP64", "data": rows[0].tolist()}
        ],
        "outputs": [{"name": "predict_proba"}],
    }
    request = load.request(
        "/v2/models/pulsar/infer", f"127.0.0.1:{ports['http_port']}", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    server = Server(
        ("127.0.0.1", ports["http_port"]),
        request,
        lambda answer: json.loads(answer)["outputs"][0]["data"][1],
    )
    command = [PEERS / "bin" / "mlserver", "start", folder]
    with _running(command, folder, folder / "log", server, {}) as answering:
        yield answering
