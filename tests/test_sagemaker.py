"""SageMaker by boto3 and the AWS CLI, without a stack: control plane, runtime, what is refused.

Over HTTP, to the running sandbox; the endpoints' processes are real.
"""

import json
import os
import signal
import time
import uuid

import pytest
from botocore.exceptions import ClientError
from conftest import IMAGE

from orchestrator.images import image_uri
from orchestrator.sandbox.sagemaker import event_stream
from orchestrator.sandbox.state import State
from scoring.packing import pack

ROLE = "arn:aws:iam::000000000000:role/sandbox"
CODE = b"""
import time
from werkzeug.wrappers import Response
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    if body == "refuse":
        return Response("no such thing", status=415)
    if body.startswith("slow"):
        time.sleep(1)
    return (f"{content_type} {accept} {body}", "text/csv")
"""
QUICK = {"Delay": 0.1, "MaxAttempts": 200}


class House:
    """boto3 clients of a sandbox, a model in it, and what is made of that."""

    def __init__(self, sandbox) -> None:
        self.sandbox = sandbox
        self.sagemaker = sandbox.client("sagemaker")
        self.runtime = sandbox.client("sagemaker-runtime")
        self.s3 = sandbox.client("s3")
        self.model = f"model-{uuid.uuid4().hex[:8]}"
        sandbox.upload(pack({"code/inference.py": CODE}), f"{self.model}.tar.gz")
        environment = {
            "SAGEMAKER_PROGRAM": "inference.py",
            "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        }
        container = {
            "Image": image_uri("sklearn", IMAGE, "us-east-1"),
            "ModelDataUrl": f"s3://{sandbox.bucket}/{self.model}.tar.gz",
            "Environment": environment,
        }
        self.model_arn = self.sagemaker.create_model(
            ModelName=self.model, ExecutionRoleArn=ROLE, PrimaryContainer=container,
            Tags=[{"Key": "survey", "Value": "HTRU2"}],
        )["ModelArn"]  # fmt: skip

    def config(self, name: str, **more) -> str:
        variant = {
            "VariantName": "Blue",
            "ModelName": self.model,
            "InstanceType": "ml.m5.large",
            "InitialInstanceCount": 1,
        }
        request = {"EndpointConfigName": name, "ProductionVariants": [variant]} | more
        return self.sagemaker.create_endpoint_config(**request)["EndpointConfigArn"]

    def endpoint(self, name: str, **more) -> str:
        self.config(name, **more)
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        self.sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig=QUICK)
        return name

    def to_s3(self, **more) -> dict:
        outputs = {"S3OutputPath": f"s3://{self.sandbox.bucket}/answers/"} | more
        return {"AsyncInferenceConfig": {"OutputConfig": outputs}}

    def ask_later(self, endpoint: str, body: str, **more) -> dict:
        key = f"questions/{uuid.uuid4()}"
        self.s3.put_object(Bucket=self.sandbox.bucket, Key=key, Body=body)
        location = f"s3://{self.sandbox.bucket}/{key}"
        return self.runtime.invoke_endpoint_async(
            EndpointName=endpoint, InputLocation=location, **more
        )

    def read(self, location: str, seconds: float = 30) -> dict:
        """The object at a location, once it is there."""
        bucket, _, key = location.removeprefix("s3://").partition("/")
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.s3.get_object(Bucket=bucket, Key=key)
            except self.s3.exceptions.NoSuchKey:
                assert time.monotonic() < deadline, f"{location} did not come"
                time.sleep(0.05)


@pytest.fixture(scope="module")
def house(sandbox) -> House:
    return House(sandbox)


@pytest.fixture(scope="module")
def plain(house) -> str:
    """An endpoint that only answers."""
    return house.endpoint("plain")


@pytest.fixture(scope="module")
def later(house) -> str:
    """An asynchronous endpoint with a place for failures."""
    failures = f"s3://{house.sandbox.bucket}/failures"
    return house.endpoint("later", **house.to_s3(S3FailurePath=failures))


