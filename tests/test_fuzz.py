"""Any bytes at all, over HTTP: the sandbox refuses them with a 4xx and goes on.

The parsers and the unpacker have tests of this kind beside their own; `make fuzz` runs them all,
with many more inputs.
"""

import io
import json
import socket
from urllib.parse import urlsplit

import numpy as np
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from scoring import inference

ROWS = [[140.56, 55.68, -0.23, -0.7, 3.2, 19.11, 7.98, 74.24], [1, 2.5, 3, 4, 5, 6, 7, 1e-3]]
buffer = io.BytesIO()
np.save(buffer, np.array(ROWS))
REQUESTS = {
    "text/csv": "\n".join(",".join(map(str, row)) for row in ROWS).encode(),
    "application/json": json.dumps({"instances": ROWS}).encode(),
    "application/x-npy": buffer.getvalue(),
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
