"""Fixtures: a checkout of its own with a small trained model, and its running sandbox.

Everything here is real: scripts run as processes, servers on loopback, requests over HTTP.
The real HTRU2 is used where it is at hand (HTRU2 in the environment, or ../shared/data),
the simulator otherwise.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import boto3
import pytest
import yaml
from botocore.config import Config
from hypothesis import settings

from clients.sandbox import USUAL_PORTS
from orchestrator.images import SKLEARN_IMAGES
from orchestrator.sandbox.hosting import confinement
from orchestrator.sandbox.nursery import Nursery
from scoring.packing import pack

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CHECKOUT = (
    "Makefile", "dvc.yaml", "params.yaml", "payloads", "scripts", "orchestrator", ".dvc/config",
    ".dvc/without-git", ".dvcignore", ".gitignore", "requirements.txt",
)  # fmt: skip
# The image that this environment can stand for.
IMAGE = next(
    tag for tag, image in SKLEARN_IMAGES.items() if image.scikit_learn == version("scikit-learn")
)
OTHER_IMAGE = next(tag for tag in SKLEARN_IMAGES if tag != IMAGE)
# What shrinks a training run to seconds without leaving a step out.
SMALL = {
    "train": {"threshold_folds": 2},
    "train.networks": {"seeds": 1},
    "train.networks.power": {"epochs": 10},
    "train.networks.standard": {"epochs": 10},
    "evaluate": {"folds": 2, "repeats": 1, "blocks": 2, "bootstrap": 20},
}

settings.register_profile("quick", max_examples=200, deadline=None)
settings.register_profile(  # `make fuzz`
    "fuzz", max_examples=int(os.environ.get("EXAMPLES", "10000")), deadline=None, database=None
)
settings.load_profile("quick")


def pytest_configure(config) -> None:
    """Keep the usual ports from everybody: tests side by side would take them from each other
    while a sandbox is started again."""
    if not hasattr(config, "workerinput"):
        config.held = []
        for port in USUAL_PORTS:
            with contextlib.suppress(OSError):
                config.held.append(socket.create_server(("127.0.0.1", port)))


def real_htru2() -> Path | None:
    named = os.environ.get("HTRU2")
    places = [Path(named)] if named else []
    places.append(SHARED / "data" / "HTRU_2.csv")
    return next((path for path in places if path.is_file()), None)


needs_landlock = pytest.mark.skipif(
    not all(confinement.in_force().values()), reason="the kernel confines nothing here"
)
needs_htru2 = pytest.mark.skipif(real_htru2() is None, reason="the real HTRU2 is not at hand")


def clean_environment(**more: str) -> dict[str, str]:
    """An environment without the developer's AWS, target or data settings."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AWS_", "SANDBOX_"))
        and key not in ("HTRU2", "TARGET", "ORCHESTRATOR_URL", "ASSETS_BUCKET")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return kept | {"PATH": path, "HOME": kept.get("HOME", "/tmp")} | more


@pytest.fixture(autouse=True)
def no_settings_of_the_developer(monkeypatch):
    for key in list(os.environ):
        if key.startswith(("AWS_", "SANDBOX_")) or key in ("TARGET", "ORCHESTRATOR_URL", "DEBUG"):
            monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


class Project:
    """A checkout below a temporary folder, where scripts run as a user runs them."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess:
        """Run a command in the checkout; `more` are environment variables."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment | more, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=300,
        )  # fmt: skip

    def script(self, name: str, *arguments: str, **more: str) -> subprocess.CompletedProcess:
        return self.run(sys.executable, f"scripts/{name}.py", *arguments, **more)

    def set_params(self, changes: dict[str, dict]) -> None:
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for section, values in changes.items():
            place = params
            for key in filter(None, section.split(".")):
                place = place[key]
            place.update(values)
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def read(self, path: str) -> dict:
        return json.loads((self.folder / path).read_text())


