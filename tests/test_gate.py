"""Signatures: what botocore's signers sign is let in, and anything that was changed is not."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sandbox.gate import Gate, Refused, scope_of

KEY, SECRET, REGION = "SANDBOXKEY", "a/secret+of=ours", "us-east-1"
GATE = Gate(KEY, SECRET, REGION)
SERVICES = ("execute-api", "sagemaker", "cloudformation", "s3")

segments = st.text(
    st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=12
).filter(lambda text: not text.startswith("."))
pairs = st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=4)
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


def signed(
    service: str, path: str, query: str, headers: dict, body: bytes, key=KEY, secret=SECRET,
    region=REGION, method="POST",
) -> dict[str, str]:  # fmt: skip
    """The headers of a request as botocore signs it, by lower-case name."""
    url = f"http://127.0.0.1:8790{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, data=body, headers=HTTPHeaders.from_dict(headers))
    auth = S3SigV4Auth if service == "s3" else SigV4Auth
    auth(Credentials(key, secret), service, region).add_auth(request)
    found = {name.lower(): value for name, value in request.headers.items()}
    return {"host": "127.0.0.1:8790"} | found


def check(service: str, path: str, query: str, headers: dict, body: bytes, method="POST") -> None:
    digest = hashlib.sha256(body).hexdigest()
    GATE.check(method, path, query, headers, digest, scope_of(headers), service)


def encoded(parts: list[str]) -> str:
    from urllib.parse import quote

    return "".join("/" + quote(part, safe="") for part in parts) or "/"


def encoded_query(found: list[tuple[str, str]]) -> str:
    from urllib.parse import quote

    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in found)


@given(
    st.sampled_from(SERVICES), st.lists(segments, max_size=3), pairs, header_values,
    st.binary(max_size=50),
)  # fmt: skip
def test_what_botocore_signs_is_let_in(service, parts, found, value, body):
    path, query = encoded(parts), encoded_query(found)
    headers = signed(service, path, query, {"x-amz-meta-a": value, "Content-Type": "a/b"}, body)
    check(service, path, query, headers, body)


CHANGES = {
    "another body": lambda r: r | {"body": b"other"},
    "another path": lambda r: r | {"path": "/other"},
    "another query": lambda r: r | {"query": "a=2"},
    "a longer query": lambda r: r | {"query": "a=1&acl="},
    "another method": lambda r: r | {"method": "DELETE"},
    "a signed header of another value": lambda r: r | header(r, "x-amz-target", "other"),
    "a signed header that is gone": lambda r: r | without(r, "x-amz-target"),
    "an unsigned x-amz-acl": lambda r: r | header(r, "x-amz-acl", "private"),
    "an unsigned x-amz-copy-source": lambda r: r | header(r, "x-amz-copy-source", "b/k"),
    "a session token": lambda r: r | header(r, "x-amz-security-token", "x"),
    "another host": lambda r: r | header(r, "host", "example.org"),
    "another signature": lambda r: r | authorization(r, "Signature=", "Signature=0"),
    "no signature": lambda r: r | without(r, "authorization"),
    "no time": lambda r: r | without(r, "x-amz-date"),
    "a host that is not signed": lambda r: r | authorization(r, "host;", ""),
    "another algorithm": lambda r: r | authorization(r, "SHA256 ", "SHA1 "),
    "letters that are none": lambda r: r | authorization(r, "Signature=", "Signature=\udcff"),
    "a second credential": lambda r: r | authorization(r, "Credential=", "Credential=a, Credential="),
}  # fmt: skip


def header(request: dict, name: str, value: str) -> dict:
    return {"headers": request["headers"] | {name: value}}


def without(request: dict, name: str) -> dict:
    return {"headers": {k: v for k, v in request["headers"].items() if k != name}}


def authorization(request: dict, old: str, new: str) -> dict:
    value = request["headers"]["authorization"]
    assert old in value
    return header(request, "authorization", value.replace(old, new)[: len(value)])


def request_of(service: str, **changes) -> dict:
    request = {"method": "POST", "path": "/a", "query": "a=1", "body": b"body"}
    headers = {"x-amz-target": "SageMaker.ListModels"}
    request["headers"] = signed(
        service, request["path"], request["query"], headers, request["body"], **changes
    )
    return request


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_on_the_way_is_refused(service, change):
    request = request_of(service)
    check(service, **request)
    with pytest.raises(Refused):
        check(service, **CHANGES[change](request))


@pytest.mark.parametrize("service", SERVICES)
def test_a_signature_is_good_for_one_key_region_service_and_quarter_of_an_hour(
    service, monkeypatch
):
    other = next(name for name in SERVICES if name != service)
    for wrong, code in (
        (request_of(service, key="NOBODY"), "InvalidClientTokenId"),
        (request_of(service, secret="another"), "SignatureDoesNotMatch"),
        (request_of(service, region="eu-west-1"), "SignatureDoesNotMatch"),
        (request_of(other), "SignatureDoesNotMatch"),
    ):
        with pytest.raises(Refused) as refused:
            check(service, **wrong)
        assert refused.value.code == code
    request = request_of(service)
    for minutes, allowed in ((14, True), (16, False), (-14, True), (-16, False)):

        class Clock(datetime):
            @classmethod
            def now(cls, tz=None, minutes=minutes):
                return datetime.now(tz) + timedelta(minutes=minutes)

        monkeypatch.setattr("orchestrator.sandbox.gate.datetime", Clock)
        if allowed:
            check(service, **request)
        else:
            with pytest.raises(Refused, match="expired"):
                check(service, **request)


def test_the_date_of_the_credential_must_be_that_of_the_request():
    request = request_of("sagemaker")
    yesterday = f"{datetime.now(UTC) - timedelta(days=1):%Y%m%d}"
    today = request["headers"]["x-amz-date"][:8]
    with pytest.raises(Refused, match="date"):
        check("sagemaker", **request | authorization(request, today, yesterday))


@given(st.text(max_size=200), st.text(max_size=20))
def test_any_authorization_is_refused_and_nothing_else(text, time):
    headers = {"authorization": f"AWS4-HMAC-SHA256 {text}", "x-amz-date": time, "host": "h"}
    with pytest.raises(Refused):
        check("sagemaker", "/", "", headers, b"")
