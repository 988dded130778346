"""The sandbox: signatures, S3, endpoints, data capture, faults."""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.sandbox.__main__ import front_count
from scoring.packing import pack

ECHO = """
import os
from werkzeug.wrappers import Response
VERSION = {version!r}
def model_fn(model_dir):
    return VERSION
def transform_fn(model, body, content_type, accept):
    text = body if isinstance(body, str) else body.decode(errors="replace")
    if text == "die":
        os._exit(9)
    if text == "refuse":
        return Response("no such thing", status=415)
    if text == "raise":
        raise ValueError("broken")
    if text == "huge":
        return ("x" * (7 * 1024 * 1024), "text/csv")
    return (model, "text/csv")
"""


def echo_archive(version: str) -> bytes:
    """A package whose answers say which version gave them."""
    return pack({"code/inference.py": ECHO.format(version=version).encode()})


def answer_of(response) -> str:
    return response["Body"].read().decode()


def until(condition, seconds: float = 30, what: str = "the condition") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds} s"
        time.sleep(0.05)


# -- who may come in ------------------------------------------------------------------


def get(url: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    "path", ["/prod/provisionpipeline", "/prod/pipelinestatus", "/endpoints/x/invocations"]
)
def test_an_unsigned_request_is_refused_as_api_gateway_words_it(sandbox, path):
    status, text = get(sandbox.url + path, "POST")
    assert status == 403
    assert json.loads(text) == {"message": "Missing Authentication Token"}


def test_an_unsigned_s3_request_is_refused(sandbox):
    assert get(f"{sandbox.url}/{sandbox.bucket}")[0] == 403


CALLS = {
    "s3": lambda client, s: client.list_objects_v2(Bucket=s.bucket),
    "sagemaker": lambda client, s: client.list_endpoints(),
    "cloudformation": lambda client, s: client.describe_stacks(),
    "sagemaker-runtime": lambda client, s: client.invoke_endpoint(EndpointName="x", Body="1"),
}


@pytest.mark.parametrize("service", CALLS)
@pytest.mark.parametrize(
    "wrong",
    [{"aws_secret_access_key": "wrong"}, {"aws_access_key_id": "NOBODY"}],
    ids=["secret", "key"],
)
def test_a_wrong_signature_is_refused_by_every_service(sandbox, service, wrong):
    with pytest.raises(ClientError) as caught:
        CALLS[service](sandbox.client(service, **wrong), sandbox)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def signed_headers(sandbox, body: bytes, when: datetime) -> dict[str, str]:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    credentials = Credentials(
        sandbox.environment["AWS_ACCESS_KEY_ID"], sandbox.environment["AWS_SECRET_ACCESS_KEY"]
    )
    request = AWSRequest("POST", f"{sandbox.url}/prod/pipelinestatus", data=body)
    signer = SigV4Auth(credentials, "execute-api", "us-east-1")
    request.headers["X-Amz-Date"] = request.context["timestamp"] = f"{when:%Y%m%dT%H%M%SZ}"
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    signer._inject_signature_to_request(request, signature)
    return dict(request.headers)


def send(sandbox, headers: dict[str, str], body: bytes) -> int:
    request = urllib.request.Request(
        f"{sandbox.url}/prod/pipelinestatus", data=body, headers=headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_stale_signature_and_a_changed_body_are_refused(sandbox):
    body, now = b'{"pipeline_id": "none"}', datetime.now(UTC)
    assert send(sandbox, signed_headers(sandbox, body, now), body) == 400  # let in, then unknown
    assert send(sandbox, signed_headers(sandbox, body, now - timedelta(minutes=20)), body) == 403
    assert send(sandbox, signed_headers(sandbox, body, now + timedelta(minutes=20)), body) == 403
    assert send(sandbox, signed_headers(sandbox, body, now), b'{"pipeline_id": "other"}') == 403


def test_an_upload_whose_body_is_not_the_signed_one_leaves_nothing(sandbox):
    def tamper(request, **_):
        request.body = b"something else!"

    plain = Config(
        request_checksum_calculation="when_required", s3={"payload_signing_enabled": True}
    )
    s3 = sandbox.client("s3", config=plain)
    # After signing, before sending: where a man in the middle would be.
    s3.meta.events.register("before-send.s3.PutObject", tamper)
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=sandbox.bucket, Key="tampered", Body=b"what was signed")
    assert caught.value.response["Error"]["Code"] == "XAmzContentSHA256Mismatch"
    listed = sandbox.client("s3").list_objects_v2(Bucket=sandbox.bucket, Prefix="tampered")
    assert listed["KeyCount"] == 0


def test_secrets_are_readable_by_their_owner_only_and_the_port_is_on_loopback(sandbox):
    assert stat.S_IMODE(os.stat(sandbox.folder / "credentials.json").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(sandbox.folder).st_mode) == 0o700
    secret = sandbox.environment["AWS_SECRET_ACCESS_KEY"]
    assert secret not in sandbox.log()
    assert sandbox.url.startswith("http://127.0.0.1:")
    listening = subprocess.run(["ss", "-ltnH"], capture_output=True, text=True)
    if listening.returncode == 0:
        port = sandbox.url.rpartition(":")[2]
        ours = [line.split()[3] for line in listening.stdout.splitlines() if f":{port} " in line]
        assert ours == [f"127.0.0.1:{port}"]


