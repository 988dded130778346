"""Jobs of SageMaker in the sandbox: transform and processing jobs, over HTTP, as processes."""

import contextlib
import gzip
import json
import os
import signal
import time
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from conftest import IMAGE, needs_landlock

from orchestrator.images import image_uri
from orchestrator.pipelines.models import sklearn_environment
from scoring.packing import pack

SKLEARN = image_uri("sklearn", IMAGE, "us-east-1")
ROLE = "arn:aws:iam::000000000000:role/sandbox"
# Answers twice the first number of each line; what it is told to refuse, it refuses.
DOUBLE = b"""
import json, os, time
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    lines = body.splitlines()
    for number, line in enumerate(lines, start=1):
        if "bad" in line:
            from werkzeug.wrappers import Response
            said = json.dumps({"error": f"row {number}: it is bad"})
            return Response(said, status=400, mimetype="application/json")
    time.sleep(float(os.environ.get("SLOW", 0)))
    return "".join(f"{2 * float(line.split(',')[0])}\\n" for line in lines), "text/csv"
"""


class Jobs:
    """A sandbox with a model that doubles, and jobs on it."""

    def __init__(self, sandbox) -> None:
        self.sandbox = sandbox
        self.s3, self.sagemaker = sandbox.client("s3"), sandbox.client("sagemaker")
        self.bucket = sandbox.bucket
        self.add("double", DOUBLE)

    def add(self, name: str, code: bytes) -> None:
        """A model of that code."""
        self.sandbox.upload(pack({"code/inference.py": code}), f"{name}.tar.gz")
        self.sagemaker.create_model(
            ModelName=name, ExecutionRoleArn=ROLE,
            PrimaryContainer={
                "Image": SKLEARN, "ModelDataUrl": f"s3://{self.bucket}/{name}.tar.gz",
                "Environment": sklearn_environment(),
            },
        )  # fmt: skip

    def put(self, key: str, content: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        return self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def keys(self, prefix: str) -> list[str]:
        found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for item in found.get("Contents", [])]

    def transform(self, name: str, **changes) -> None:
        """Begin a job from `name/in` to `name/out`."""
        self.sagemaker.create_transform_job(**self.request(name, **changes))

    def request(self, name: str, **changes) -> dict:
        source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{self.bucket}/{name}/in"}
        return {
            "TransformJobName": name,
            "ModelName": "double",
            "TransformInput": {
                "DataSource": {"S3DataSource": source}, "ContentType": "text/csv", "SplitType": "Line",
            } | changes.pop("source", {}),
            "TransformOutput": {
                "S3OutputPath": f"s3://{self.bucket}/{name}/out", "Accept": "text/csv", "AssembleWith": "Line",
            },
            "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        } | changes  # fmt: skip

    def ended(self, name: str, seconds: float = 60) -> dict:
        """What is said of a job that has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.sagemaker.describe_transform_job(TransformJobName=name)
            if job["TransformJobStatus"] not in ("InProgress", "Stopping"):
                return job
            time.sleep(0.05)
        raise AssertionError(f"{name} has not ended: {self.sandbox.log()}")


@pytest.fixture(scope="module")
def jobs(sandbox) -> Jobs:
    return Jobs(sandbox)


def test_each_object_gets_an_output_of_its_own_in_order(jobs):
    jobs.put("plain/in/a/day1.csv", b"1,2\n3,4\n")
    jobs.put("plain/in/b.csv", b"".join(b"%d\n" % n for n in range(1000)))
    jobs.put("plain/in/empty.csv", b"")
    jobs.transform("plain")
    job = jobs.ended("plain")
    assert job["TransformJobStatus"] == "Completed", job
    assert job["TransformStartTime"] <= job["TransformEndTime"]
    assert jobs.keys("plain/out") == [
        "plain/out/a/day1.csv.out", "plain/out/b.csv.out", "plain/out/empty.csv.out"
    ]  # fmt: skip
    assert jobs.get("plain/out/a/day1.csv.out") == b"2.0\n6.0\n"
    assert jobs.get("plain/out/b.csv.out").split() == [b"%.1f" % (2 * n) for n in range(1000)]


# Says who answers, and how it wants to be asked: two at once, a line each.
TWO_AT_ONCE = b"""
import json, os, time
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    time.sleep(0.05)
    return f"{body.strip()},{os.getpid()}", "text/csv"
def execution_parameters_fn():
    return json.dumps({"MaxConcurrentTransforms": 2, "BatchStrategy": "SINGLE_RECORD"})
"""


@pytest.mark.parametrize(("changes", "processes"), [({}, 2), ({"MaxConcurrentTransforms": 1}, 1)])
def test_a_model_is_asked_as_it_says_unless_the_job_says_otherwise(jobs, changes, processes):
    model, name = f"two{processes}", f"asked{processes}"
    jobs.add(model, TWO_AT_ONCE)
    numbers = [str(number) for number in range(12)]
    jobs.put(f"{name}/in/a.csv", "\n".join(numbers).encode())
    jobs.transform(name, ModelName=model, **changes)
    job = jobs.ended(name)
    assert job["TransformJobStatus"] == "Completed", job
    answers = [line.split(",") for line in jobs.get(f"{name}/out/a.csv.out").decode().split()]
    assert [number for number, _ in answers] == numbers  # in their order, whoever answered first
    assert len({pid for _, pid in answers}) == min(processes, os.cpu_count())


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("'soon'", "does not answer JSON"),
        ("'[]'", "does not answer a JSON object"),
        ('\'{"MaxPayloadInMB": "much"}\'', "holds no numbers"),
        ('\'{"MaxPayloadInMB": 60, "MaxConcurrentTransforms": 2}\'', "must be 1 to 100"),
    ],
)
def test_a_model_that_cannot_be_asked_as_it_says_fails_the_job(jobs, told, reason):
    name = f"said-{len(told)}"
    jobs.add(name, DOUBLE + f"\ndef execution_parameters_fn():\n    return {told}\n".encode())
    jobs.put(f"{name}/in/a.csv", b"1\n")
    jobs.transform(name, ModelName=name)
    job = jobs.ended(name)
    assert (job["TransformJobStatus"], reason in job["FailureReason"]) == ("Failed", True), job


def test_a_bad_object_fails_the_job_with_its_line_and_the_others_keep_their_outputs(jobs):
    jobs.put("bad/in/a.csv", b"1\n2\n")
    jobs.put("bad/in/b.csv", b"1\n2\nbad\n4\n")
    jobs.put("bad/in/c.csv", b"3\n")
    jobs.transform("bad", BatchStrategy="SingleRecord")
    job = jobs.ended("bad")
    assert job["TransformJobStatus"] == "Failed"
    assert (
        f"{jobs.bucket}/bad/in/b.csv, line 3: the model answered 400: it is bad"
        in job["FailureReason"]
    )
    assert jobs.keys("bad/out") == ["bad/out/a.csv.out", "bad/out/c.csv.out"]


def test_a_line_is_counted_from_the_objects_beginning(jobs):
    jobs.put("later/in/a.csv", b"1" * 100 + b"\n" + b"2\n" * 900_000 + b"bad\n")
    jobs.transform("later", MaxPayloadInMB=1)
    assert "line 900002: the model answered 400: it is bad" in jobs.ended("later")["FailureReason"]


def test_gzip_filters_and_joins(jobs):
    jobs.put("join/in/a.csv.gz", gzip.compress(b"x,1,5\ny,2,6\n"))
    jobs.transform(
        "join", source={"CompressionType": "Gzip"},
        DataProcessing={"InputFilter": "$[1:]", "JoinSource": "Input", "OutputFilter": "$[0,-1]"},
    )  # fmt: skip
    assert jobs.ended("join")["TransformJobStatus"] == "Completed"
    assert jobs.get("join/out/a.csv.gz.out") == b"x,2.0\ny,4.0\n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ModelName": "absent"}, "Could not find model"),
        ({"source": {"SplitType": "RecordIO"}}, "splits by Line"),
        ({"MaxPayloadInMB": 60, "MaxConcurrentTransforms": 2}, "must not exceed 100"),
        ({"DataProcessing": {"InputFilter": "$["}}, "is no JSONPath"),
        ({"DataProcessing": {"InputFilter": "$"}, "source": {"SplitType": "None"}}, "SplitType Line"),
        ({"DataCaptureConfig": {"DestinationS3Uri": "s3://b/c"}}, "does not honour DataCaptureConfig"),
        ({"TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 2}}, "one instance"),
    ],
)  # fmt: skip
def test_what_is_not_done_is_refused_by_name(jobs, changes, words):
    with pytest.raises(ClientError, match=words.replace("$", r"\$")):
        jobs.transform("refused", **changes)


def test_a_name_is_taken_once_and_lists_are_filtered(jobs):
    jobs.put("listed/in/a.csv", b"1\n")
    jobs.transform("listed")
    with pytest.raises(ClientError, match="must be unique") as error:
        jobs.transform("listed")
    assert error.value.response["Error"]["Code"] == "ResourceInUse"
    jobs.ended("listed")
    found = jobs.sagemaker.list_transform_jobs(NameContains="list", StatusEquals="Completed")
    assert [job["TransformJobName"] for job in found["TransformJobSummaries"]] == ["listed"]
    with pytest.raises(ClientError, match="Could not find requested job"):
        jobs.sagemaker.describe_transform_job(TransformJobName="absent")


def test_a_job_is_stopped(jobs):
    jobs.put("stopped/in/a.csv", b"1\n" * 100)
    jobs.transform("stopped", Environment={"SLOW": "0.2"}, BatchStrategy="SingleRecord")
    jobs.sagemaker.stop_transform_job(TransformJobName="stopped")
    assert jobs.ended("stopped")["TransformJobStatus"] == "Stopped"
    assert jobs.keys("stopped/out") == []
    with pytest.raises(ClientError, match="in status Stopped"):
        jobs.sagemaker.stop_transform_job(TransformJobName="stopped")


def test_what_a_job_prints_is_in_its_log(jobs):
    jobs.put("logged/in/a.csv", b"1\n")
    jobs.transform("logged")
    jobs.ended("logged")
    logs = jobs.sandbox.client("logs")
    deadline = time.monotonic() + 10
    told = ""
    while "1 of 1 objects" not in told and time.monotonic() < deadline:
        streams = logs.describe_log_streams(
            logGroupName="/aws/sagemaker/TransformJobs", logStreamNamePrefix="logged/"
        )["logStreams"]
        for stream in streams:
            events = logs.get_log_events(
                logGroupName="/aws/sagemaker/TransformJobs", logStreamName=stream["logStreamName"]
            )["events"]
            told = " ".join(event["message"] for event in events)
        time.sleep(0.1)
    assert "1 of 1 objects" in told


def begin_processing(jobs, name: str, script: str, **changes) -> None:
    """A processing job that runs a script in the image."""
    jobs.put(f"{name}/code/run.py", script.encode())
    jobs.put(f"{name}/data/a.txt", b"what came in")
    place = f"s3://{jobs.bucket}/{name}"
    request = {
        "ProcessingJobName": name,
        "RoleArn": ROLE,
        "AppSpecification": {
            "ImageUri": SKLEARN,
            "ContainerEntrypoint": ["python3", "/opt/ml/processing/code/run.py"],
        },
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
        },
        "ProcessingInputs": [
            {"InputName": part, "S3Input": {
                "S3Uri": f"{place}/{part}", "LocalPath": f"/opt/ml/processing/{part}",
                "S3DataType": "S3Prefix", "S3InputMode": "File",
            }} for part in ("code", "data")
        ],
        "ProcessingOutputConfig": {"Outputs": [{"OutputName": "out", "S3Output": {
            "S3Uri": f"{place}/out", "LocalPath": "/opt/ml/processing/out", "S3UploadMode": "EndOfJob",
        }}]},
        "Environment": {"source": "/opt/ml/processing/data", "target": "/opt/ml/processing/out"},
    } | changes  # fmt: skip
    jobs.sagemaker.create_processing_job(**request)


def processing(jobs, name: str, script: str, **changes) -> dict:
    """What is said of such a job when it has ended."""
    begin_processing(jobs, name, script, **changes)
    return processed(jobs, name)


def processed(jobs, name: str) -> dict:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job = jobs.sagemaker.describe_processing_job(ProcessingJobName=name)
        if job["ProcessingJobStatus"] not in ("InProgress", "Stopping"):
            return job
        time.sleep(0.05)
    raise AssertionError(jobs.sandbox.log())


COPY = """
import json, os, pathlib
source, target = pathlib.Path(os.environ["source"]), pathlib.Path(os.environ["target"])
(target / "2026").mkdir()
(target / "2026" / "b.txt").write_text((source / "a.txt").read_text() + ", and went out")
ml = source.parents[1]
json.loads((ml / "config" / "processingjobconfig.json").read_text())["ProcessingJobArn"]
(ml / "output" / "message").write_text("Completed: all of it")
import boto3
boto3.client("sts").get_caller_identity()
"""


def test_a_processing_job_reads_writes_and_says_something(jobs):
    job = processing(jobs, "copy", COPY)
    assert (job["ProcessingJobStatus"], job.get("FailureReason")) == ("Completed", None)
    assert job["ExitMessage"] == "Completed: all of it"
    assert jobs.get("copy/out/2026/b.txt") == b"what came in, and went out"


def test_a_processing_job_that_fails_says_why(jobs):
    script = (
        "import pathlib\npathlib.Path('output/message').write_text('no data')\nraise SystemExit(3)"
    )
    job = processing(jobs, "fails", script)
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["FailureReason"] == "AlgorithmError: no data, exit code: 3"


def test_a_processing_job_has_its_time(jobs):
    script = "import time\ntime.sleep(60)"
    job = processing(jobs, "long", script, StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert "MaxRuntimeInSeconds was reached" in job["FailureReason"]


SPY = """
import os, pathlib, socket
said = []
for path in CREDENTIALS, "/root/.bashrc", "/home":
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).read()
        said.append(f"read {path}")
    except OSError as error:
        said.append(type(error).__name__)
