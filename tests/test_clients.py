"""The clients, run as a user runs them: output, exit codes, errors."""

import io
import json
import os
import re
import subprocess
import tarfile
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from conftest import IMAGE, ROOT, Project, clean_environment

from orchestrator import pipelines
from scoring.packing import pack

PAYLOAD = "payloads/pulsar-realtime.json"
PROXIES = dict.fromkeys(
    ("http_proxy", "https_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:9"
) | {"no_proxy": "corp.example"}
# Every file directly in scripts/ is a command; setup.py runs before there is anything to run with.
COMMANDS = sorted({path.stem for path in (ROOT / "scripts").glob("*.py")} - {"setup"})


@pytest.fixture(scope="module")
def deployed(project, sandbox):
    """The project's own pipeline in service, made with the clients."""
    for command in (["upload"], ["provision", PAYLOAD], ["status", "--wait", PAYLOAD]):
        result = project.script(*command)
        assert result.returncode == 0, result.stderr
    return project


@pytest.mark.parametrize("name", [*COMMANDS, "dev/bench", "dev/lock"])
def test_every_script_runs_alone_with_help(project, name):
    result = project.script(name, "--help")
    assert result.returncode == 0
    assert f"python scripts/{name}.py" in result.stdout


def test_status_shows_stages_and_exits_with_0_in_service(deployed):
    result = deployed.script("status", PAYLOAD)
    assert result.returncode == 0
    assert re.search(r"Source +Succeeded", result.stdout)
    assert re.search(r"DeployCloudFormation +Succeeded", result.stdout)
    assert json.loads(deployed.script("status", "--json", PAYLOAD).stdout)["stageStates"]


def test_status_of_a_failed_pipeline_says_why_and_exits_with_1(deployed, sandbox):
    sandbox.upload(b"no archive", "broken.tar.gz")
    payload = sandbox.payload("broken", model_artifact_location="broken.tar.gz")
    (deployed.folder / "broken.json").write_text(json.dumps(payload))
    assert deployed.script("provision", "broken.json").returncode == 0
    result = deployed.script("status", "--wait", "broken.json")
    assert result.returncode == 1
    assert "why: Endpoint: The model data at s3://" in result.stdout
    listed = deployed.script("status")
    assert listed.returncode == 1  # the worst of all
    assert re.search(r"^broken +byom_realtime_builtin +failed +[0-9a-f]{12} +\d+ s ago$",
                     listed.stdout, re.M)  # fmt: skip
    assert re.search(r"^pulsar +byom_realtime_builtin +in service +[0-9a-f]{12} ",
                     listed.stdout, re.M)  # fmt: skip
    assert "why: Endpoint: The model data at s3://" in listed.stdout
    assert deployed.script("destroy", "broken.json").returncode == 0


def test_status_alone_lists_every_pipeline_and_a_name_shows_one(deployed):
    listed = json.loads(deployed.script("status", "--json").stdout)
    assert any("-pulsar-" in state["pipelineName"] for state in listed)
    one = deployed.script("status", "pulsar")
    assert one.returncode == 0
    assert one.stdout == deployed.script("status", PAYLOAD).stdout


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (61, "1 min"), (7200, "2 h"), (86400 * 3, "3 days")],
)
def test_an_age_is_told_in_the_largest_unit_that_fits(seconds, words):
    import status

    then = datetime.now(UTC) - timedelta(seconds=seconds)
    assert status.age(then.isoformat()) == f"{words} ago"


def test_the_worst_pipeline_gives_the_exit_code():
    from status import worst

    assert [worst(v) for v in ([0, 2, 1], [0, 2], [0, 0])] == [1, 2, 0]


@pytest.mark.parametrize(
    ("stages", "code"),
    [
        (["Succeeded", "Succeeded"], 0),
        (["Succeeded", "Failed"], 1),
        (["Succeeded", "InProgress"], 2),
        (["Succeeded", None], 2),
        ([], 2),
    ],
)
def test_the_originals_states_give_the_exit_codes(stages, code):
    from clients.api import verdict

    state = {
        "stageStates": [
            {"stageName": str(i), "actionStates": []}
            | ({"latestExecution": {"status": s}} if s else {})
            for i, s in enumerate(stages)
        ]
    }
    assert verdict(state) == code