def new_project(folder: Path) -> Project:
    for name in CHECKOUT:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    for name in ("data", "models", "evaluation"):
        (folder / name).mkdir()
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    data = real_htru2()
    source = str(data) if data else "simulated"
    project = Project(folder, clean_environment())
    project.set_params(SMALL | {"": {"image": IMAGE}, "data": {"source": source}})
    return project


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Project:
    """A checkout whose pipeline has run once, with a small model.

    What another session, or the worker beside this one, has trained from the same files is taken from
    DVC's cache: a folder that lasts.
    """
    project = new_project(tmp_path_factory.mktemp("project"))
    cache = Path(tempfile.gettempdir(), f"pulsar-tests-{os.getuid()}")
    cache.mkdir(mode=0o700, exist_ok=True)
    assert cache.stat().st_uid == os.getuid(), f"{cache} is somebody else's"
    project.run("dvc", "config", "--local", "cache.dir", str(cache / "dvc"))
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = project.run("dvc", "repro", "-q")
    assert result.returncode == 0, result.stderr
    return project


class Sandbox:
    """A running sandbox of a project, and boto3 clients that talk to it."""

    def __init__(self, project: Project, folder: Path | None = None) -> None:
        self.folder = folder or project.folder / ".sandbox"
        self.project = Project(
            project.folder, project.environment | {"SANDBOX_DIR": str(self.folder)}
        )
        self.start()

    def start(self) -> None:
        result = self.project.script("sandbox", "up")
        assert result.returncode == 0, result.stderr + self.log()
        shown = self.project.script("sandbox", "env", "--json")
        self.environment = json.loads(shown.stdout)
        self.url = self.environment["AWS_ENDPOINT_URL"]
        self.s3_url = self.environment["AWS_ENDPOINT_URL_S3"]
        self.bucket = self.environment["ASSETS_BUCKET"]

    @property
    def pid(self) -> int:
        return json.loads((self.folder / "status.json").read_text())["pid"]

    def log(self) -> str:
        path = self.folder / "sandbox.log"
        return path.read_text() if path.exists() else ""

    def client(self, service: str, **changes):
        usual = {
            "config": Config(retries={"max_attempts": 0}, read_timeout=30, connect_timeout=5),
            "aws_access_key_id": self.environment["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": self.environment["AWS_SECRET_ACCESS_KEY"],
            "region_name": "us-east-1",
            "endpoint_url": self.s3_url if service == "s3" else self.url,
        }
        return boto3.client(service, **usual | changes)

    def post(self, path: str, body, **changes) -> tuple[int, str]:
        """A signed request to the orchestrator's API; a body that is no text is sent as JSON."""
        text = body if isinstance(body, str) else json.dumps(body)
        method = changes.get("method", "POST")
        return self.send("execute-api", method, f"/prod{path}", text.encode())

    def send(
        self, service: str, method: str, path: str, body: bytes, headers: dict | None = None
    ) -> tuple[int, str]:
        """A signed request to a service: status and body of the answer."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials
        from botocore.httpsession import URLLib3Session

        credentials = Credentials(
            self.environment["AWS_ACCESS_KEY_ID"], self.environment["AWS_SECRET_ACCESS_KEY"]
        )
        request = AWSRequest(method, f"{self.url}{path}", data=body, headers=headers)
        SigV4Auth(credentials, service, "us-east-1").add_auth(request)
        answer = URLLib3Session(timeout=30).send(request.prepare())
        return answer.status_code, answer.text

    def provision(self, payload: dict) -> str:
        status, text = self.post("/provisionpipeline", payload)
        assert status == 200, text
        return json.loads(text)["pipeline_id"]

    def wait(self, pipeline_id: str, seconds: float = 60) -> tuple[str, dict]:
        """The deployment's final state and the whole answer."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status, text = self.post("/pipelinestatus", {"pipeline_id": pipeline_id})
            assert status == 200, text
            answer = json.loads(text)
            state = answer["stageStates"][-1]["latestExecution"]["status"]
            if state != "InProgress":
                return state, answer
            time.sleep(0.05)
        raise AssertionError(f"{pipeline_id} is still in progress: {text}\n{self.log()}")

    def delete(self, kind: str) -> None:
        """Begin to delete all pipelines of a kind of type, such as `batch`."""
        cloudformation = self.client("cloudformation")
        for stack in cloudformation.describe_stacks()["Stacks"]:
            if kind in stack["StackName"].rpartition("-byom")[2]:
                cloudformation.delete_stack(StackName=stack["StackId"])

    def upload(self, content: bytes, key: str = "model.tar.gz") -> None:
        self.client("s3").put_object(Bucket=self.bucket, Key=key, Body=content)

    def payload(self, name: str, **changes: str) -> dict:
        return {
            "pipeline_type": "byom_realtime_builtin",
            "model_name": name,
            "model_framework": "sklearn",
            "model_framework_version": IMAGE,
            "model_artifact_location": "model.tar.gz",
            "data_capture_location": f"{self.bucket}/{name}/datacapture",
            "inference_instance": "ml.m5.large",
            "endpoint_name": name,
        } | changes

    def invoke(self, endpoint: str, body: str | bytes, content_type: str = "text/csv", **more):
        return self.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=endpoint, Body=body, ContentType=content_type, **more
        )