# -- S3 -------------------------------------------------------------------------------


def test_aws_s3_cp_brings_a_large_file_back_identical_and_keeps_metadata(sandbox, tmp_path):
    content = os.urandom(1 << 20) * 20  # past the CLI's multipart threshold
    (tmp_path / "up").write_bytes(content)
    url = f"s3://{sandbox.bucket}/large"
    up = sandbox.project.run(
        "aws", "s3", "cp", str(tmp_path / "up"), url, "--metadata", "a=b", **sandbox.environment
    )
    assert up.returncode == 0, up.stderr
    down = sandbox.project.run(
        "aws", "s3", "cp", url, str(tmp_path / "down"), **sandbox.environment
    )
    assert down.returncode == 0, down.stderr
    assert (tmp_path / "down").read_bytes() == content
    head = sandbox.client("s3").head_object(Bucket=sandbox.bucket, Key="large")
    assert head["Metadata"] == {"a": "b"}


def test_dvc_pushes_to_the_assets_bucket(sandbox):
    run = sandbox.project.run
    remote = f"s3://{sandbox.bucket}/dvc"
    assert run("dvc", "remote", "add", "-f", "-d", "sandbox", remote).returncode == 0
    pushed = run("dvc", "push", "models/model.tar.gz", **sandbox.environment)
    assert pushed.returncode == 0, pushed.stderr
    listed = sandbox.client("s3").list_objects_v2(Bucket=sandbox.bucket, Prefix="dvc/")
    assert listed["KeyCount"] == 1


# -- endpoints ------------------------------------------------------------------------


def test_the_endpoint_answers_a_pulsar_and_a_piece_of_noise(sandbox, endpoint, examples):
    response = sandbox.invoke(endpoint, "\n".join(examples), Accept="text/csv")
    labels = [line.partition(",")[0] for line in answer_of(response).split()]
    assert labels == ["1", "0"]
    assert response["InvokedProductionVariant"] == "AllTraffic"
    assert response["ContentType"] == "text/csv; charset=utf-8"


@pytest.mark.slow
def test_the_aws_cli_looks_at_what_runs(sandbox, endpoint):
    def aws(*arguments: str) -> dict:
        result = sandbox.project.run("aws", *arguments, "--output", "json", **sandbox.environment)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout or "{}")

    stack = "mlops-pipeline-shared-byompipelinerealtimebuiltin-codepipeline"
    described = aws("sagemaker", "describe-endpoint", "--endpoint-name", endpoint)
    assert described["EndpointStatus"] == "InService"
    assert described["DataCaptureConfig"]["CaptureStatus"] == "Started"
    config = aws(
        "sagemaker",
        "describe-endpoint-config",
        "--endpoint-config-name",
        described["EndpointConfigName"],
    )
    model = config["ProductionVariants"][0]["ModelName"]
    described = aws("sagemaker", "describe-model", "--model-name", model)
    assert described["EnableNetworkIsolation"] is True
    container = described["PrimaryContainer"]
    assert container["Environment"]["SAGEMAKER_PROGRAM"] == "inference.py"
    assert container["Environment"]["SAGEMAKER_SUBMIT_DIRECTORY"] == "/opt/ml/model/code"
    aws("sagemaker", "wait", "endpoint-in-service", "--endpoint-name", endpoint)
    listed = aws("sagemaker", "list-endpoints")["Endpoints"]
    assert endpoint in [item["EndpointName"] for item in listed]
    stacks = aws("cloudformation", "describe-stacks", "--stack-name", stack)["Stacks"]
    outputs = {item["OutputKey"]: item["OutputValue"] for item in stacks[0]["Outputs"]}
    assert outputs["SageMakerEndpointName"] == endpoint
    events = aws("cloudformation", "describe-stack-events", "--stack-name", stack)["StackEvents"]
    assert events[0]["ResourceStatus"] == "CREATE_COMPLETE"
    rows = aws("cloudformation", "list-stack-resources", "--stack-name", stack)
    types = {row["ResourceType"] for row in rows["StackResourceSummaries"]}
    assert types == {f"AWS::SageMaker::{kind}" for kind in ("Model", "EndpointConfig", "Endpoint")}