listener = socket.socket()
try:
    listener.bind(("127.0.0.1", 0))
    said.append("bound")
except OSError as error:
    said.append(type(error).__name__)
pathlib.Path("output/message").write_text(" ".join(said))
"""


@needs_landlock
def test_a_processing_job_sees_no_files_but_its_own_and_reaches_the_sandbox_alone(jobs):
    credentials = str(jobs.sandbox.folder / "credentials.json")
    job = processing(jobs, "spy", SPY.replace("CREDENTIALS", repr(credentials)))
    said = job["ExitMessage"].split()
    assert said[0] == "PermissionError"
    assert "read" not in said
    assert said[-1] == "PermissionError"  # no port is its own


@pytest.mark.parametrize("path", ["/etc", "/opt/ml/processing/../model", "/opt/ml/code"])
def test_a_local_path_stays_inside(jobs, path):
    name = f"path{abs(hash(path)) % 10**6}"
    outputs = {"Outputs": [{"OutputName": "out", "S3Output": {
        "S3Uri": f"s3://{jobs.bucket}/x", "LocalPath": path, "S3UploadMode": "EndOfJob",
    }}]}  # fmt: skip
    job = processing(jobs, name, "", ProcessingOutputConfig=outputs)
    assert "must be below /opt/ml/processing" in job["FailureReason"]


def under_way(sandbox, name: str) -> list[int]:
    """The processes that do a job's work (Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if process.read_bytes().startswith(f"sandbox job {name} {sandbox.folder}".encode()):
                found.append(int(process.parent.name))
    return found


