"""AWS's services on the wire: whatever is not honoured is refused by name, in the service's format.

Over HTTP, to the running sandbox, by boto3 with its own checks switched off.
"""

import http.client
import json

import botocore.session
import pytest
from botocore import parsers, xform_name
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sandbox.aws import shapes
from orchestrator.sandbox.aws.wire import Service
from orchestrator.sandbox.cloudformation.api import Api
from orchestrator.sandbox.cloudformation.change_sets import ChangeSets
from orchestrator.sandbox.cloudwatch.logs import Logs
from orchestrator.sandbox.cloudwatch.metrics import Metrics
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.identity import Identity
from orchestrator.sandbox.refusals import refusal
from orchestrator.sandbox.sagemaker.endpoint_configs import EndpointConfigs
from orchestrator.sandbox.sagemaker.endpoints import Endpoints
from orchestrator.sandbox.sagemaker.models import Models
from orchestrator.sandbox.sagemaker.processing_jobs import ProcessingJobs
from orchestrator.sandbox.sagemaker.tags import Tags
from orchestrator.sandbox.sagemaker.transform_jobs import TransformJobs
from orchestrator.sandbox.scheduler.schedules import Schedules
from orchestrator.sandbox.sns.topics import Topics

MODELS = {
    name: botocore.session.get_session().get_service_model(name)
    for name in ("sagemaker", "cloudformation", "sts", "logs", "cloudwatch", "sns", "scheduler")
}
PARTS = {
    "sagemaker": (Models, EndpointConfigs, Endpoints, Tags, TransformJobs, ProcessingJobs),
    "cloudformation": (Api, ChangeSets),
    "sts": (Identity,),
    "logs": (Logs,),
    "cloudwatch": (Metrics,),
    "sns": (Topics,),
    "scheduler": (Schedules,),
}
FUNCTIONS = {
    (service, operation): getattr(part, xform_name(operation))
    for service, parts in PARTS.items()
    for operation in MODELS[service].operation_names
    for part in parts
    if hasattr(getattr(part, xform_name(operation), None), "honours")
}
OPERATIONS = sorted(FUNCTIONS)


def example(shape, depth: int = 0):
    """Some value of a shape, with every member of its structures that is required."""
    kind = shape.type_name
    if kind == "structure":
        return {
            name: example(shape.members[name], depth + 1) for name in shape.required_members
        } or {name: example(member, depth + 1) for name, member in list(shape.members.items())[:1]}
    if kind == "list":
        return [example(shape.member, depth + 1)] if depth < 6 else []
    if kind == "map":
        return {"key": example(shape.value, depth + 1)}
    if kind == "string":
        return (shape.metadata.get("enum") or ["example"])[0]
    return {"boolean": True, "timestamp": "2026-01-01T00:00:00Z", "blob": b"x"}.get(kind, 1)


def unhonoured(shape, tree: dict, path: str = "", depth: int = 0):
    """Every member below a shape that a tree of honoured members leaves out: its path, and a
    request that holds it."""
    if shape.type_name == "list":
        for found, value in unhonoured(shape.member, tree, path, depth):
            yield found, [value]
    if shape.type_name != "structure" or depth > 4:
        return
    for name, member in shape.members.items():
        if name not in tree:
            yield f"{path}{name}", {name: example(member)}
        elif tree[name]:
            for found, value in unhonoured(member, tree[name], f"{path}{name}.", depth + 1):
                yield found, {name: value}


@pytest.mark.parametrize("body", [b"Action=GetCallerIdentity", b"Action=GetFederationToken"])
def test_a_service_of_the_query_protocol_answers_in_its_own_namespace(monkeypatch, body):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    answer = Service("sts", Identity()).answer({}, body)
    assert b'xmlns="https://sts.amazonaws.com/doc/2011-06-15/"' in answer.body


FORM = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}


@pytest.mark.parametrize(
    ("service", "protocol", "headers"),
    [
        ("iam", "query", FORM),
        ("ec2", "ec2", FORM),
        ("dynamodb", "json", {"content-type": "application/x-amz-json-1.0"}),
        ("ecs", "json", {"content-type": "application/x-amz-json-1.1"}),
        ("lambda", "rest-json", {}),
        ("route53", "rest-xml", {"content-type": "application/xml"}),
        ("s3", "rest-xml", {}),
        ("monitoring", "smithy-rpc-v2-cbor", {"smithy-protocol": "rpc-v2-cbor"}),
    ],
)
def test_a_refusal_is_readable_in_the_protocol_that_it_was_asked_in(service, protocol, headers):
    sentence = "<No> service & 'none', " + "\N{SNOWMAN}" * 100
    answer = refusal(service, headers, AwsError("UnknownService", sentence, 404))
    parsed = parsers.create_parser(protocol).parse(
        {
            "status_code": answer.status,
            "headers": {k.lower(): v for k, v in answer.headers.items()},
            "body": answer.body,
        },
        None,
    )
    assert parsed["Error"]["Code"] == "UnknownService"
    assert parsed["Error"]["Message"] == sentence