def test_the_originals_inference_api_is_served(sandbox, endpoint, examples):
    """A client of the original appends `inference` to the URL in the stack's outputs."""
    stack = "mlops-pipeline-shared-byompipelinerealtimebuiltin-codepipeline"
    described = sandbox.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
    urls = [
        output["OutputValue"] for output in described["Outputs"]
        if output["OutputKey"].startswith("BYOMInferenceLambdaRestApiEndpoint")
    ]  # fmt: skip
    path = urls[0].removeprefix(f"{sandbox.url}/prod") + "inference"
    status, text = sandbox.post(path, {"payload": examples[0], "content_type": "text/csv"})
    assert status == 200
    assert json.loads(text)["predictions"][0]["label"] == 1
    rows = [[float(cell) for cell in row.split(",")] for row in examples]
    status, text = sandbox.post(path, {"payload": rows, "content_type": "application/json"})
    assert [row["label"] for row in json.loads(text)["predictions"]] == [1, 0]
    for body, words, expected in (
        ({"payload": "1"}, "content_type", 400),
        ({"content_type": "text/csv"}, "payload", 400),
        ({"payload": "1", "content_type": None}, "content_type", 400),
        ({"payload": "1,2", "content_type": "text/csv"}, "Received client error (400)", 424),
    ):
        status, text = sandbox.post(path, body)
        assert status == expected
        assert words in json.loads(text)["detailedMessage"]


def error_of(call) -> tuple[int, str, dict]:
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"], response


def test_a_bad_row_is_a_model_error_with_the_models_own_words(sandbox, endpoint):
    status, code, response = error_of(lambda: sandbox.invoke(endpoint, "1,2,3"))
    assert (status, code) == (424, "ModelError")
    assert response["OriginalStatusCode"] == 400
    assert "row 1 has 3 columns, not 8" in response["OriginalMessage"]
    assert "Received client error (400) from primary" in response["Error"]["Message"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ({"EndpointName": "nowhere"}, 400, "Endpoint nowhere of account 000000000000 not found."),
        ({"Body": b"x" * (6 * 1024 * 1024 + 1)}, 413, "are allowed"),
        ({"Body": b"x" * (9 * 1024 * 1024)}, 413, "are allowed"),
        ({"CustomAttributes": "x" * 1025}, 400, "CustomAttributes"),
        ({"TargetVariant": "Blue"}, 400, "Variant Blue"),
    ],
    ids=["missing", "one-byte-too-large", "far-too-large", "attributes", "variant"],
)
def test_limits_and_names_get_sagemakers_errors(sandbox, endpoint, arguments, status, words):
    runtime = sandbox.client("sagemaker-runtime")
    call = {"EndpointName": endpoint, "Body": "1", "ContentType": "text/csv"} | arguments
    found_status, _, response = error_of(lambda: runtime.invoke_endpoint(**call))
    assert found_status == status
    assert words in response["Error"]["Message"]


@pytest.fixture(scope="module")
def echo(sandbox) -> str:
    """An endpoint of version 1 of a model that answers its version."""
    sandbox.upload(echo_archive("one"), "echo.tar.gz")
    payload = sandbox.payload("echo", model_artifact_location="echo.tar.gz")
    state, answer = sandbox.wait(sandbox.provision(payload))
    assert state == "Succeeded", answer
    return "echo"


@pytest.mark.parametrize(
    ("body", "original", "words"),
    [("refuse", 415, "Received client error (415)"), ("raise", 500, "Received server error (500)"),
     ("huge", 200, "could not load the entire response body")],
)  # fmt: skip
def test_what_a_model_does_wrong_is_a_model_error(sandbox, echo, body, original, words):
    status, code, response = error_of(lambda: sandbox.invoke(echo, body))
    assert (status, code, response["OriginalStatusCode"]) == (424, "ModelError", original)
    assert words in response["Error"]["Message"]


# -- versions -------------------------------------------------------------------------


class Traffic:
    """Requests without a pause from a few clients; what was answered, and what failed."""

    def __init__(self, sandbox, endpoint: str, clients: int = 3) -> None:
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(sandbox, endpoint), daemon=True)
            for _ in range(clients)
        ]

    def _ask(self, sandbox, endpoint: str) -> None:
        runtime = sandbox.client("sagemaker-runtime")
        while not self._stop.is_set():
            try:
                response = runtime.invoke_endpoint(
                    EndpointName=endpoint, Body="1", ContentType="text/csv"
                )
                self.answers.append(answer_of(response))
            except Exception as error:
                self.failures.append(str(error))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def deploy(sandbox, name: str, version: str, **changes) -> tuple[str, dict]:
    """Upload a version of the echo model under one key and provision it."""
    key = f"{name}.tar.gz"
    sandbox.upload(echo_archive(version), key)
    payload = sandbox.payload(name, model_artifact_location=key) | changes
    return sandbox.wait(sandbox.provision(payload))


def test_a_new_model_under_the_same_key_is_deployed_without_a_failed_request(sandbox):
    assert deploy(sandbox, "blue", "one")[0] == "Succeeded"
    with Traffic(sandbox, "blue") as traffic:
        until(lambda: "one" in traffic.answers)
        assert deploy(sandbox, "blue", "two")[0] == "Succeeded"
        until(lambda: traffic.answers[-1] == "two")
    assert traffic.failures == []
    assert set(traffic.answers) == {"one", "two"}