def refusal_of(call, **request) -> str:
    with pytest.raises(ClientError) as raised:
        call(**request)
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    return raised.value.response["Error"]["Message"]


def tags_of(sagemaker, arn: str) -> dict[str, str]:
    pages = sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn)
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}


def test_a_state_that_was_made_before_there_were_tags_keeps_them_too(tmp_path):
    before = State(tmp_path / "state.db")
    before._run("DROP TABLE tags", [])
    before.insert("models", name="old", request={})
    before.close()
    after = State(tmp_path / "state.db")
    after.insert("tags", arn="a", tags=[{"Key": "k", "Value": "v"}])
    assert after.row("models", name="old")
    assert after.row("tags", arn="a")["tags"] == [{"Key": "k", "Value": "v"}]
    after.close()


# -- the control plane ----------------------------------------------------------------


def test_an_endpoint_lives_changes_and_dies_by_boto3(house):
    sagemaker = house.sagemaker
    house.endpoint("mortal")
    house.config("mortal-2")
    sagemaker.update_endpoint(EndpointName="mortal", EndpointConfigName="mortal-2")
    waiter = sagemaker.get_waiter("endpoint_in_service")
    waiter.wait(EndpointName="mortal", WaiterConfig=QUICK)
    assert sagemaker.describe_endpoint(EndpointName="mortal")["EndpointConfigName"] == "mortal-2"
    sagemaker.delete_endpoint(EndpointName="mortal")
    gone = sagemaker.get_waiter("endpoint_deleted")
    gone.wait(EndpointName="mortal", WaiterConfig=QUICK)
    for name in ("mortal", "mortal-2"):
        sagemaker.delete_endpoint_config(EndpointConfigName=name)
    message = refusal_of(sagemaker.describe_endpoint_config, EndpointConfigName="mortal")
    assert message.startswith("Could not find endpoint configuration")


def test_a_variants_weight_is_kept_until_another_configuration_comes(house, plain):
    sagemaker = house.sagemaker

    def change(**more) -> dict:
        wished = [{"VariantName": "Blue"} | more]
        return {"EndpointName": plain, "DesiredWeightsAndCapacities": wished}

    def weight() -> float:
        described = sagemaker.describe_endpoint(EndpointName=plain)
        return described["ProductionVariants"][0]["CurrentWeight"]

    sagemaker.update_endpoint_weights_and_capacities(**change(DesiredWeight=0.25))
    assert weight() == 0.25
    call = sagemaker.update_endpoint_weights_and_capacities
    assert '"Green"' in refusal_of(call, **change(VariantName="Green"))
    assert "DesiredInstanceCount 2" in refusal_of(call, **change(DesiredInstanceCount=2))
    serverless = {"ServerlessUpdateConfig": {"MaxConcurrency": 1}}
    assert "ServerlessUpdateConfig" in refusal_of(call, **change(**serverless))
    house.config("plain-2")
    sagemaker.update_endpoint(EndpointName=plain, EndpointConfigName="plain-2")
    waiter = sagemaker.get_waiter("endpoint_in_service")
    waiter.wait(EndpointName=plain, WaiterConfig=QUICK)
    assert weight() == 1