def sloppy(sandbox, service: str):
    return sandbox.client(
        service,
        config=Config(
            parameter_validation=False, inject_host_prefix=False, retries={"max_attempts": 0}
        ),
    )


def refused(client, operation: str, request: dict) -> dict:
    """The error of an operation, which must be one."""
    with pytest.raises(ClientError) as raised:
        getattr(client, xform_name(operation))(**request)
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    return raised.value.response["Error"]


@pytest.mark.parametrize(("service", "operation"), OPERATIONS)
def test_each_member_that_is_not_honoured_is_refused_by_name(sandbox, service, operation):
    honoured = FUNCTIONS[service, operation].honours._tree
    client, shape = sloppy(sandbox, service), MODELS[service].operation_model(operation).input_shape
    left_out = list(unhonoured(shape, honoured))
    in_path = {
        name: "example"
        for name, member in (shape.members if shape else {}).items()
        if member.serialization.get("location") == "uri"
    }
    for path, request in left_out[:60]:
        error = refused(client, operation, in_path | request)
        assert f"does not honour {path} of {operation}" in error["Message"]
        is_json = MODELS[service].protocol in ("json", "rest-json")
        assert error["Code"] == ("ValidationException" if is_json else "ValidationError")


@pytest.mark.parametrize("service", PARTS)
def test_each_operation_that_is_not_here_is_refused_by_name(sandbox, service):
    client = sloppy(sandbox, service)
    names = [
        name for name in MODELS[service].operation_names
        if (service, name) not in OPERATIONS
        and MODELS[service].operation_model(name).auth_type != "none"  # is not even signed
    ]  # fmt: skip
    for name in names[:: max(1, len(names) // 25)]:
        shape = MODELS[service].operation_model(name).input_shape
        error = refused(client, name, example(shape) if shape else {})
        assert error["Message"] == f"The sandbox does not answer {service}:{name}."


@pytest.mark.parametrize(
    "service", ["iam", "dynamodb", "lambda", "batch", "sqs", "ec2", "route53", "ecs"]
)
def test_each_service_that_is_not_here_is_refused_by_name(sandbox, service):
    client = sloppy(sandbox, service)
    calls = {
        "iam": "list_roles", "dynamodb": "list_tables", "lambda": "list_functions",
        "batch": "list_jobs", "sqs": "list_queues", "ec2": "describe_regions",
        "route53": "list_hosted_zones", "ecs": "list_clusters",
    }  # fmt: skip
    with pytest.raises(ClientError, match=f"no service called {service}") as raised:
        getattr(client, calls[service])()
    assert raised.value.response["Error"]["Code"] == "UnknownService"


@pytest.mark.parametrize(
    ("service", "call", "code"),
    [
        ("sagemaker", "list_models", "InvalidSignatureException"),
        ("sagemaker-runtime", "invoke_endpoint", "InvalidSignatureException"),
        ("cloudformation", "list_stacks", "SignatureDoesNotMatch"),
        ("sts", "get_caller_identity", "SignatureDoesNotMatch"),
    ],
)
def test_a_region_that_is_not_ours_is_refused_as_aws_does(sandbox, service, call, code):
    client = sandbox.client(service, region_name="eu-west-1")
    request = {"EndpointName": "x", "Body": b"1"} if call == "invoke_endpoint" else {}
    with pytest.raises(ClientError, match="a valid region, not 'eu-west-1'") as raised:
        getattr(client, call)(**request)
    assert raised.value.response["Error"]["Code"] == code


@pytest.mark.parametrize("manner", ["regional", "legacy"])
def test_the_caller_is_the_accounts_root_in_both_manners_of_sts(sandbox, monkeypatch, manner):
    monkeypatch.setenv("AWS_STS_REGIONAL_ENDPOINTS", manner)
    caller = sandbox.client("sts").get_caller_identity()
    assert caller["Arn"] == "arn:aws:iam::000000000000:root"


def test_an_unsigned_request_is_refused_in_the_protocol_that_it_came_in(sandbox):
    with pytest.raises(ClientError, match="Missing Authentication Token") as raised:
        sandbox.client("sts").assume_role_with_web_identity(
            RoleArn="arn:aws:iam::000000000000:role/any", RoleSessionName="any",
            WebIdentityToken="none",
        )  # fmt: skip
    assert raised.value.response["Error"]["Code"] == "MissingAuthenticationToken"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"EndpointName": "a" * 64}, "less than or equal to 63"),
        ({"EndpointName": "../../x"}, "regular expression"),
        ({"EndpointName": ["a"]}, "must be a string"),
        ({"EndpointName": None}, "must not be null"),
        ({}, "must not be null"),
    ],
)
def test_values_are_checked_as_sagemaker_checks_them(sandbox, request_, words):
    assert words in refused(sloppy(sandbox, "sagemaker"), "DescribeEndpoint", request_)["Message"]