def test_an_unchanged_request_changes_nothing(sandbox):
    deploy(sandbox, "same", "one")
    cloudformation = sandbox.client("cloudformation")
    name = "mlops-pipeline-same-byompipelinerealtimebuiltin-codepipeline"
    before = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    assert deploy(sandbox, "same", "one")[0] == "Succeeded"
    assert cloudformation.describe_stack_events(StackName=name)["StackEvents"] == before


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"this is no archive", "cannot be unpacked"),
        (pack({"code/inference.py": b"x = 1"}), "has no model_fn"),
        (
            pack({"code/inference.py": b"def model_fn(d):\n    raise OSError('disk on fire')"}),
            "disk on fire",
        ),
        (pack({"code/inference.py": b"import os\nos._exit(3)"}), "exit code 3"),
    ],
    ids=["archive", "module", "load", "crash"],
)
def test_a_version_that_does_not_come_up_is_rolled_back_and_says_why(sandbox, broken, reason):
    assert deploy(sandbox, "green", "one")[0] == "Succeeded"
    with Traffic(sandbox, "green", clients=1) as traffic:
        sandbox.upload(broken, "green.tar.gz")
        payload = sandbox.payload("green", model_artifact_location="green.tar.gz")
        state, answer = sandbox.wait(sandbox.provision(payload))
        until(lambda: len(traffic.answers) > 20)
    assert state == "Failed"
    details = answer["stageStates"][1]["actionStates"][0]["latestExecution"]["errorDetails"]
    assert reason in details["message"]
    assert "previous version keeps answering" in details["message"]
    assert "Traceback" not in details["message"]
    assert traffic.failures == []
    assert set(traffic.answers) == {"one"}
    described = sandbox.client("sagemaker").describe_endpoint(EndpointName="green")
    assert described["EndpointStatus"] == "InService"
    assert len(list((sandbox.folder / "models").glob("*green*"))) == 1, "a broken version stays"


def test_a_first_version_that_fails_can_be_looked_at_and_then_replaced(sandbox):
    sandbox.upload(b"no archive", "first.tar.gz")
    payload = sandbox.payload("first", model_artifact_location="first.tar.gz")
    state, answer = sandbox.wait(sandbox.provision(payload))
    assert state == "Failed"
    assert "cannot be unpacked" in json.dumps(answer)
    sandbox.upload(pack({"code/inference.py": b"x = 1"}), "first.tar.gz")
    state, answer = sandbox.wait(sandbox.provision(payload))
    described = sandbox.client("sagemaker").describe_endpoint(EndpointName="first")
    assert described["EndpointStatus"] == "Failed"
    assert "has no model_fn" in described["FailureReason"]
    assert deploy(sandbox, "first", "one")[0] == "Succeeded"
    assert answer_of(sandbox.invoke("first", "1")) == "one"


def test_two_pipelines_cannot_have_one_endpoint(sandbox, echo):
    sandbox.upload(echo_archive("thief"), "thief.tar.gz")
    payload = sandbox.payload("thief", endpoint_name=echo, model_artifact_location="thief.tar.gz")
    state, answer = sandbox.wait(sandbox.provision(payload))
    assert state == "Failed"
    assert "echo already exists in stack" in json.dumps(answer)
    assert answer_of(sandbox.invoke(echo, "1")) == "one"


def test_a_new_endpoint_name_moves_the_endpoint(sandbox):
    deploy(sandbox, "moving", "one")
    state, _ = deploy(sandbox, "moving", "one", endpoint_name="moved")
    assert state == "Succeeded"
    assert answer_of(sandbox.invoke("moved", "1")) == "one"
    assert error_of(lambda: sandbox.invoke("moving", "1"))[0] == 400


def test_an_endpoint_without_a_name_gets_one(sandbox):
    sandbox.upload(echo_archive("nameless"), "nameless.tar.gz")
    payload = sandbox.payload("nameless", model_artifact_location="nameless.tar.gz")
    del payload["endpoint_name"]
    state, answer = sandbox.wait(sandbox.provision(payload))
    assert state == "Succeeded"
    assert answer_of(sandbox.invoke(answer["outputs"]["SageMakerEndpointName"], "1")) == "nameless"


def test_status_notices_when_another_configuration_runs_than_was_asked(sandbox):
    """What CloudFormation says is compared with what SageMaker says."""
    import sqlite3

    deploy(sandbox, "drift", "one")
    with contextlib.closing(sqlite3.connect(sandbox.folder / "state.db")) as db, db:
        db.execute("UPDATE endpoints SET config = 'another' WHERE name = 'drift'")
    stack = "mlops-pipeline-drift-byompipelinerealtimebuiltin-codepipeline"
    status, text = sandbox.post("/pipelinestatus", {"pipeline_id": stack})
    assert status == 200
    assert "runs the configuration another" in text


# -- data capture ---------------------------------------------------------------------


def captured(sandbox, prefix: str) -> list[dict]:
    s3 = sandbox.client("s3")
    records = []
    for item in s3.list_objects_v2(Bucket=sandbox.bucket, Prefix=prefix).get("Contents", []):
        content = s3.get_object(Bucket=sandbox.bucket, Key=item["Key"])["Body"].read()
        records += [json.loads(line) | {"key": item["Key"]} for line in content.splitlines()]
    return records


