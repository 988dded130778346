"""Any bytes at all, over HTTP: the sandbox refuses them with a 4xx and goes on.

The parsers and the unpacker have tests of this kind beside their own; `make fuzz` runs them all,
with many more inputs.
"""

import io
import json
import socket
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from botocore.exceptions import ClientError
from defusedxml import ElementTree
from hypothesis import given, settings
from hypothesis import strategies as st
from test_candidate_files import phcx

from orchestrator.sandbox.cloudformation import functions, parameters
from orchestrator.sandbox.cloudformation import template as templates
from orchestrator.sandbox.cloudformation.stacks import new_id
from orchestrator.sandbox.errors import AwsError
from scoring import inference

ROWS = [[140.56, 55.68, -0.23, -0.7, 3.2, 19.11, 7.98, 74.24], [1, 2.5, 3, 4, 5, 6, 7, 1e-3]]
buffer = io.BytesIO()
np.save(buffer, np.array(ROWS))
REQUESTS = {
    "text/csv": "\n".join(",".join(map(str, row)) for row in ROWS).encode(),
    "application/json": json.dumps({"instances": ROWS}).encode(),
    "application/x-npy": buffer.getvalue(),
    "application/octet-stream": phcx(),
}
TYPES = st.sampled_from([*REQUESTS, "text/csv; charset=utf-8", "image/png"])
SPLICES = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 9),
        st.binary(max_size=6)
        | st.sampled_from(
            [b"nan", b"1e999", b"-", b'"', b",", b"\n", b"[", b"null", b"\xef\xbb\xbf"]
        ),
    ),
    max_size=4,
)


def spliced(content: bytes, splices: list[tuple[float, int, bytes]]) -> bytes:
    """Valid content with pieces cut out and others put in: what gets past the first checks."""
    for place, cut, piece in splices:
        start = int(place * len(content))
        content = content[:start] + piece + content[start + cut :]
    return content


@pytest.fixture(scope="module")
def model(project):
    return inference.model_fn(str(project.folder / "models"))


@pytest.mark.fuzz
@given(TYPES, st.sampled_from(list(REQUESTS)), SPLICES)
def test_a_nearly_valid_request_is_scored_or_refused(model, content_type, kind, splices):
    body = spliced(REQUESTS[kind], splices)
    if content_type in ("text/csv", "application/json"):
        body = body.decode(errors="replace")  # the container hands these over as text
    prediction = inference.predict_fn(inference.input_fn(body, content_type), model)
    answer = inference.output_fn(prediction, "application/json")
    assert answer.status_code in (200, 400, 415)
    if answer.status_code == 200:
        rows = json.loads(answer.get_data())["predictions"]
        assert all(0 <= row["probability"] <= 1 and row["label"] in (0, 1) for row in rows)


@pytest.mark.fuzz
@given(TYPES, st.sampled_from(list(REQUESTS)), SPLICES, st.binary(max_size=50) | st.none())
def test_an_endpoint_answers_or_blames_the_client(
    sandbox, endpoint, content_type, kind, splices, noise
):
    body = spliced(REQUESTS[kind], splices) if noise is None else noise
    try:
        sandbox.invoke(endpoint, body, content_type)
    except ClientError as error:
        assert error.response["Error"]["Code"] == "ModelError"
        # A text that is no UTF-8 fails in the container itself, as in SageMaker's: 500.
        assert error.response["OriginalStatusCode"] in (400, 415, 500)
        if error.response["OriginalStatusCode"] == 500:
            assert content_type in ("text/csv", "application/json") and not is_utf8(body)


def is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.fuzz
@given(st.sampled_from(["/provisionpipeline", "/pipelinestatus"]), SPLICES, st.text() | st.none())
def test_the_orchestrator_refuses_any_body_with_its_reason(sandbox, path, splices, noise):
    payload = sandbox.payload("fuzz", model_artifact_location="not-there.tar.gz")
    body = spliced(json.dumps(payload | {"pipeline_id": "no-such-stack"}).encode(), splices)
    status, text = sandbox.post(path, body.decode(errors="replace") if noise is None else noise)
    assert status == 400, text
    assert json.loads(text)["message"]


# Text as people and programs send it: odd characters, paths, and nearly right values.
ODD = st.text(max_size=30) | st.text("aZ0-_./:\\\x00\x01\ud800\xe9\u202e ", max_size=80)
KEYS = ("model_name", "endpoint_name", "data_capture_location", "inference_instance",
        "model_artifact_location", "model_framework", "kms_key_arn")  # fmt: skip


@pytest.fixture(scope="module")
def existing(sandbox, archive) -> dict:
    """A payload that would be carried out."""
    sandbox.upload(archive, "fuzz.tar.gz")
    return sandbox.payload("fuzz", model_artifact_location="fuzz.tar.gz")


