"""Requests that are not quite requests: each is refused with a 4xx that says what is wrong."""

import gzip
import json
import socket
from urllib.parse import urlencode, urlsplit

import pytest
from botocore.exceptions import ClientError

ROWS = "40,30,-0.1,-0.2,10,40,5,{}"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"9" * 400, "model_name must be a string"),
        (b"9" * 5000, "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"NaN", "not valid JSON"),
        (b'"\xff"', "model_name must be printable"),
        (b'"\\ud800"', "model_name must be printable"),
        (b'"\\u0000"', "model_name must be printable"),
    ],
    ids=["400 digits", "5000 digits", "deep", "NaN", "no UTF-8", "a surrogate", "a null"],
)
def test_odd_values(sandbox, value, words):
    body = json.dumps(sandbox.payload("THIS")).encode().replace(b'"THIS"', value, 1)
    status, text = sandbox.send("execute-api", "POST", "/prod/provisionpipeline", body)
    assert status == 400
    assert words in text


@pytest.mark.parametrize("body", [gzip.compress(b"{}", mtime=0), b"\xef\xbb\xbf{}", b"\xff", b""])
def test_bodies_that_are_no_json(sandbox, body):
    status, text = sandbox.send("execute-api", "POST", "/prod/provisionpipeline", body)
    assert status == 400
    assert "not valid JSON" in text


@pytest.mark.parametrize("value", ["\\ud800", "\\u0000", "\\u0001", "\\n"])
@pytest.mark.parametrize(
    ("path", "key"),
    [("/pipelinestatus", "pipeline_id"), ("/pipelines/x/inference", "content_type")],
)
def test_values_that_cannot_be_printed(sandbox, path, key, value):
    body = f'{{"payload": "1", "{key}": "{value}"}}'
    status, text = sandbox.send("execute-api", "POST", f"/prod{path}", body.encode())
    assert status == 400
    assert f"{key} must be printable" in text


def test_a_payload_that_is_no_text(sandbox, endpoint):
    name = f"mlops-pipeline-{endpoint}-byompipelinerealtimebuiltin-codepipeline"
    stacks = sandbox.client("cloudformation").describe_stacks()["Stacks"]
    name = next((s["StackName"] for s in stacks if endpoint in s["StackName"]), name)
    body = b'{"payload": "\\ud800", "content_type": "text/csv"}'
    status, text = sandbox.send("execute-api", "POST", f"/prod/pipelines/{name}/inference", body)
    assert status == 400
    assert "payload" in text


@pytest.mark.parametrize("cell", ["1_0", "٣", "1e5000", "0x10", "nan", "1\x0b2", "1 2", ""])
@pytest.mark.parametrize("content_type", ["text/csv", "application/json"])
def test_cells_that_only_python_takes_for_numbers(sandbox, endpoint, cell, content_type):
    body = ROWS.format(cell)
    if content_type == "application/json":
        body = json.dumps(body.split(","))
    with pytest.raises(ClientError) as refused:
        sandbox.invoke(endpoint, body.encode(), content_type)
    assert refused.value.response["OriginalStatusCode"] == 400
    assert "column 8" in refused.value.response["Error"]["Message"]


def test_a_number_of_400_digits(sandbox, endpoint):
    body = f"[{ROWS.format('9' * 400)}]"
    with pytest.raises(ClientError) as refused:
        sandbox.invoke(endpoint, body, "application/json")
    assert "column 8" in refused.value.response["Error"]["Message"]


@pytest.mark.parametrize(
    "header",
    ["é", "AWS4-HMAC-SHA256 Credential=é/20260101/us-east-1/execute-api/aws4_request, "
     "SignedHeaders=host, Signature=" + "0" * 64,
     "AWS4-HMAC-SHA256 Credential=A/٢٠٢٦٠١٠١/us-east-1/execute-api/aws4_request, "
     "SignedHeaders=host, Signature=" + "0" * 64,
     "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/execute-api/aws4_request, "
     "SignedHeaders=host, Signature=" + "é" * 64],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("place", ["url", "s3_url"])
def test_signatures_that_are_not_ascii(sandbox, header, encoding, place):
    where = urlsplit(getattr(sandbox, place))
    lines = [b"POST /prod/pipelinestatus HTTP/1.1", b"Host: x", b"X-Amz-Date: 20260101T000000Z",
             b"Authorization: " + header.encode(encoding, "replace"), b"Content-Length: 0"]  # fmt: skip
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        status = int(connection.recv(200).split()[1])
    assert 400 <= status < 500


MODEL = {"Type": "AWS::SageMaker::Model"}
DEEP = '{"a":' * 100_000
NESTED = json.dumps({"Resources": {"A": MODEL}, "Metadata": json.loads("[" * 200 + "]" * 200)})


@pytest.mark.parametrize(
    ("template", "words"),
    [("[]", "unsupported structure"), ('"x"', "unsupported structure"), ("null", "unsupported structure"),
     (DEEP, "51200"), (NESTED, "nested too deeply"), ("{}", "Resources"),
     ('{"Resources": []}', "Resources"), ('{"Resources": {"A": []}}', "Type"),
     ('{"Resources": {"A": {"Type": 1}}}', "Type"),
     ('{"Resources": {"A": {"Type": "AWS::SageMaker::Model", "Properties": 3}}}', "Properties"),
     ('{"Resources": {"A": {"Type": "AWS::SageMaker::Model", "Properties": null}}}', "Properties"),
     ("\ud800", "")],
    ids=["list", "text", "null", "deep", "nested", "empty", "no object", "no type", "odd type",
         "odd properties", "no properties", "surrogate"],
)  # fmt: skip
def test_templates(sandbox, template, words):
    form = {"Action": "CreateStack", "Version": "2010-05-15", "StackName": "odd"}
    body = urlencode(form | {"TemplateBody": template}, errors="surrogatepass")
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, text = sandbox.send("cloudformation", "POST", "/", body.encode(), headers)
    assert status == 400
    assert words in text


def test_a_resource_without_properties_fails_and_says_which_is_missing(sandbox):
    cloudformation = sandbox.client("cloudformation")
    template = json.dumps({"Resources": {"A": MODEL}})
    created = cloudformation.create_stack(StackName="bare", TemplateBody=template)
    with pytest.raises(Exception, match="ROLLBACK_COMPLETE"):
        cloudformation.get_waiter("stack_create_complete").wait(
            StackName=created["StackId"], WaiterConfig={"Delay": 1, "MaxAttempts": 30}
        )
    events = cloudformation.describe_stack_events(StackName=created["StackId"])["StackEvents"]
    assert any("PrimaryContainer" in event.get("ResourceStatusReason", "") for event in events)
    cloudformation.delete_stack(StackName="bare")