def test_requests_are_captured_in_sagemakers_form(sandbox):
    deploy(sandbox, "captured", "one")
    sandbox.invoke("captured", "1,2\n", InferenceId="order-42")
    sandbox.invoke("captured", '{"a": 1}', "application/json")
    sandbox.invoke("captured", b"\x00\x01", "application/x-npy")
    every_byte = bytes(range(256)) * 300
    sandbox.invoke("captured", every_byte, "application/octet-stream")
    for body in ("refuse", "raise"):
        error_of(lambda body=body: sandbox.invoke("captured", body))
    prefix = "captured/datacapture/captured/AllTraffic/"
    until(lambda: len(captured(sandbox, prefix)) == 4, what="the capture")
    by_type = {
        r["captureData"]["endpointInput"]["observedContentType"]: r
        for r in captured(sandbox, prefix)
    }
    csv = by_type["text/csv"]
    assert csv["captureData"]["endpointInput"] == {
        "observedContentType": "text/csv", "mode": "INPUT", "data": "1,2\n", "encoding": "CSV",
    }  # fmt: skip
    assert csv["captureData"]["endpointOutput"] == {
        "observedContentType": "text/csv; charset=utf-8", "mode": "OUTPUT", "data": "one",
        "encoding": "CSV",
    }  # fmt: skip
    assert csv["eventMetadata"]["inferenceId"] == "order-42"
    assert csv["eventVersion"] == "0"
    assert by_type["application/json"]["captureData"]["endpointInput"]["encoding"] == "JSON"
    assert by_type["application/x-npy"]["captureData"]["endpointInput"]["data"] == "AAE="
    file = by_type["application/octet-stream"]["captureData"]["endpointInput"]
    assert (file["encoding"], base64.b64decode(file["data"])) == ("BASE64", every_byte)
    import re

    pattern = prefix + r"\d{4}/\d\d/\d\d/\d\d/\d\d-\d\d-\d{3}-[0-9a-f-]{36}\.jsonl"
    assert all(re.fullmatch(pattern, record["key"]) for record in by_type.values())


def test_each_side_of_a_record_has_the_encoding_that_it_was_written_in(sandbox, endpoint, examples):
    """Without Accept the container answers CSV in JSON; a monitor sees that in the record."""
    for number, accept in enumerate(({}, {"Accept": "*/*"}, {"Accept": "text/csv"})):
        sandbox.invoke(endpoint, examples[0], InferenceId=f"encoded-{number}", **accept)

    def encodings() -> dict[str, list[tuple[str, str]]]:
        return {
            record["eventMetadata"]["inferenceId"]: [
                (side["observedContentType"].partition(";")[0], side["encoding"])
                for side in map(record["captureData"].get, ("endpointInput", "endpointOutput"))
            ]
            for record in captured(sandbox, f"{endpoint}/datacapture/")
            if record["eventMetadata"].get("inferenceId", "").startswith("encoded-")
        }

    until(lambda: len(encodings()) == 3, what="the capture")
    csv, both = ("text/csv", "CSV"), [("text/csv", "CSV"), ("application/json", "JSON")]
    assert encodings() == {"encoded-0": both, "encoded-1": both, "encoded-2": [csv, csv]}


# -- faults ---------------------------------------------------------------------------


def test_a_crashed_process_is_started_again(sandbox):
    deploy(sandbox, "crash", "one")
    status, code, _ = error_of(lambda: sandbox.invoke("crash", "die"))
    assert (status, code) == (503, "ServiceUnavailable")
    assert answer_of(sandbox.invoke("crash", "1")) == "one"


def test_a_crash_loop_becomes_failed_and_a_new_request_repairs_it(sandbox):
    deploy(sandbox, "loop", "one")
    for _ in range(6):
        with contextlib.suppress(ClientError):
            sandbox.invoke("loop", "die")
    sagemaker = sandbox.client("sagemaker")
    until(lambda: sagemaker.describe_endpoint(EndpointName="loop")["EndpointStatus"] == "Failed")
    stack = "mlops-pipeline-loop-byompipelinerealtimebuiltin-codepipeline"
    state, answer = sandbox.wait(stack)
    assert state == "Failed"
    assert "died" in json.dumps(answer)
    assert deploy(sandbox, "loop", "one")[0] == "Succeeded"
    assert answer_of(sandbox.invoke("loop", "1")) == "one"


def processes_of(folder) -> dict[str, list[int]]:
    """A sandbox's processes, by what they are."""
    listing = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True)
    found = {}
    for kind, pattern in {
        "server": rf"orchestrator\.sandbox {folder} ",
        "nursery": rf"sandbox nursery {folder}$",
        "front": rf"sandbox front {folder}$",
        "store": rf"sandbox store {folder}$",
        "weed": rf"-dir={folder}/store/data ",
        "endpoint": rf"sandbox endpoint \S+ {folder}$",
    }.items():
        lines = re.findall(rf"^ *(\d+) .*{pattern}", listing.stdout, re.M)
        found[kind] = [int(pid) for pid in lines]
    return found