@pytest.mark.fuzz
@settings(max_examples=max(50, settings().max_examples // 50))
@given(st.dictionaries(st.sampled_from(KEYS), st.tuples(ODD, st.floats(0, 1)), max_size=2))
def test_any_value_is_carried_out_or_refused(sandbox, existing, values):
    """What is accepted is a pipeline, whose status can be read and which can be deleted."""
    payload = dict(existing)
    for key, (text, place) in values.items():
        valid = payload.get(key, "")
        cut = int(place * len(valid))
        payload[key] = valid[:cut] + text + valid[cut:]
    status, text = sandbox.post("/provisionpipeline", payload)
    assert status in (200, 400), text
    if status == 400:
        assert json.loads(text)["detailedMessage"]
        return
    pipeline = json.loads(text)["pipeline_id"]
    status, text = sandbox.post("/pipelinestatus", {"pipeline_id": pipeline})
    assert status == 200, text
    sandbox.client("cloudformation").delete_stack(StackName=pipeline)
    assert sandbox.client("cloudformation").describe_stacks()["Stacks"] is not None


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["Resources", "Type", "Properties", "DependsOn", "Ref", "Fn::GetAtt", "A"])
        | st.sampled_from([*functions.ARGUMENTS, *templates.SECTIONS, *parameters.KEYS])
        | ODD, inner, max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip
NAMES = st.sampled_from(["A", "P", "C", "M", "AWS::Region", "AWS::NoValue", "${A}-${P}", "A.Name"])
VALUES = st.recursive(
    NAMES | st.integers(-1, 3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(list(functions.ARGUMENTS)), inner, min_size=1, max_size=1
    ) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.fuzz
@given(JSONS, st.none() | JSONS)
def test_any_template_is_ordered_or_refused(value, properties):
    resource = {"Type": "AWS::SageMaker::Model", "Properties": value}
    candidates = [value, {"Resources": value}, {"Resources": {"A": resource, "B": properties}}]
    for candidate in candidates:
        try:
            template = templates.parse(json.dumps(candidate))
            templates.check(template, {"AWS::SageMaker::Model": ("ModelName",)}.get)
        except AwsError as error:
            assert error.status == 400
            continue
        assert sorted(templates.in_order(template)) == sorted(template["Resources"])


@pytest.mark.fuzz
@given(VALUES, VALUES, VALUES, st.sampled_from(["one", "", "1,2"]))
def test_any_function_is_resolved_or_refused(value, condition, mapping, text):
    """What is left of a template that is accepted refers to nothing but its resources."""
    template = {
        "Parameters": {"P": {"Type": "CommaDelimitedList"}},
        "Conditions": {"C": {"Fn::Not": [{"Fn::Equals": [condition, "A"]}]}},
        "Mappings": {"M": {"A": {"A": mapping}}},
        "Resources": {
            "A": {"Type": "T", "Properties": {}},
            "B": {"Type": "T", "Properties": {"a": value}},
        },
    }
    try:
        template = templates.parse(json.dumps(template))
        templates.check(template, {"T": ("Name",)}.get)
        texts = parameters.given(
            template["Parameters"], [{"ParameterKey": "P", "ParameterValue": text}], None
        )
        expanded = templates.expand(template, texts, new_id("x"))
        properties = json.loads(json.dumps(expanded["Resources"]["B"]["Properties"]))
        assert functions.references(properties) <= {"A"}
        made = functions.resolved(properties, lambda name, attribute: "made")
    except AwsError as error:
        assert error.status == 400
        return
    assert functions.references(made) == set()


@pytest.mark.fuzz
@given(st.text(st.sampled_from("{}[]:,-!&*#|>?'\"\n %@`<=.~aR0")) | st.text())
def test_any_text_is_a_template_or_refused(text):
    try:
        assert isinstance(templates.parse(text), dict)
    except AwsError as error:
        assert error.status == 400


@pytest.mark.fuzz
@given(
    st.sampled_from(["DescribeStacks", "ListStackResources", "DescribeStackEvents", "DeleteStack"]),
    ODD, ODD,
)  # fmt: skip
def test_any_name_asked_of_cloudformation_is_answered(sandbox, operation, name, more):
    form = {"Action": operation, "Version": "2010-05-15", "StackName": name, more: "x"}
    body = urlencode(form, errors="surrogatepass").encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, text = sandbox.send("cloudformation", "POST", "/", body, headers)
    assert 200 <= status < 500, text
    ElementTree.fromstring(text)


@pytest.mark.fuzz
@given(
    st.sampled_from(["DescribeEndpoint", "DescribeModel", "CreateModel", "ListEndpoints"]), JSONS
)
def test_anything_asked_of_sagemaker_is_answered(sandbox, operation, value):
    headers = {"X-Amz-Target": f"SageMaker.{operation}",
               "Content-Type": "application/x-amz-json-1.1"}  # fmt: skip
    name = operation.removeprefix("Describe").removeprefix("Create") + "Name"
    for body in (value, {name: value}):
        status, text = sandbox.send("sagemaker", "POST", "/", json.dumps(body).encode(), headers)
        assert 200 <= status < 500, text
        json.loads(text)


@pytest.mark.fuzz
@given(SPLICES, st.binary(max_size=200) | st.none())
def test_no_bytes_on_the_socket_stop_the_sandbox(sandbox, splices, noise):
    place = urlsplit(sandbox.url)
    head = f"POST /prod/pipelinestatus HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 2\r\n\r\n{{}}"
    with socket.create_connection((place.hostname, place.port), timeout=5) as connection:
        connection.sendall(spliced(head.encode(), splices) if noise is None else noise)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    if answer:
        status = int(answer.split()[1])
        assert 400 <= status < 500, answer