def test_tags_are_kept_added_listed_and_taken_away(house, plain):
    sagemaker = house.sagemaker
    config = house.config("tagged", Tags=[{"Key": "survey", "Value": "HTRU2"}])
    endpoint = sagemaker.describe_endpoint(EndpointName=plain)["EndpointArn"]
    assert tags_of(sagemaker, house.model_arn) == {"survey": "HTRU2"}
    for arn in (config, endpoint):
        more = [{"Key": "night", "Value": "1"}, {"Key": "survey", "Value": "LOTAAS"}]
        assert len(sagemaker.add_tags(ResourceArn=arn, Tags=more)["Tags"]) == 2
        assert tags_of(sagemaker, arn) == {"survey": "LOTAAS", "night": "1"}
        sagemaker.delete_tags(ResourceArn=arn, TagKeys=["survey", "none"])
        assert tags_of(sagemaker, arn) == {"night": "1"}
    sagemaker.delete_endpoint_config(EndpointConfigName="tagged")
    assert "Could not find" in refusal_of(sagemaker.list_tags, ResourceArn=config)
    house.config("tagged")
    assert tags_of(sagemaker, config) == {}


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ([{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}], "a is there twice"),
        ([{"Key": "aws:a", "Value": "1"}], "aws: prefixed"),
        ([{"Key": f"{n}", "Value": ""} for n in range(50)], "at most 50"),
    ],
)
def test_tags_that_aws_would_not_take_are_refused(house, tags, words):
    sagemaker = house.sagemaker
    assert words in refusal_of(sagemaker.add_tags, ResourceArn=house.model_arn, Tags=tags)
    assert tags_of(sagemaker, house.model_arn) == {"survey": "HTRU2"}


def test_a_stacks_tags_and_its_resources_own_are_with_the_resources(house):
    cloudformation, sagemaker = house.sandbox.client("cloudformation"), house.sagemaker
    house.config("stacked")

    def template(tags: list) -> str:
        properties = {"EndpointName": "stacked", "EndpointConfigName": "stacked", "Tags": tags}
        resource = {"Type": "AWS::SageMaker::Endpoint", "Properties": properties}
        return json.dumps({"Resources": {"Endpoint": resource}})

    def tags() -> dict:
        described = sagemaker.describe_endpoint(EndpointName="stacked")
        return tags_of(sagemaker, described["EndpointArn"])

    def wait(event: str) -> None:
        cloudformation.get_waiter(event).wait(StackName="tagged", WaiterConfig=QUICK)

    cloudformation.create_stack(
        StackName="tagged", TemplateBody=template([{"Key": "own", "Value": "1"}]),
        Tags=[{"Key": "own", "Value": "stack's"}, {"Key": "stack", "Value": "2"}],
    )  # fmt: skip
    wait("stack_create_complete")
    assert tags() == {"own": "1", "stack": "2"}
    changed = template([{"Key": "new", "Value": "3"}])
    cloudformation.update_stack(StackName="tagged", TemplateBody=changed)
    wait("stack_update_complete")
    assert tags() == {"new": "3", "own": "stack's", "stack": "2"}
    cloudformation.delete_stack(StackName="tagged")
    wait("stack_delete_complete")


@pytest.mark.parametrize("order", ["Ascending", "Descending"])
@pytest.mark.parametrize("by", ["Name", "CreationTime"])
def test_pages_hold_everything_once_whatever_is_made_meanwhile(house, by, order):
    def name(n: int) -> str:
        return f"{order}-{by}-{n}"

    wanted = [name(n) for n in (5, 3, 1, 7)]
    for config in wanted:
        house.config(config)
    found, paginator = [], house.sagemaker.get_paginator("list_endpoint_configs")
    pages = paginator.paginate(
        NameContains=f"{order}-{by}".lower(), SortBy=by, SortOrder=order,
        PaginationConfig={"PageSize": 1},
    )  # fmt: skip
    for page in pages:
        found += [item["EndpointConfigName"] for item in page["EndpointConfigs"]]
        if len(found) == 2:  # its place is among those that were listed already, or it comes last
            house.config(name(9 if by == "CreationTime" else 4))
    if by == "Name":
        wanted.sort()
    if order == "Descending":
        wanted.reverse()
    assert [config for config in found if config in wanted] == wanted
    message = refusal_of(house.sagemaker.list_endpoint_configs, NextToken="none of ours")
    assert "NextToken" in message