def everything(folder) -> list[int]:
    return [pid for pids in processes_of(folder).values() for pid in pids]


def test_everything_is_back_after_every_process_was_killed(own_sandbox):
    sandbox = own_sandbox
    deploy(sandbox, "survivor", "one")
    stack = sandbox.client("cloudformation").describe_stacks()["Stacks"][0]
    sandbox.invoke("survivor", "before the kill")
    assert {kind: len(pids) for kind, pids in processes_of(sandbox.folder).items()} == {
        "server": 1, "nursery": 1, "front": front_count(), "store": 1, "weed": 1, "endpoint": 1,
    }  # fmt: skip
    for pid in everything(sandbox.folder):
        with contextlib.suppress(ProcessLookupError):  # SeaweedFS dies with the store's process
            os.kill(pid, signal.SIGKILL)
    until(lambda: not everything(sandbox.folder), what="the end of everything")
    shown = sandbox.project.script("status")
    assert shown.returncode == 1
    assert "make sandbox" in shown.stderr
    before = sandbox.url, sandbox.s3_url
    sandbox.start()
    assert (sandbox.url, sandbox.s3_url) == before
    assert answer_of(sandbox.invoke("survivor", "1")) == "one"
    again = sandbox.client("cloudformation").describe_stacks()["Stacks"][0]
    assert again["StackId"] == stack["StackId"]
    prefix = "survivor/datacapture/"
    until(lambda: len(captured(sandbox, prefix)) >= 1, what="the captured record")
    inputs = [r["captureData"]["endpointInput"]["data"] for r in captured(sandbox, prefix)]
    assert "before the kill" in inputs
    assert sandbox.client("s3").head_object(Bucket=sandbox.bucket, Key="survivor.tar.gz")


def test_predictions_go_on_while_the_sandbox_itself_is_killed_and_started_again(own_sandbox):
    deploy(own_sandbox, "steady", "one")
    kept = ("front", "store", "weed", "endpoint")
    before = processes_of(own_sandbox.folder)
    with Traffic(own_sandbox, "steady") as traffic:
        until(lambda: traffic.answers)
        os.kill(own_sandbox.pid, signal.SIGKILL)
        count = len(traffic.answers)
        until(lambda: len(traffic.answers) > count + 20)  # nobody has started it again yet
        assert own_sandbox.client("s3").list_buckets()["Buckets"]
        own_sandbox.start()
        count = len(traffic.answers)
        until(lambda: len(traffic.answers) > count + 20)
    assert traffic.failures == []
    after = processes_of(own_sandbox.folder)
    assert {kind: after[kind] for kind in kept} == {kind: before[kind] for kind in kept}
    assert after["server"] != before["server"]
    assert deploy(own_sandbox, "steady", "two")[0] == "Succeeded"  # and it has them in hand
    assert answer_of(own_sandbox.invoke("steady", "1")) == "two"


@pytest.mark.slow
def test_what_a_killed_sandbox_leaves_behind_ends_by_itself(own_sandbox):
    deploy(own_sandbox, "orphan", "one")
    os.kill(own_sandbox.pid, signal.SIGKILL)
    until(lambda: not everything(own_sandbox.folder), 40, "the end of everything")
    assert [path.name for path in (own_sandbox.folder / "run").glob("*.line")] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["front", "store", "weed", "nursery", "endpoint"])
def test_each_process_that_is_killed_is_started_again(own_sandbox, kind):
    deploy(own_sandbox, "whole", "one")
    before = processes_of(own_sandbox.folder)
    os.kill(before[kind][0], signal.SIGKILL)
    patient = Config(retries={"mode": "standard", "max_attempts": 10})

    def works() -> bool:
        runtime = own_sandbox.client("sagemaker-runtime", config=patient)
        answer = runtime.invoke_endpoint(EndpointName="whole", Body="1", ContentType="text/csv")
        own_sandbox.client("s3", config=patient).head_object(
            Bucket=own_sandbox.bucket, Key="whole.tar.gz"
        )
        return answer_of(answer) == "one"

    assert works()
    assert deploy(own_sandbox, "another", "two")[0] == "Succeeded"
    after = processes_of(own_sandbox.folder)
    assert len(after[kind]) >= 1 and before[kind][0] not in after[kind]
    untouched = {"server", "front", "nursery", "store", "weed"} - {kind}
    if kind == "store":  # SeaweedFS is the store's child
        untouched -= {"weed"}
    assert {k: after[k] for k in untouched} == {k: before[k] for k in untouched}
    # Nothing of a process that is no more: each has a folder, an endpoint's with where it is asked.
    run, endpoints = own_sandbox.folder / "run", len(after["endpoint"])
    until(
        lambda: len(list(run.glob("*/line"))) == front_count() + 1 + endpoints, what="no line left"
    )
    until(
        lambda: len(list(run.glob("*-*/"))) == front_count() + 1 + endpoints, what="no folder left"
    )
    until(lambda: len(list(run.glob("*/sock"))) == endpoints, what="no socket left")


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.5, 0.8, 1.2])
def test_an_operation_interrupted_by_kill_9_is_finished_after_the_restart(own_sandbox, delay):
    sandbox = own_sandbox
    deploy(sandbox, "cut", "one")
    sandbox.upload(echo_archive("two"), "cut.tar.gz")
    pipeline_id = sandbox.provision(sandbox.payload("cut", model_artifact_location="cut.tar.gz"))
    time.sleep(delay)
    os.kill(sandbox.pid, signal.SIGKILL)
    sandbox.start()
    state, answer = sandbox.wait(pipeline_id)
    assert state == "Succeeded", answer
    assert answer_of(sandbox.invoke("cut", "1")) == "two"
    assert len(list((sandbox.folder / "models").iterdir())) == 1


