"""TARGET=aws from end to end, against stand-ins: moto for AWS's control plane, our own
endpoint process for its data plane, and a gateway that checks signatures and runs the handler.

Nothing here reaches AWS. What moto lacks is named where it is made up for.
"""

import hashlib
import json
import os
import re
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import moto.cloudformation.models as moto_models
import pytest
from botocore.awsrequest import AWSResponse
from cfnlint.decode import cfn_yaml
from conftest import ROOT, SHARED
from moto import mock_aws
from moto.core.botocore_stubber import MockRawResponse
from moto.server import ThreadedMotoServer
from test_serving import Process
from test_template import ACTIONS, OF_MAKE_MONITOR, granted

from orchestrator import environment
from orchestrator.handler import handler
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.gate import Gate, scope_of
from orchestrator.sandbox.hosting.archive import unpack

ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
STACK = "pulsar-orchestrator"
PAYLOAD = "payloads/pulsar-realtime.json"


class Gateway:
    """API Gateway and SageMaker's runtime: a signature is checked, then somebody answers."""

    def __init__(self, tmp_path_factory, nursery) -> None:
        self.environment: dict[str, str] = {}  # of the Lambda function
        self.processes: dict[str, Process] = {}
        self._folders = tmp_path_factory
        self._nursery = nursery
        gateway, gate = self, Gate("testing", "testing", "us-east-1")

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                headers = {key.lower(): value for key, value in self.headers.items()}
                try:
                    claim, digest = scope_of(headers), hashlib.sha256(body).hexdigest()
                    service = claim.service if claim else ""
                    gate.check("POST", self.path, "", headers, digest, claim, service)
                except AwsError as error:
                    self.answer(error.status, json.dumps({"message": error.message}).encode())
                    return
                self.answer(*gateway.serve(self.path, headers, body))

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def serve(self, path: str, headers: dict, body: bytes) -> tuple[int, bytes]:
        if path.startswith("/endpoints/"):
            status, _, content = self.process().request(
                "POST",
                "/invocations",
                {"Content-Type": headers["content-type"], "Accept": "text/csv"},
                body,
            )
            return status, content
        os.environ |= self.environment
        event = {"httpMethod": "POST", "path": path.removeprefix("/prod"), "body": body.decode()}
        answer = handler(event, None)
        return answer["statusCode"], answer["body"].encode()

    def process(self) -> Process:
        """The process for the model that the stack's endpoint was given."""
        sagemaker = boto3.client("sagemaker")
        name = sagemaker.list_models()["Models"][0]["ModelName"]
        if name not in self.processes:
            container = sagemaker.describe_model(ModelName=name)["PrimaryContainer"]
            bucket, _, key = container["ModelDataUrl"].removeprefix("s3://").partition("/")
            folder = self._folders.mktemp("m")
            boto3.client("s3").download_file(bucket, key, str(folder / "model.tar.gz"))
            unpack(folder / "model.tar.gz", folder / "model")
            self.processes[name] = Process(
                self._nursery,
                folder,
                {},
                image=container["Image"],
                environment=container["Environment"],
            )
        return self.processes[name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for process in self.processes.values():
            process.stop()


@pytest.fixture
def aws(project, tmp_path_factory, monkeypatch, nursery):
    """The environment of a user with an AWS account, and the gateway in front of it."""
    apply = moto_models.ChangeSet.apply

    def apply_with_outputs(self) -> None:
        apply(self)
        # moto forgets the outputs of a change set
        self.stack.template = self.template
        self.stack._parse_template()
        self.stack.output_map = self.stack._create_output_map()

    monkeypatch.setattr(moto_models.ChangeSet, "apply", apply_with_outputs)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    account = ACCOUNT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    for key, value in (account | {"AWS_REGION": "us-east-1"}).items():
        monkeypatch.setenv(key, value)
    # moto's memory is this process's: another test may have filled it.
    reset = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=10).close()
    environment.client.cache_clear()
    gateway = Gateway(tmp_path_factory, nursery)
    user = account | {
        "TARGET": "aws",
        "YES": "1",
        "ORCHESTRATOR_URL": f"{gateway.url}/prod/",
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": gateway.url,
    }
    yield user, gateway
    gateway.close()
    for key in gateway.environment:  # the handler ran in this process, with the function's own
        os.environ.pop(key, None)
    environment.client.cache_clear()
    server.stop()


