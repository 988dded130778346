"""Requests that meet each other, and what was done behind the orchestrator's back."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from orchestrator.artifacts import folder
from scoring.packing import pack

HANGING = b"import time\ndef model_fn(model_dir):\n    time.sleep(1000)\n"
ANSWER = "def model_fn(d):\n    return {version!r}\ndef transform_fn(m, b, c, a):\n    return (m, 'text/csv')\n"


def package(version: str) -> bytes:
    return pack({"code/inference.py": ANSWER.format(version=version).encode()})


def at_once(count: int, work) -> list:
    """What comes of doing the same from several threads at the same moment."""
    gate = threading.Barrier(count)

    def one(number: int):
        gate.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def stacks_of(sandbox, name: str) -> list[dict]:
    found = sandbox.client("cloudformation").describe_stacks()["Stacks"]
    return [stack for stack in found if f"-{name}-" in stack["StackName"]]


def copies_of(sandbox, stack: str) -> list[str]:
    listing = sandbox.client("s3").list_objects_v2(Bucket=sandbox.bucket, Prefix=folder(stack))
    return [item["Key"] for item in listing.get("Contents", [])]


def wait_until_gone(sandbox, stack_id: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    cloudformation = sandbox.client("cloudformation")
    while True:
        stack = cloudformation.describe_stacks(StackName=stack_id)["Stacks"][0]
        if stack["StackStatus"] == "DELETE_COMPLETE":
            return
        assert time.monotonic() < deadline, stack
        time.sleep(0.05)


@pytest.mark.parametrize("attempt", range(3))
def test_twins_become_one_pipeline_and_its_model_stays(sandbox, attempt):
    name = f"twins{attempt}"
    sandbox.upload(package("one"), f"{name}.tar.gz")
    payload = sandbox.payload(name, model_artifact_location=f"{name}.tar.gz")
    answers = at_once(6, lambda _: sandbox.post("/provisionpipeline", payload))
    assert [status for status, _ in answers] == [200] * 6, answers
    assert len({json.loads(text)["pipeline_id"] for _, text in answers}) == 1
    [stack] = stacks_of(sandbox, name)
    assert sandbox.wait(stack["StackId"])[0] == "Succeeded"
    assert len(copies_of(sandbox, stack["StackName"])) == 1
    assert sandbox.invoke(name, "1")["Body"].read() == b"one"


def test_a_model_that_is_overwritten_while_it_is_provisioned_is_one_or_the_other(sandbox):
    payload = sandbox.payload("changing", model_artifact_location="changing.tar.gz")
    sandbox.upload(package("start"), "changing.tar.gz")
    stop = threading.Event()

    def overwrite() -> None:
        number = 0
        while not stop.is_set():
            sandbox.upload(package(f"version {number}"), "changing.tar.gz")
            number += 1

    writer = threading.Thread(target=overwrite)
    writer.start()
    try:
        status, text = sandbox.post("/provisionpipeline", payload)
    finally:
        stop.set()
        writer.join()
    assert status == 200 or "being changed by somebody else" in text
    if status != 200:
        text = sandbox.post("/provisionpipeline", payload)[1]
    assert sandbox.wait(json.loads(text)["pipeline_id"])[0] == "Succeeded"
    [stack] = stacks_of(sandbox, "changing")
    for key in copies_of(sandbox, stack["StackName"]):
        etag = sandbox.client("s3").head_object(Bucket=sandbox.bucket, Key=key)["ETag"].strip('"')
        assert f"/{etag}/" in key  # a copy is what its address says


def test_what_is_asked_for_while_its_stack_is_deleted_is_made(sandbox):
    sandbox.upload(package("one"), "again.tar.gz")
    payload = sandbox.payload("again", model_artifact_location="again.tar.gz")
    first = sandbox.provision(payload)
    assert sandbox.wait(first)[0] == "Succeeded"
    sandbox.client("cloudformation").delete_stack(StackName=first)
    second = sandbox.provision(payload)
    assert second != first
    assert sandbox.wait(second)[0] == "Succeeded"
    assert sandbox.invoke("again", "1")["Body"].read() == b"one"


def test_deleting_what_is_still_being_made_does_not_wait_for_it(sandbox):
    sandbox.upload(pack({"code/inference.py": HANGING}), "stalling.tar.gz")
    pipeline = sandbox.provision(
        sandbox.payload("stalling", model_artifact_location="stalling.tar.gz")
    )
    sagemaker = sandbox.client("sagemaker")
    while not sagemaker.list_endpoints(NameContains="stalling")["Endpoints"]:
        time.sleep(0.05)
    sandbox.client("cloudformation").delete_stack(StackName=pipeline)
    wait_until_gone(sandbox, pipeline)
    assert not sagemaker.list_endpoints(NameContains="stalling")["Endpoints"]
    status, text = sandbox.post("/pipelinestatus", {"pipeline_id": pipeline})
    assert status == 200
    assert "deleted" in text


def test_deleting_during_an_update_takes_both_versions_along(sandbox):
    sandbox.upload(package("one"), "torn.tar.gz")
    payload = sandbox.payload("torn", model_artifact_location="torn.tar.gz")
    pipeline = sandbox.provision(payload)
    assert sandbox.wait(pipeline)[0] == "Succeeded"
    sandbox.upload(pack({"code/inference.py": HANGING}), "torn.tar.gz")
    sandbox.provision(payload)
    time.sleep(0.5)
    sandbox.client("cloudformation").delete_stack(StackName=pipeline)
    wait_until_gone(sandbox, pipeline)
    sagemaker = sandbox.client("sagemaker")
    assert not sagemaker.list_endpoints(NameContains="torn")["Endpoints"]
    assert not sagemaker.list_models(NameContains="torn")["Models"]


def test_an_endpoint_deleted_by_hand_is_told_and_can_be_made_again(sandbox):
    sandbox.upload(package("one"), "hand.tar.gz")
    payload = sandbox.payload("hand", model_artifact_location="hand.tar.gz")
    pipeline = sandbox.provision(payload)
    assert sandbox.wait(pipeline)[0] == "Succeeded"
    sandbox.client("sagemaker").delete_endpoint(EndpointName="hand")
    deadline = time.monotonic() + 20
    while True:
        status, text = sandbox.post("/pipelinestatus", {"pipeline_id": pipeline})
        assert status == 200, text
        if sandbox.wait(pipeline)[0] == "Failed":
            break
        assert time.monotonic() < deadline
    assert "hand" in text
    again = sandbox.provision(payload)
    assert sandbox.wait(again)[0] == "Succeeded"
    assert sandbox.invoke("hand", "1")["Body"].read() == b"one"


def test_a_stack_that_is_no_pipeline_is_said_to_be_none(sandbox):
    template = {"Resources": {"Config": {"Type": "AWS::SageMaker::Model", "Properties": {}}}}
    created = sandbox.client("cloudformation").create_stack(
        StackName="somebody-elses", TemplateBody=json.dumps(template)
    )
    status, text = sandbox.post("/pipelinestatus", {"pipeline_id": created["StackId"]})
    assert status == 400
    assert "is no pipeline" in text
    sandbox.client("cloudformation").delete_stack(StackName="somebody-elses")


def test_many_updates_and_deletes_at_once_end_in_order(sandbox):
    name = "storm"
    payload = sandbox.payload(name, model_artifact_location="storm.tar.gz")
    cloudformation = sandbox.client("cloudformation")
    for version in range(4):
        sandbox.upload(package(str(version)), "storm.tar.gz")

        def act(number: int):
            if number == 3:
                for stack in stacks_of(sandbox, name):
                    cloudformation.delete_stack(StackName=stack["StackId"])
                return 200
            return sandbox.post("/provisionpipeline", payload)[0]

        assert set(at_once(4, act)) <= {200, 400}
    deadline = time.monotonic() + 60
    while any(s["StackStatus"].endswith("_IN_PROGRESS") for s in stacks_of(sandbox, name)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    pipeline = sandbox.provision(payload)
    assert sandbox.wait(pipeline)[0] == "Succeeded"
    assert sandbox.invoke(name, "1")["Body"].read() == b"3"


@pytest.mark.parametrize(
    "name", ["a" + "-" * 300 + "b", "x" * 64, "../../victim", "a/b", ".", "-a"]
)
def test_names_are_names(sandbox, name):
    status, text = sandbox.post("/provisionpipeline", sandbox.payload("named", endpoint_name=name))
    assert status == 400
    assert "endpoint_name must be" in text
    status, text = sandbox.post("/provisionpipeline", sandbox.payload(name, endpoint_name="e"))
    assert status == 400
    assert "model_name must be" in text
    with pytest.raises(ClientError) as refused:
        sandbox.client("sagemaker").describe_endpoint(EndpointName=name)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    with pytest.raises(ClientError) as refused:
        sandbox.invoke(name, "1")
    assert 400 <= refused.value.response["ResponseMetadata"]["HTTPStatusCode"] < 500
    resource = {"Type": "AWS::SageMaker::Model", "Properties": {
        "ModelName": name, "PrimaryContainer": {"Image": "i", "ModelDataUrl": "s3://b/k.tar.gz"}}}  # fmt: skip
    created = sandbox.client("cloudformation").create_stack(
        StackName="names", TemplateBody=json.dumps({"Resources": {"Model": resource}})
    )["StackId"]
    deadline = time.monotonic() + 20
    while True:
        stack = sandbox.client("cloudformation").describe_stacks(StackName=created)["Stacks"][0]
        if not stack["StackStatus"].endswith("_IN_PROGRESS"):
            break
        assert time.monotonic() < deadline
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    sandbox.client("cloudformation").delete_stack(StackName=created)
    wait_until_gone(sandbox, created)
    assert sandbox.folder.exists()
    assert (sandbox.folder / "models").is_dir()