def test_a_second_start_and_a_taken_port_are_no_puzzle(own_sandbox, tmp_path):
    again = own_sandbox.project.script("sandbox", "up", "--json")
    assert json.loads(again.stdout)["pid"] == own_sandbox.pid
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        other = {"SANDBOX_DIR": str(tmp_path / "other"), "SANDBOX_PORT": port}
        refused = own_sandbox.project.script("sandbox", "up", **other)
    assert refused.returncode == 1
    assert f"port {port} is taken" in refused.stderr
    assert "SANDBOX_PORT=" in refused.stderr


@pytest.mark.slow
def test_two_that_are_started_at_the_same_moment_get_ports_of_their_own(project, tmp_path):
    folders = [tmp_path / name for name in "abc"]

    def start(folder):
        return project.script("sandbox", "up", "--json", SANDBOX_DIR=str(folder))

    try:
        with ThreadPoolExecutor(len(folders)) as pool:
            started = list(pool.map(start, folders))
        assert [result.returncode for result in started] == [0, 0, 0], started
        urls = {json.loads(result.stdout)[key] for result in started for key in ("url", "s3_url")}
        assert len(urls) == 6
    finally:
        for folder in folders:
            project.script("sandbox", "down", SANDBOX_DIR=str(folder))


def test_a_stale_status_file_does_not_stop_a_start(own_sandbox):
    own_sandbox.project.script("sandbox", "down")
    status = json.loads((own_sandbox.folder / "status.json").read_text())
    assert status["state"] == "stopped"
    stale = status | {"state": "running", "pid": os.getpid()}  # a living process, but no sandbox
    (own_sandbox.folder / "status.json").write_text(json.dumps(stale))
    own_sandbox.start()
    assert own_sandbox.pid != os.getpid()


def answers(sandbox, endpoint: str, expected: str) -> bool:
    """Whether the endpoint is back: while it starts, it is not found."""
    with contextlib.suppress(ClientError):
        return answer_of(sandbox.invoke(endpoint, "1")) == expected
    return False


@pytest.mark.slow
def test_a_sandbox_of_old_code_is_started_again_and_its_endpoints_too(project, tmp_path):
    from conftest import Sandbox, own_checkout

    checkout = own_checkout(project, tmp_path / "checkout")
    sandbox = Sandbox(checkout, tmp_path / "sandbox")
    try:
        deploy(sandbox, "aged", "one")
        before = processes_of(sandbox.folder)
        assert sandbox.project.script("sandbox", "up").stderr == ""
        assert processes_of(sandbox.folder) == before
        with open(checkout.folder / "orchestrator" / "news.py", "a") as file:
            file.write("# changed\n")
        again = sandbox.project.script("sandbox", "up")
        assert again.returncode == 0, again.stderr + sandbox.log()
        assert again.stderr.startswith("sandbox: the code changed; restarting\n")
        until(lambda: answers(sandbox, "aged", "one"), what="the endpoint")
        after = processes_of(sandbox.folder)
        assert [kind for kind in before if set(before[kind]) & set(after[kind])] == []
        status = json.loads((sandbox.folder / "status.json").read_text())
        status["started_from"] |= {"scikit-learn": "0.1", "WEED": "/elsewhere"}
        (sandbox.folder / "status.json").write_text(json.dumps(status))
        again = sandbox.project.script("sandbox", "up")
        assert again.stderr.startswith("sandbox: scikit-learn and WEED changed; restarting\n")
        del status["started_from"]  # of a version that wrote nothing of the kind
        (sandbox.folder / "status.json").write_text(
            json.dumps(status | {"pid": processes_of(sandbox.folder)["server"][0]})
        )
        assert "the code and " in sandbox.project.script("sandbox", "up").stderr
    finally:
        sandbox.project.script("sandbox", "down")