def test_predict_tells_a_pulsar_from_noise_and_names_the_data(deployed):
    result = deployed.script("predict")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("endpoint pulsar, trained on ")
    assert re.match(r" +1  PULSAR +\d\.\d+  pulsar +eight$", lines[2])
    assert re.match(r" +2  noise +\d\.\d+  noise +eight$", lines[3])


def test_predict_takes_values_a_file_or_standard_input(deployed, examples):
    values = deployed.script("predict", "--json", *examples[0].split(","))
    assert values.returncode == 0, values.stderr
    expected = json.loads(values.stdout)["predictions"]
    (deployed.folder / "night.csv").write_text(examples[0] + "\n")
    from_file = deployed.script("predict", "--json", "--input", "night.csv")
    assert json.loads(from_file.stdout)["predictions"] == expected
    piped = subprocess.run(
        ["python", "scripts/predict.py", "--json", "--input", "-"], cwd=deployed.folder,
        env=deployed.environment, input=examples[0], capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(piped.stdout)["predictions"] == expected


def test_predict_names_the_model_that_scored_a_foreign_curve(deployed):
    """PSR J1748-2446A as PRESTO folds it: its DM curve is a reduced chi^2 in the hundreds."""
    row = "18.65,51.2,3.589,11.89,374.5,249.0,0.921,-0.408"
    answer = deployed.script("predict", "--json", "--", *row.split(","))
    assert answer.returncode == 0, answer.stderr
    (prediction,) = json.loads(answer.stdout)["predictions"]
    assert (prediction["model"], prediction["label"]) == ("six", 1)


def test_predict_through_the_inference_api_gets_the_same_answer(deployed):
    direct = json.loads(deployed.script("predict", "--json").stdout)
    through = deployed.script("predict", "--json", "--api")
    assert through.returncode == 0, through.stderr
    for prediction in direct["predictions"]:
        assert prediction.pop("model") == "eight"
    assert json.loads(through.stdout) == direct


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "1", "2"], "2 columns, not 8"),
        (["predict", "--input", "nowhere.csv"], "nowhere.csv: No such file"),
        (["predict", "--endpoint", "nowhere"], "Endpoint nowhere"),
        (
            ["predict", "1", "2", "3", "4", "5", "6", "7", "x"],
            "row 1: column 8 (dm_kurtosis) is no number",
        ),
        (["provision", "nowhere.json"], "nowhere.json: No such file"),
        (["provision", "Makefile"], "is not JSON"),
        (["status", "--id", "nowhere"], "there is no pipeline nowhere"),
        (["status", "params.yaml"], "is not JSON"),
        (["status", "models/model.tar.gz"], "is not JSON"),
        (["status", "nowhere"], "there is no pipeline nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(deployed, arguments, words):
    result = deployed.script(*arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_refused_payload_is_told_in_the_orchestrators_words(deployed):
    (deployed.folder / "bad.json").write_text('{"pipeline_type": "byom_realtime_builtin"}')
    result = deployed.script("provision", "bad.json")
    assert result.returncode == 1
    assert "API body does not have the necessary parameter: model_name" in result.stderr


def test_dry_run_prints_request_and_plan_and_sends_nothing(deployed):
    result = deployed.script("provision", "--dry-run", "--json", PAYLOAD)
    shown = json.loads(result.stdout)
    assert shown["body"]["data_capture_location"] == "pulsar-assets/pulsar/datacapture"
    assert shown["body"]["model_framework_version"] == IMAGE
    types = [item["Type"] for item in shown["plan"]["Resources"].values()]
    assert types == [f"AWS::SageMaker::{kind}" for kind in ("Model", "EndpointConfig", "Endpoint")]


def test_the_curl_command_works_as_printed(deployed, sandbox):
    shown = deployed.script("provision", "--curl", PAYLOAD)
    assert sandbox.environment["AWS_SECRET_ACCESS_KEY"] not in shown.stdout
    result = subprocess.run(
        shown.stdout, shell=True, capture_output=True, text=True,
        env=os.environ | sandbox.environment,
    )  # fmt: skip
    assert "already provisioned" in result.stdout, result.stderr


def test_the_environment_that_env_prints_reaches_the_sandbox(deployed, sandbox):
    command = 'eval "$(python scripts/sandbox.py env)" && aws s3 ls "s3://$ASSETS_BUCKET/"'
    result = deployed.run("sh", "-c", command)
    assert "model.tar.gz" in result.stdout, result.stderr
    with_variables = deployed.script("status", **sandbox.environment)
    assert with_variables.returncode == 0


def test_settings_of_the_users_own_aws_account_do_not_leak_in(deployed):
    foreign = {
        "AWS_PROFILE": "nobody", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_SESSION_TOKEN": "x", "AWS_ACCESS_KEY_ID": "AKIA", "AWS_REGION": "eu-west-1",
        "AWS_CONFIG_FILE": str(deployed.folder / "Makefile"), "ORCHESTRATOR_URL": "",
    }  # fmt: skip
    for name in ("upload", "status", "predict"):
        result = deployed.script(name, **foreign, **PROXIES)
        assert result.returncode == 0, (name, result.stderr)


def test_what_env_prints_holds_against_the_settings_of_the_shell_it_is_typed_in(deployed):
    foreign = {
        "AWS_PROFILE": "nobody", "AWS_REGION": "eu-west-1", "AWS_SESSION_TOKEN": "x",
        "AWS_CONFIG_FILE": str(deployed.folder / "Makefile"), "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true", "AWS_PAGER": "kept",
    }  # fmt: skip
    command = (
        'eval "$(python scripts/sandbox.py env)" && aws s3 ls s3://pulsar-assets/ && '
        'curl -s "$AWS_ENDPOINT_URL" && echo "$AWS_REGION $AWS_PAGER $no_proxy"'
    )
    result = deployed.run("sh", "-c", command, **foreign, **PROXIES)
    assert "model.tar.gz" in result.stdout, result.stderr
    assert result.stdout.endswith("us-east-1 kept corp.example,127.0.0.1,localhost\n")


def test_the_sandbox_of_another_checkout_is_named_and_its_pipelines_are_kept(deployed, sandbox):
    """The shell has its `make env`; the scripts are those of this checkout."""

    def here(*command: str):
        return Project(ROOT, clean_environment()).script(*command, **sandbox.environment)

    name = f"sandbox: {sandbox.folder}, by ORCHESTRATOR_URL; not this checkout's"
    for command in (
        ["status", "pulsar"],
        ["predict", *["99", "42", "1.5", "4.2", "28", "62", "2.2", "3.7"]],
        ["provision", PAYLOAD],
    ):
        result = here(*command)
        assert (result.returncode, name in result.stderr) == (0, True), result.stderr
    refused = here("destroy")
    assert refused.returncode == 1 and name in refused.stderr
    assert "Delete all of this? Nobody is there to say yes" in refused.stderr
    assert deployed.script("status", PAYLOAD, **sandbox.environment).stderr == ""


def test_on_aws_the_keys_of_a_sandbox_are_refused(deployed, sandbox):
    for name in ("status", "launch", "land", "destroy"):
        result = deployed.script(name, **sandbox.environment, TARGET="aws")
        assert result.returncode == 1
        assert "this shell has the variables of a sandbox" in result.stderr


def test_what_else_the_shell_says_of_services_must_be_on_this_machine(deployed, sandbox):
    for key in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        away = sandbox.environment | {key: "https://s3.amazonaws.com"}
        result = deployed.script("status", **away)
        assert result.returncode == 1
        assert f"{key} is not on this machine" in result.stderr


def test_nothing_but_this_machine_is_reached_without_the_word_aws(deployed, sandbox):
    away = sandbox.environment | {
        "ORCHESTRATOR_URL": "https://x.execute-api.us-east-1.amazonaws.com/prod/"
    }
    result = deployed.script("provision", PAYLOAD, **away)
    assert result.returncode == 1
    assert "not on this machine" in result.stderr


def test_upload_sends_an_unchanged_model_only_once(deployed):
    again = deployed.script("upload")
    assert "is this model already" in again.stderr
    shown = deployed.script("upload", "--dry-run").stdout
    assert shown.startswith(
        "aws s3 cp models/model.tar.gz s3://pulsar-assets/model.tar.gz --metadata"
    )
    assert "git-revision=" in shown


def repacked(archive: bytes, **changes) -> bytes:
    """The package with something else in its provenance."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}
    provenance = json.loads(members["provenance.json"]) | changes
    return pack(members | {"provenance.json": json.dumps(provenance).encode()})


def test_a_model_worse_than_the_one_in_the_bucket_is_not_uploaded(deployed, sandbox, archive):
    folds = deployed.read("evaluation/folds.json")
    better = folds | {"average_precision": [score + 0.01 for score in folds["average_precision"]]}
    sandbox.upload(repacked(archive, folds=better))
    refused = deployed.script("upload")
    assert refused.returncode == 1
    assert "fell by 0.0100 against the released model (2 of 2 paired folds" in refused.stderr
    assert "raise gate.max_drop in params.yaml" in refused.stderr
    kept = sandbox.client("s3").get_object(Bucket=sandbox.bucket, Key="model.tar.gz")
    assert kept["Body"].read() != archive
    text = (deployed.folder / "params.yaml").read_text()
    try:
        deployed.set_params({"gate": {"max_drop": 0.02}})
        assert deployed.script("upload").returncode == 0
    finally:
        (deployed.folder / "params.yaml").write_text(text)
    sandbox.upload(b"of somebody else")
    sent = deployed.script("upload")
    assert sent.returncode == 0
    assert "does not say how it was scored; not compared" in sent.stderr
    sent = sandbox.client("s3").get_object(Bucket=sandbox.bucket, Key="model.tar.gz")
    assert sent["Body"].read() == archive


def test_the_object_is_labelled_by_what_is_in_it_and_not_by_the_workspace(deployed, archive):
    path = deployed.folder / "models" / "model.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        provenance = json.load(tar.extractfile("provenance.json"))
    data = provenance["data"] | {"source": "another survey", "simulated": True}
    try:
        path.write_bytes(repacked(archive, data=data))
        shown = deployed.script("upload", "--dry-run").stdout
        assert "trained-on=another-survey,simulated=true," in shown
        path.write_bytes(pack({"code/inference.py": b""}))
        refused = deployed.script("upload")
        assert "does not say where it comes from" in refused.stderr
        assert "make package" in refused.stderr
    finally:
        path.write_bytes(archive)


def test_a_signed_request_is_not_sent_on_to_where_it_is_redirected():
    """Nor is the answer taken for the orchestrator's."""
    from clients.api import ask
    from clients.target import Target
    from common.errors import TargetError

    seen = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(307 if self.path == "/prod/here" else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        session = boto3.Session("key", "secret", region_name="us-east-1")
        url = f"http://127.0.0.1:{server.server_port}/prod/"
        with pytest.raises(TargetError, match="here answered 307"):
            ask(Target(url, "bucket", session, url), "/here", {})
        server.shutdown()
    assert seen == ["/prod/here"]


def test_destroy_lists_what_goes_and_leaves_nothing(project, sandbox, archive):
    sandbox.upload(archive, "gone.tar.gz")
    payload = sandbox.payload("gone", model_artifact_location="gone.tar.gz")
    sandbox.wait(sandbox.provision(payload))
    (project.folder / "gone.json").write_text(json.dumps(payload))
    s3, stack = sandbox.client("s3"), pipelines.stack_of(payload["pipeline_type"], "gone")
    folder = f"mlops_provisioned_pipelines/{stack}"
    others = f"{folder}-2/1/model.tar.gz"
    s3.put_object(Bucket=sandbox.bucket, Key=others, Body=b"")
    listed = project.script("destroy", "--dry-run", "gone.json").stdout
    assert s3.list_objects_v2(Bucket=sandbox.bucket, Prefix=f"{folder}/")["KeyCount"] == 1
    assert "AWS::SageMaker::Endpoint gone" in listed
    assert "s3://pulsar-assets/mlops_provisioned_pipelines/" in listed
    assert project.script("status", "gone.json").returncode == 0
    assert project.script("destroy", "gone.json").returncode == 0
    assert project.script("status", "gone.json").returncode == 1
    left = s3.list_objects_v2(Bucket=sandbox.bucket, Prefix=folder)["Contents"]
    assert [item["Key"] for item in left] == [others]
    assert project.script("destroy", "gone.json").returncode == 0  # again, for nothing


def test_without_a_sandbox_the_clients_say_what_to_type(project, tmp_path):
    for name in ("status", "predict", "provision", "upload"):
        result = project.script(name, SANDBOX_DIR=str(tmp_path / "none"))
        assert result.returncode == 1
        assert "make sandbox" in result.stderr
    result = project.script("destroy", SANDBOX_DIR=str(tmp_path / "none"))
    assert result.returncode == 0
    assert not (tmp_path / "none").exists()