@pytest.mark.parametrize("path", ["/", "/prod/pipelinestatus", "/endpoints/x/invocations"])
@pytest.mark.parametrize("method", ["HEAD", "GET", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_every_method_is_answered_at_once(sandbox, method, path):
    address = sandbox.url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=3)
    for _ in range(2):  # and the connection is still good
        connection.request(method, path)
        answer = connection.getresponse()
        assert 400 <= answer.status < 500
        assert bool(answer.read()) == (method != "HEAD")
    connection.close()


def test_an_endpoint_takes_no_other_method_and_no_query(sandbox, endpoint, examples):
    for method, query in (("GET", ""), ("PUT", ""), ("POST", "?TargetModel=other")):
        path = f"/endpoints/{endpoint}/invocations{query}"
        status, text = sandbox.send("sagemaker", method, path, examples[0].encode())
        assert (status, json.loads(text)["Message"]) == (
            404,
            f"There is no operation {method} {path}",
        )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"Action=DescribeStacks&Version=2010-05-15&StackNam=x", "no member StackNam"),
        (b"Action=DescribeStacks&Version=2010-05-15&StackName.x=x", "StackName.x"),
        (b"Action=DescribeStacks&Version=2009-01-01", "2010-05-15"),
        (b"Action=DescribeStacks&Action=ListStacks&Version=2010-05-15", "twice"),
        (b"Action=DescribeStack&Version=2010-05-15", "no operation cloudformation:DescribeStack"),
        (b"Action=ListStacks&Version=2010-05-15&StackStatusFilter.member.x=CREATE_COMPLETE", "x"),
        (b"Version=2010-05-15", "no operation"),
        (b"", "no operation"),
        (b"\xff\xfe", "form"),
    ],
)
def test_a_form_that_says_anything_else_is_refused(sandbox, body, words):
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    status, text = sandbox.send("cloudformation", "POST", "/", body, kind)
    assert status == 400, text
    assert "<ErrorResponse" in text
    assert words in text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 100_000, ""),
        (b"[]", ""),
        (b"{", ""),
        (b"\xff", ""),
        (b'{"EndpointName": NaN}', "no JSON"),
    ],
)
def test_json_that_says_anything_else_is_refused(sandbox, body, words):
    target = {"X-Amz-Target": "SageMaker.DescribeEndpoint"}
    status, text = sandbox.send("sagemaker", "POST", "/", body, target)
    assert status == 400, text
    assert json.loads(text)["__type"]
    assert words in text


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["ModelName", "PrimaryContainer", "Image", "Tags", "Key"]) | st.text(),
            inner, max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON_VALUES, st.sampled_from(OPERATIONS))
def test_any_value_at_all_fits_its_shape_or_is_refused(value, operation):
    service, name = operation
    shape = MODELS[service].operation_model(name).input_shape
    try:
        shapes.check(value, shape)
    except shapes.Invalid as error:
        assert str(error)


FORM_KEYS = st.lists(
    st.sampled_from(["Tags", "member", "1", "2", "Key", "Value", "StackName", "x", ""]), max_size=5
).map(".".join)


@given(st.dictionaries(FORM_KEYS, st.text(max_size=10), max_size=6))
def test_a_form_loses_no_key(form):
    """What is read holds as many values as there were keys, or it is refused."""
    shape = MODELS["cloudformation"].operation_model("CreateStack").input_shape
    try:
        found = shapes.from_form(form, shape)
    except shapes.Invalid:
        return

    def count(value) -> int:
        if isinstance(value, dict):
            return sum(map(count, value.values()))
        return (sum(map(count, value)) or 1) if isinstance(value, list) else 1

    assert count(found or {}) == len(form)