@pytest.mark.parametrize("content", ["", '{"state": "run', "[1]", "{}", '{"state": 1}', "\0"])
@pytest.mark.parametrize("name", ["status.json", "credentials.json"])
def test_a_file_of_ours_that_is_damaged_is_one_line_with_the_way_out(
    name, content, monkeypatch, tmp_path
):
    from clients import sandbox as client
    from common.errors import TargetError
    from orchestrator.sandbox.places import NotOurs, Places, load_credentials

    status = {"state": "running", "url": "http://a:1", "s3_url": "http://a:2", "pid": 1}
    (tmp_path / "status.json").write_text(json.dumps(status))
    (tmp_path / name).write_text(content)
    monkeypatch.setattr(client, "FOLDER", tmp_path)
    monkeypatch.setattr(client, "_pids", lambda: [1])
    for ask in (
        (client.environment, client.status) if name == "status.json" else (client.environment,)
    ):
        with pytest.raises(TargetError, match=f"{name} is not as the sandbox wrote it") as error:
            ask()
        path = tmp_path / name
        assert error.value.remedy == f"mv {path} {path}.old && make sandbox-down sandbox"
    if name == "credentials.json":
        with pytest.raises(NotOurs, match="holds no pair of keys") as error:
            load_credentials(Places(tmp_path))
        assert error.value.file == tmp_path / name
        assert (tmp_path / name).read_text() == content


@pytest.mark.slow
def test_the_way_out_of_damaged_files_leads_back_to_a_sandbox_with_its_objects(own_sandbox):
    sandbox = own_sandbox
    sandbox.upload(b"1", "kept")
    for name in ("status.json", "credentials.json"):
        (sandbox.folder / name).write_text("")
        failed = sandbox.project.script("status")
        assert failed.returncode == 1 and "Traceback" not in failed.stderr
        move, _, rest = failed.stderr.split("next: ")[1].strip().partition(" && ")
        assert rest == "make sandbox-down sandbox"
        subprocess.run(move.split(), check=True, cwd=sandbox.project.folder)
        assert sandbox.project.script("sandbox", "down").returncode == 0
        assert everything(sandbox.folder) == []
        sandbox.start()
        assert sandbox.client("s3").get_object(Bucket=sandbox.bucket, Key="kept")["Body"].read()
    (sandbox.folder / "credentials.json").write_text("{}")
    sandbox.project.script("sandbox", "down")
    failed = sandbox.project.script("sandbox", "up")
    assert failed.returncode == 1
    file = sandbox.folder / "credentials.json"
    assert f"holds no pair of keys.\n  next: mv {file} {file}.old && make sandbox" in failed.stderr


def test_stopping_leaves_no_process_and_says_so(own_sandbox):
    deploy(own_sandbox, "ending", "one")
    assert len(processes_of(own_sandbox.folder)["endpoint"]) == 1
    assert own_sandbox.project.script("sandbox", "down").returncode == 0
    assert everything(own_sandbox.folder) == []
    assert json.loads((own_sandbox.folder / "status.json").read_text())["state"] == "stopped"
    left = sorted(path.name for path in (own_sandbox.folder / "run").iterdir())
    assert left in (["control.sock", "routes"], ["routes"])


@pytest.mark.slow
def test_a_custom_image_is_stood_for_by_a_command(custom):
    sandbox, payload = custom
    assert answer_of(sandbox.invoke("custom", "hello")) == "custom hello"
    until(lambda: len(captured(sandbox, "custom/datacapture/")) == 1, what="the capture")
    state, answer = sandbox.wait(
        sandbox.provision(payload | {"custom_image_uri": "registry/custom:2"})
    )
    assert state == "Failed"
    assert "sandbox.commands in params.yaml" in json.dumps(answer)
    assert answer_of(sandbox.invoke("custom", "still")) == "custom still"
    deploy(sandbox, "plain", "one")
    before = processes_of(sandbox.folder)
    sandbox.project.set_params(
        {"sandbox": {"commands": {"registry/custom:1": "python -u server.py"}}}
    )
    with Traffic(sandbox, "plain") as traffic:
        until(lambda: traffic.answers)
        again = sandbox.project.script("sandbox", "up")
        count = len(traffic.answers)
        until(lambda: len(traffic.answers) > count + 20)
    assert traffic.failures == []
    assert again.stderr.startswith("sandbox: sandbox.commands changed; restarting\n")
    until(lambda: answers(sandbox, "custom", "custom 1"), what="the endpoint")
    after = processes_of(sandbox.folder)
    assert len(set(before["endpoint"]) & set(after["endpoint"])) == 1
    assert after["server"] != before["server"] and after["store"] == before["store"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB, where we may make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_breaks_nothing(project, small_disk):
    from conftest import Sandbox

    sandbox = Sandbox(project, small_disk / "sandbox")
    try:
        deploy(sandbox, "tight", "one")
        with pytest.raises((ClientError, BotoCoreError)):
            sandbox.upload(os.urandom(4 * 1024 * 1024), "big")
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert answer_of(sandbox.invoke("tight", "1")) == "one"
        status, text = sandbox.post(
            "/provisionpipeline", sandbox.payload("more", model_artifact_location="tight.tar.gz")
        )
        assert status >= 400, text
        filler.unlink()
        assert deploy(sandbox, "tight", "two")[0] == "Succeeded"
        assert answer_of(sandbox.invoke("tight", "1")) == "two"
    finally:
        sandbox.project.script("sandbox", "down")