@pytest.fixture(scope="session")
def sandbox(project) -> Sandbox:
    sandbox = Sandbox(project)
    yield sandbox
    project.script("sandbox", "down")


@pytest.fixture
def own_sandbox(project, tmp_path) -> Sandbox:
    """A sandbox for one test, which may hurt it."""
    sandbox = Sandbox(project, tmp_path / "sandbox")
    yield sandbox
    sandbox.project.script("sandbox", "down")


# What stands for a custom image: it answers what it is asked, or who it is.
SERVER = """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b"")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        who = f"{os.getpid()} {PORT}".encode()
        self.answer(who if body == b"who" else b"custom " + body)
    def answer(self, content):
        self.send_response(200)
        self.send_header("Content-Type", "text/csv")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *arguments):
        pass
assert os.path.exists("weights.txt")
PORT = int(os.environ["SAGEMAKER_BIND_TO_PORT"])
HTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""


def own_checkout(project: Project, folder: Path) -> Project:
    """A copy of the checkout, for a test that changes it."""
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns(".sandbox", ".dvc"))
    return Project(folder, project.environment)


@pytest.fixture
def custom(project, tmp_path) -> tuple[Sandbox, dict]:
    """A sandbox with the endpoint `custom`, whose image a command stands for, and its payload."""
    own = own_checkout(project, tmp_path / "checkout")
    own.set_params({"sandbox": {"commands": {"registry/custom:1": "python server.py"}}})
    sandbox = Sandbox(own, tmp_path / "sandbox")
    try:
        sandbox.upload(pack({"server.py": SERVER.encode(), "weights.txt": b"1"}), "custom.tar.gz")
        payload = sandbox.payload(
            "custom", pipeline_type="byom_realtime_custom", custom_image_uri="registry/custom:1",
            model_artifact_location="custom.tar.gz",
        )  # fmt: skip
        state, answer = sandbox.wait(sandbox.provision(payload))
        assert state == "Succeeded", answer
        yield sandbox, payload
    finally:
        sandbox.project.script("sandbox", "down")


@pytest.fixture(scope="session")
def archive(project) -> bytes:
    """The packaged model."""
    return (project.folder / "models" / "model.tar.gz").read_bytes()


@pytest.fixture(scope="session")
def examples(project) -> list[str]:
    """A pulsar and a piece of noise, as CSV rows of eight features."""
    lines = (project.folder / "data" / "prepared" / "examples.csv").read_text().splitlines()
    return [line.rpartition(",")[0] for line in lines[1:]]


@pytest.fixture(scope="session")
def endpoint(sandbox, archive) -> str:
    """An endpoint in service, shared by the tests that only ask."""
    sandbox.upload(archive)
    pipeline_id = sandbox.provision(sandbox.payload("shared"))
    state, answer = sandbox.wait(pipeline_id)
    assert state == "Succeeded", answer
    return "shared"


@pytest.fixture(scope="session")
def nursery() -> Nursery:
    """What endpoint processes without a sandbox are forked from."""
    nursery = Nursery([])
    nursery.warm_up()
    yield nursery
    nursery.close()