def test_a_job_survives_the_sandboxs_death_and_is_done_once(own_sandbox):
    jobs = Jobs(own_sandbox)
    for name in range(3):
        jobs.put(f"killed/in/{name}.csv", b"1\n2\n3\n")
    jobs.transform("killed", Environment={"SLOW": "0.1"}, BatchStrategy="SingleRecord")
    deadline = time.monotonic() + 30
    while not jobs.keys("killed/out") and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(own_sandbox.pid, signal.SIGKILL)
    own_sandbox.start()
    assert jobs.ended("killed")["TransformJobStatus"] == "Completed"
    assert [jobs.get(key) for key in jobs.keys("killed/out")] == [b"2.0\n4.0\n6.0\n"] * 3


def test_a_processing_job_survives_the_sandboxs_death_and_is_done_once(own_sandbox):
    jobs = Jobs(own_sandbox)
    begin_processing(
        jobs, "check", "import time; print('begun', flush=True); time.sleep(1)\n" + COPY
    )
    begin_processing(jobs, "next", COPY)
    deadline = time.monotonic() + 30
    while not under_way(own_sandbox, "check") and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(own_sandbox.pid, signal.SIGKILL)
    own_sandbox.start()
    for name in ("check", "next"):
        assert processed(jobs, name)["ProcessingJobStatus"] == "Completed"
        assert jobs.keys(f"{name}/out") == [f"{name}/out/2026/b.txt"]
        assert jobs.get(f"{name}/out/2026/b.txt") == b"what came in, and went out"


@pytest.mark.slow
def test_a_killed_process_of_a_job_is_begun_again(own_sandbox):
    jobs = Jobs(own_sandbox)
    jobs.put("again/in/a.csv", b"1\n" * 20)
    jobs.transform("again", Environment={"SLOW": "0.1"}, BatchStrategy="SingleRecord")
    victims = []
    deadline = time.monotonic() + 30
    while not victims and time.monotonic() < deadline:
        victims = under_way(own_sandbox, "again")
        time.sleep(0.05)
    os.kill(victims[0], signal.SIGKILL)
    assert jobs.ended("again")["TransformJobStatus"] == "Completed"
    assert jobs.get("again/out/a.csv.out") == b"2.0\n" * 20
    assert json.loads((own_sandbox.folder / "status.json").read_text())["state"] == "running"