def test_what_cannot_be_served_is_refused_by_name_when_it_is_made(house):
    variant = {"ModelName": house.model, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    two = [variant | {"VariantName": name} for name in ("Blue", "Green")]
    many = [two[0] | {"InitialInstanceCount": 2}]
    serverless = [{k: v for k, v in two[0].items() if not k.startswith("In")}]
    serverless[0]["ServerlessConfig"] = {"MemorySizeInMB": 1024, "MaxConcurrency": 1}
    bucket = "s3://nobody-has-it/"
    topic = {"SuccessTopic": "arn:aws:sns:us-east-1:000000000000:done"}
    for change, words in (
        ({"ProductionVariants": two}, "2 ProductionVariants"),
        ({"ProductionVariants": many}, "InitialInstanceCount 2"),
        ({"ProductionVariants": serverless}, "ServerlessConfig"),
        ({"ShadowProductionVariants": two[:1]}, "ShadowProductionVariants"),
        ({"AsyncInferenceConfig": {"OutputConfig": {}}}, "S3OutputPath"),
        (house.to_s3(S3OutputPath=bucket), "The S3OutputPath bucket nobody-has-it does not exist"),
        (house.to_s3(S3OutputPath="https://x/"), "The S3OutputPath bucket https: does not exist"),
        (house.to_s3(NotificationConfig=topic), "NotificationConfig"),
    ):
        assert words in refusal_of(house.config, name="refused", **change)


def test_a_name_in_other_letters_is_the_same_name(house):
    house.config("Letters")
    assert "already existing" in refusal_of(house.config, name="letters")


# -- the runtime ----------------------------------------------------------------------


def test_every_parameter_of_an_invocation_is_honoured_or_refused_by_name(house, plain):
    call = {"EndpointName": plain, "Body": b"1", "ContentType": "text/csv"}
    answer = house.runtime.invoke_endpoint(**call, TargetVariant="Blue", InferenceId="id")
    assert answer["InvokedProductionVariant"] == "Blue"
    for operation in ("InvokeEndpoint", "InvokeEndpointWithResponseStream"):
        model = house.runtime.meta.service_model.operation_model(operation)
        members = model.input_shape.members.keys() - {"EndpointName", "Body", "ContentType"}
        honoured = {"Accept", "CustomAttributes", "TargetVariant", "InferenceId"}
        method = {
            "InvokeEndpoint": house.runtime.invoke_endpoint,
            "InvokeEndpointWithResponseStream": house.runtime.invoke_endpoint_with_response_stream,
        }[operation]
        for member in members - honoured:
            message = refusal_of(method, **call, **{member: "example"})
            assert message == f"The sandbox does not honour {member} of {operation}."
        assert "Variant Green" in refusal_of(method, **call, TargetVariant="Green")


@pytest.mark.parametrize("size", [1, event_stream.PART_BYTES, 200_000])
def test_a_response_stream_brings_the_answer_in_parts(house, plain, size):
    answer = house.runtime.invoke_endpoint_with_response_stream(
        EndpointName=plain, Body=b"x" * size, ContentType="text/csv", Accept="text/plain",
        TargetVariant="Blue",
    )  # fmt: skip
    assert answer["InvokedProductionVariant"] == "Blue"
    assert answer["ContentType"] == "text/csv; charset=utf-8"
    parts = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
    assert b"".join(parts).decode() == "text/csv text/plain " + "x" * size
    assert len(parts) == -(-(size + 20) // event_stream.PART_BYTES)


def test_a_model_that_refuses_is_a_model_error_of_the_stream_too(house, plain):
    with pytest.raises(house.runtime.exceptions.ModelError, match="no such thing") as raised:
        house.runtime.invoke_endpoint_with_response_stream(
            EndpointName=plain, Body=b"refuse", ContentType="text/csv"
        )
    assert raised.value.response["OriginalStatusCode"] == 415


def test_what_is_asked_asynchronously_is_answered_in_s3(house, later):
    asked = [
        house.ask_later(later, f"{n}", ContentType="text/csv", Accept="text/plain", InferenceId=f"{n}")
        for n in range(3)
    ]  # fmt: skip
    for n, answer in enumerate(asked):
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
        assert answer["InferenceId"] == f"{n}"
        assert answer["OutputLocation"].startswith(f"s3://{house.sandbox.bucket}/answers/")
        found = house.read(answer["OutputLocation"])
        assert found["Body"].read().decode() == f"text/csv text/plain {n}"
        assert found["ContentType"] == "text/csv; charset=utf-8"


def test_what_cannot_be_answered_asynchronously_is_told_where_failures_go(house, later):
    refused = house.ask_later(later, "refuse", ContentType="text/csv")
    missing = house.runtime.invoke_endpoint_async(
        EndpointName=later, InputLocation=f"s3://{house.sandbox.bucket}/questions/none"
    )
    slow = house.ask_later(later, "slow", ContentType="text/csv", InvocationTimeoutSeconds=1)
    for answer, words in (
        (refused, "no such thing"), (missing, "NoSuchKey"), (slow, "timed out"),
    ):  # fmt: skip
        told = house.read(answer["FailureLocation"])["Body"].read().decode()
        assert words in told
    log = (house.sandbox.folder / "logs" / f"{later}.AllTraffic.asynchronous.log").read_text()
    assert "questions/none was not answered" in log


def test_an_endpoint_is_asked_in_its_own_manner(house, plain, later):
    location = f"s3://{house.sandbox.bucket}/x"
    runtime = house.runtime
    call = {"EndpointName": later, "Body": b"1"}
    assert "InvokeEndpointAsync alone" in refusal_of(runtime.invoke_endpoint, **call)
    for changes, words in (
        ({"EndpointName": plain}, "has no AsyncInferenceConfig"),
        ({"EndpointName": "none"}, "Endpoint none of account 000000000000 not found."),
        ({"InputLocation": "https://x/y"}, "InputLocation must be s3://bucket/key"),
        ({"Filename": "x.csv"}, "does not honour Filename of InvokeEndpointAsync"),
        ({"S3OutputPathExtension": "x"}, "does not honour S3OutputPathExtension"),
        ({"Body": b"1"}, "does not honour Body of InvokeEndpointAsync"),
        ({"CustomAttributes": "x" * 1024 + "\u00e9"}, "CustomAttributes"),
    ):
        if not changes.keys() <= known_members(runtime):
            continue  # this botocore has no such member yet
        request = {"EndpointName": later, "InputLocation": location} | changes
        assert words in refusal_of(runtime.invoke_endpoint_async, **request)


def known_members(runtime) -> set[str]:
    shape = runtime.meta.service_model.operation_model("InvokeEndpointAsync").input_shape
    return set(shape.members)


def test_the_aws_cli_says_who_it_is_and_asks_later(house, later):
    def aws(*arguments: str) -> dict:
        environment = house.sandbox.environment
        result = house.sandbox.project.run("aws", *arguments, "--output", "json", **environment)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    assert aws("sts", "get-caller-identity")["Account"] == "000000000000"
    house.s3.put_object(Bucket=house.sandbox.bucket, Key="row.csv", Body=b"1,2")
    location = f"s3://{house.sandbox.bucket}/row.csv"
    answer = aws(
        "sagemaker-runtime", "invoke-endpoint-async", "--endpoint-name", later,
        "--content-type", "text/csv", "--input-location", location,
    )  # fmt: skip
    assert house.read(answer["OutputLocation"])["Body"].read().endswith(b"1,2")


@pytest.mark.slow
def test_what_was_accepted_is_answered_after_the_sandbox_was_killed(own_sandbox):
    house = House(own_sandbox)
    house.endpoint("later", **house.to_s3())
    asked = [house.ask_later("later", f"slow {n}", ContentType="text/csv") for n in range(3)]
    os.kill(own_sandbox.pid, signal.SIGKILL)
    own_sandbox.start()
    house = House(own_sandbox)
    for n, answer in enumerate(asked):
        found = house.read(answer["OutputLocation"])["Body"].read().decode()
        assert found.endswith(f"slow {n}")