FOREIGN = "mlops-pipeline-theirs-byompipelinerealtimebuiltin-codepipeline"
QUEUE = json.dumps({"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}})


def owned_by(orchestrator: str | None) -> list[dict]:
    return [{"Key": "orchestrator", "Value": orchestrator}] if orchestrator else []


# Loaded by every Python of a client, the AWS CLI's too: writes down what is asked of AWS.
WITNESS = """
import os
import sys
from botocore.client import BaseClient
original = BaseClient._make_api_call
def call(self, name, parameters):
    service = self.meta.service_model.service_name
    with open(os.environ["CALLS"], "a") as file:
        file.write(f"{service}:{name}\\n")
    if service == "s3":
        self.meta.events.register_last("before-call.s3", check)
    return original(self, name, parameters)
BaseClient._make_api_call = call
def check(model, params, **_):
    # `aws s3 cp` and `aws cloudformation package` cannot say whose bucket it must be.
    if "x-amz-expected-bucket-owner" in params["headers"] or "awscli" in sys.argv[0]:
        return
    if "ExpectedBucketOwner" in model.input_shape.members:
        with open(os.environ["CALLS"] + ".unowned", "a") as file:
            file.write(f"{model.name}\\n")
"""


def test_launch_deploy_predict_destroy_land(project, aws, monkeypatch, tmp_path):
    user, gateway = aws
    (tmp_path / "sitecustomize.py").write_text(WITNESS)
    calls = tmp_path / "calls"
    user = user | {"PYTHONPATH": str(tmp_path), "CALLS": str(calls)}

    def script(*command: str, code: int = 0, **more: str):
        result = project.script(*command, **user | more)
        assert result.returncode == code, result.stdout + result.stderr
        return result

    launched = script("launch", "--json")
    assert "a month" in launched.stderr  # the cost is told before
    outputs = json.loads(launched.stdout)
    assert outputs["AssetsBucket"].startswith(f"{STACK}-assets-")
    function = boto3.client("lambda").get_function(FunctionName=f"{STACK}-handler")
    gateway.environment = function["Configuration"]["Environment"]["Variables"]
    for key in gateway.environment:
        monkeypatch.delenv(key, raising=False)

    calls.unlink()  # whoever launches is an administrator; from here on it is a client
    script("upload")
    refused = script("provision", code=1, YES="")
    assert "YES=1" in refused.stderr
    assert boto3.client("sagemaker").list_endpoints()["Endpoints"] == []
    provisioned = script("provision")
    assert "83.95" in provisioned.stderr
    assert "success: stack creation started" in provisioned.stdout
    assert "Succeeded" in script("status", "--wait").stdout
    predicted = json.loads(script("predict", "--json").stdout)
    assert [row["label"] for row in predicted["predictions"]] == [1, 0]
    # moto gives the endpoint a name of its own; what it was trained on is found under that.
    name = boto3.client("sagemaker").list_endpoints()["Endpoints"][0]["EndpointName"]
    there = json.loads(script("predict", "--json", "--endpoint", name).stdout)
    assert there["trained_on"].lower() == project.read("data/source.json")["source"].lower()
    assert "already provisioned" in script("provision").stdout

    # Another orchestrator has a pipeline in the same account.
    cloudformation = boto3.client("cloudformation")
    cloudformation.create_stack(StackName=FOREIGN, TemplateBody=QUEUE, Tags=owned_by("another"))
    script("destroy", code=1, YES="")
    assert len(boto3.client("sagemaker").list_endpoints()["Endpoints"]) == 1
    script("destroy")
    assert boto3.client("sagemaker").list_endpoints()["Endpoints"] == []

    template = cfn_yaml.load(str(ROOT / "orchestrator" / "template.yaml"))
    allowed = granted(template, "ClientPolicy") - {"execute-api:Invoke"}
    needed = set().union(*(ACTIONS.get(call, {call}) for call in set(calls.read_text().split())))
    assert needed | OF_MAKE_MONITOR == allowed

    script("land", code=1, YES="")
    landed = script("land")
    assert "nothing is left" in landed.stdout
    assert boto3.client("s3").list_buckets()["Buckets"] == []
    assert "nothing of" in script("land").stderr
    left = [stack["StackName"] for stack in cloudformation.describe_stacks()["Stacks"]]
    assert left == [FOREIGN]
    assert not Path(f"{calls}.unowned").exists()


def test_a_wrong_secret_is_refused_by_the_gateway(project, aws):
    user, _ = aws
    assert project.script("launch", **user).returncode == 0
    wrong = user | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    result = project.script("status", PAYLOAD, **wrong)
    assert result.returncode == 1
    assert "403" in result.stderr


def test_without_the_word_aws_nothing_is_launched_or_landed(project, aws):
    user, _ = aws
    for name in ("launch", "land"):
        result = project.script(name, **user | {"TARGET": "local"})
        assert result.returncode == 1
        assert "TARGET=aws" in result.stderr
    assert boto3.client("cloudformation").describe_stacks()["Stacks"] == []


# -- several orchestrators in an account ----------------------------------------------


@pytest.mark.parametrize(
    ("place", "taken"),
    [
        ({"orchestrator": "ours"}, ["ours"]),
        ({"orchestrator": "mlops", "is_original": True}, ["nobody"]),
        ({}, ["another", "nobody", "ours"]),  # the sandbox
    ],
)
def test_only_ones_own_pipelines_are_destroyed(monkeypatch, tmp_path, place, taken):
    from clients import stacks
    from clients.target import Target
    from common.errors import TargetError

    for key, value in ACCOUNT.items():
        monkeypatch.setenv(key, value)
    with mock_aws():
        cloudformation = boto3.client("cloudformation")
        names = {o: f"mlops-pipeline-{o}-byompipelinerealtimecustom-codepipeline"
                 for o in ("another", "nobody", "ours")}  # fmt: skip
        for owner, name in names.items():
            tags = owned_by(None if owner == "nobody" else owner)
            cloudformation.create_stack(StackName=name, TemplateBody=QUEUE, Tags=tags)
        cloudformation.create_stack(StackName="no-pipeline", TemplateBody=QUEUE)
        here = Target("https://x/", "b", boto3.Session(), **place)
        assert sorted(stacks.find(here, None)) == [names[owner] for owner in taken]
        for owner, name in names.items():
            payload = tmp_path / f"{owner}.json"
            body = {"pipeline_type": "byom_realtime_custom", "model_name": owner}
            payload.write_text(json.dumps(body))
            if owner in taken:
                assert name in stacks.find(here, payload)
            else:
                maker = "somebody else" if owner == "nobody" else f"the orchestrator {owner}"
                with pytest.raises(TargetError, match=f"{name} was made by {maker}"):
                    stacks.find(here, payload)


@pytest.fixture
def sniped(monkeypatch):
    """A session in whose S3 every bucket there is belongs to another account."""

    def answer(request, **_):
        owner = request.headers.get("x-amz-expected-bucket-owner", THEIRS)
        status = 200 if owner in (THEIRS, THEIRS.encode()) else 403
        return AWSResponse(request.url, status, {}, MockRawResponse(b""))

    for key, value in ACCOUNT.items():
        monkeypatch.setenv(key, value)
    session = boto3.Session()
    session.events.register("before-send.s3", answer)
    with mock_aws():
        yield session


THEIRS = "999999999999"


def test_a_bucket_of_another_account_is_never_given_our_code_or_model(sniped):
    """Their names can be guessed: whoever makes them first would be sent both."""
    import launch
    import upload
    from clients.target import Target
    from common.errors import TargetError

    with pytest.raises(TargetError, match="is another account's") as caught:
        launch.code_bucket(sniped)
    assert "STACK=" in caught.value.remedy
    place = Target("https://x/", "pulsar-assets", sniped, account="123456789012")
    with pytest.raises(TargetError, match="403") as caught:
        upload.released(place)
    assert "own account" in caught.value.remedy


# -- the original as a guest's host ---------------------------------------------------

ORIGINAL_OUTPUTS = {
    "PipelineOrchestrationLambdaRestApiEndpoint9B628338": "https://x.execute-api.us-east-1.amazonaws.com/prod/",
    "AssetsBucket": "https://s3.console.aws.amazon.com/s3/buckets/mlops-assets",
    "BlueprintsBucket": "https://s3.console.aws.amazon.com/s3/buckets/mlops-blueprints",
}


def test_the_originals_outputs_are_understood(monkeypatch):
    from clients import target

    monkeypatch.delenv("ORCHESTRATOR_URL", raising=False)
    session = boto3.Session(region_name="us-east-1")
    place = target._from_outputs(ORIGINAL_OUTPUTS, session, "mlops", "123456789012")
    assert place.url == "https://x.execute-api.us-east-1.amazonaws.com/prod/"
    assert place.bucket == "mlops-assets"
    assert place.is_original


def test_what_the_original_cannot_serve_is_told_before_it_is_provisioned():
    import provision
    from clients import target
    from common.errors import TargetError

    place = target.Target(
        "https://x/", "b", boto3.Session(region_name="us-east-1"), is_original=True
    )
    builtin = {"pipeline_type": "byom_realtime_builtin", "model_framework": "sklearn"}
    with pytest.raises(TargetError, match="SAGEMAKER_PROGRAM"):
        provision.check_original(place, builtin)
    provision.check_original(place, {"pipeline_type": "byom_realtime_custom"})


VECTORS = SHARED / "reference" / "orchestrator-vectors.json"


@pytest.fixture
def original(project):
    """A server that gives the original's recorded answers, and the environment to reach it."""
    if not VECTORS.exists():
        pytest.skip("no recorded answers at hand")
    vectors = {v["id"]: v["response"] for v in json.loads(VECTORS.read_text())["vectors"]}
    chosen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")
            answer = vectors[chosen[-1]]
            body = answer["body_raw"].encode()
            self.send_response(answer["statusCode"])
            self.send_header("Content-Type", "plain/text")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    there = {
        "ORCHESTRATOR_URL": f"{url}/prod/",
        "AWS_ENDPOINT_URL": url,
        "ASSETS_BUCKET": "mlops-assets",
    }

    def ask(vector: str, *command: str):
        chosen.append(vector)
        return project.script(*command, **ACCOUNT | there)

    yield ask
    server.shutdown()
    server.server_close()


def test_what_may_pass_is_tried_again(monkeypatch):
    from clients import api, target

    answers = [503, 429, 200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(answers.pop(0))
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments):
            pass

    waited = []
    monkeypatch.setattr(api.time, "sleep", waited.append)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    place = target.Target(f"http://127.0.0.1:{server.server_port}/prod/", "b", session)
    assert api.post(place, "/pipelinestatus", {}) == (200, "{}")
    assert waited == [2, 4]
    server.shutdown()
    server.server_close()
    with pytest.raises(api.TargetError, match="does not answer"):
        api.post(place, "/pipelinestatus", {})


def test_our_clients_read_the_originals_answers(project, original):
    made = original("valid/byom_realtime_builtin", "provision")
    assert made.returncode == 0
    assert "success: stack creation started" in made.stdout
    again = original("already_provisioned/byom_realtime_builtin", "provision", "--json")
    assert "already provisioned" in json.loads(again.stdout)["message"]
    missing = original("missing/byom_realtime_builtin/model_name", "provision")
    assert missing.returncode == 1
    assert "necessary parameter: model_name" in missing.stderr
    early = original("status/before_pipeline", "status", PAYLOAD)  # a bare sentence, not JSON
    assert early.returncode == 2
    assert "not provisioned yet" in early.stdout
    running = original("status/valid", "status", PAYLOAD)
    assert running.returncode == 2
    assert re.search("DeployCloudFormation +InProgress", running.stdout)
    unknown = original("status/unknown_id", "status", PAYLOAD)
    assert unknown.returncode == 1
    assert "there is no pipeline" in unknown.stderr
    (project.folder / "batch.json").write_text(
        '{"pipeline_type": "byom_batch_builtin", "model_name": "M"}'
    )
    batch = original("status/valid", "status", "batch.json")  # a type that only the original has
    assert batch.returncode == 2
    short = original("detailed_off/400", "provision")  # without detailedMessage
    assert "A BadRequest exception occurred" in short.stderr


def test_a_signature_is_what_the_published_algorithm_says():
    """One request signed by our client, and the signature worked out by hand.

    Signature Version 4 as AWS publishes it: canonical request, string to sign, signing key.
    """
    import hashlib
    import hmac

    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    body = '{"pipeline_id": "x"}'
    request = AWSRequest(
        "POST", "https://api.example/prod/pipelinestatus", data=body,
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    SigV4Auth(Credentials("KEY", "SECRET"), "execute-api", "us-east-1").add_auth(request)
    stamp = request.headers["X-Amz-Date"]
    signed = "content-type;host;x-amz-date"
    canonical = "\n".join(
        ["POST", "/prod/pipelinestatus", "", "content-type:application/json", "host:api.example",
         f"x-amz-date:{stamp}", "", signed, hashlib.sha256(body.encode()).hexdigest()]
    )  # fmt: skip
    scope = f"{stamp[:8]}/us-east-1/execute-api/aws4_request"
    to_sign = "\n".join(
        ["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = b"AWS4SECRET"
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    assert request.headers["Authorization"] == (
        f"AWS4-HMAC-SHA256 Credential=KEY/{scope}, SignedHeaders={signed}, Signature={signature}"
    )


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        ("ExpiredToken", "The security token included in the request is expired", "aws sso login"),
        ("AccessDenied", "not authorized to perform: cloudformation:CreateStack", "permission"),
        ("ResourceLimitExceeded", "The account-level service limit is 0 Instances", "quota"),
        ("PermanentRedirect", "must be addressed using the specified endpoint", "another region"),
        ("Throttling", "Rate exceeded", "a minute"),
    ],
)
def test_what_aws_refuses_is_one_line_with_what_to_do(code, message, words):
    from botocore.exceptions import ClientError

    from clients.refusals import explained
    from common.errors import TargetError

    with pytest.raises(TargetError) as caught, explained():
        raise ClientError({"Error": {"Code": code, "Message": message}}, "Operation")
    assert message in str(caught.value)
    assert words in caught.value.remedy


def test_prices_are_dated_and_say_where_they_are_from():
    from clients import costs

    prices = json.loads(costs.PRICES.read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", prices["as_of"])
    assert prices["source"]
    unknown = costs.estimate({"inference_instance": "ml.zz.large"})[-1]
    assert unknown["per_month"] is None


@pytest.mark.parametrize(
    ("expression", "checks"),
    [
        ("cron(0 * ? * * *)", 730),
        ("cron(0 6 ? * * *)", 730 / 24),
        ("cron(0 6 ? * MON-FRI *)", 730 / 24 * 5 / 7),
        ("cron(0 0 1 1 ? 1999)", 0),
    ],
)
def test_a_monitor_costs_what_its_schedule_makes_of_ten_minutes(expression, checks):
    from clients import costs

    payload = {
        "schedule_expression": expression, "endpoint_name": "pulsar",
        "instance_type": "ml.m5.large",
    }  # fmt: skip
    row = costs.estimate(payload)[-1]
    assert row["billed"] == "0.0192 per check of 10 minutes"
    assert row["per_month"] == pytest.approx(0.115 / 6 * checks, rel=0.01)
    assert "monitor of pulsar, ml.m5.large" in costs.table([row])
    for other in ({"instance_type": "ml.zz.large"}, {"schedule_expression": "soon"}):
        assert costs.estimate(payload | other)[-1]["per_month"] is None


def test_a_batch_costs_by_the_hour_and_nobody_knows_how_many():
    from clients import costs

    payload = {"batch_inference_data": "a/b", "inference_instance": "ml.m5.large"}
    row = costs.estimate(payload)[-1]
    assert row == {
        "what": "batch job, ml.m5.large",
        "billed": "0.115 per hour while it runs",
        "per_month": None,
    }
