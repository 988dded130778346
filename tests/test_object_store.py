"""S3, behaviour by behaviour: what AWS does, held against the sandbox's store.

Every test states what S3 does. Where the store differs or refuses, `here` says how, and the test
holds it to that: a difference that is none any more fails as well. The table in
docs/object-store.md is made from these lines:

    python tests/test_object_store.py           # writes it

S3_CONFORMANCE=aws runs the same tests against AWS, with the credentials of the AWS CLI, in buckets
that are deleted afterwards; that costs a few cents.
"""

import base64
import contextlib
import functools
import hashlib
import html
import http.client
import io
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit

import boto3
import pytest
from botocore import handlers
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum
from botocore.httpsession import URLLib3Session

ROOT = Path(__file__).resolve().parent.parent

AWS = os.environ.get("S3_CONFORMANCE") == "aws"
DOCUMENT = ROOT / "docs" / "object-store.md"
BEGIN, END = "<!-- made by tests/test_object_store.py -->\n", "<!-- end -->\n"
MB = 1 << 20
REFUSED = "refused"
TABLE: list[tuple[str, str, str]] = []


def s3_does(group: str, what: str, here: str = ""):
    """A behaviour of S3's; `here` is how the store differs, beginning with `refused` where it
    refuses."""

    def decorate(test):
        TABLE.append((group, what, here))
        if AWS or not here:
            return test

        @functools.wraps(test)
        def differs(*arguments, **named):
            try:
                test(*arguments, **named)
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                assert 400 <= status < 500 or status == 501, error
            except AssertionError:
                assert not here.startswith(REFUSED), "it was not refused"
            else:
                raise AssertionError(f"the store does as S3 does: {what}")

        return differs

    return decorate


class Store:
    """The store under test, the sandbox's or AWS's."""

    def __init__(self, url: str | None, credentials: Credentials, region: str) -> None:
        self.url, self.credentials, self.region = url, credentials, region

    def client(self, **changes):
        config = Config(
            signature_version="s3v4", retries={"max_attempts": 0}, read_timeout=60,
            max_pool_connections=20, s3={"addressing_style": "path"},
        )  # fmt: skip
        usual = {
            "aws_access_key_id": self.credentials.access_key,
            "aws_secret_access_key": self.credentials.secret_key,
            "aws_session_token": self.credentials.token,
            "region_name": self.region,
            "endpoint_url": self.url,
        }
        config = config.merge(changes.pop("config", Config()))
        return boto3.client("s3", **usual | changes, config=config)

    def raw(self, method: str, path: str, body: bytes = b"", headers=None, payload=None) -> tuple:
        """A signed request of one's own making, its path sent as it stands: status and text."""

        class Signer(S3SigV4Auth):
            def payload(self, request):
                return payload or super().payload(request)

        url = urlsplit(self.url or f"https://s3.{self.region}.amazonaws.com")
        request = AWSRequest(method, url.geturl() + path, data=body, headers=headers or {})
        Signer(self.credentials, "s3", self.region).add_auth(request)
        https = url.scheme == "https"
        kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
        with contextlib.closing(kind(url.netloc, timeout=30)) as connection:
            connection.request(method, path, body, dict(request.headers.items()))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


@pytest.fixture(scope="module")
def store(request) -> Store:
    if AWS:
        session = boto3.Session()
        return Store(None, session.get_credentials().get_frozen_credentials(), session.region_name)
    sandbox = request.getfixturevalue("sandbox")
    keys = (sandbox.environment["AWS_ACCESS_KEY_ID"], sandbox.environment["AWS_SECRET_ACCESS_KEY"])
    return Store(sandbox.s3_url, Credentials(*keys), "us-east-1")


@pytest.fixture(scope="module")
def s3(store):
    return store.client()


def empty(s3, bucket: str) -> None:
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for item in page.get("Versions", []) + page.get("DeleteMarkers", []):
            s3.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            s3.delete_object(Bucket=bucket, Key=item["Key"])


@pytest.fixture
def bucket(s3) -> str:
    """An empty bucket of the test's own."""
    name = f"conformance-{uuid.uuid4().hex[:16]}"
    s3.create_bucket(Bucket=name)
    yield name
    with contextlib.suppress(ClientError):
        if AWS:
            empty(s3, name)
        s3.delete_bucket(Bucket=name)


def refused(call) -> tuple[int, str]:
    """Status and code of what a call is refused with."""
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def keys(s3, bucket: str, **options) -> list[str]:
    listed = s3.list_objects_v2(Bucket=bucket, **options)
    return [item["Key"] for item in listed.get("Contents", [])]


def read(s3, bucket: str, key: str, **options) -> bytes:
    return s3.get_object(Bucket=bucket, Key=key, **options)["Body"].read()


def fill(s3, bucket: str, names) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: s3.put_object(Bucket=bucket, Key=name, Body=b"1"), names))


# -- objects --------------------------------------------------------------------------


@s3_does("objects", "content, user metadata and the headers that describe it are kept")
def test_metadata(s3, bucket):
    described = {
        "Metadata": {"a-b": "c d", "x": "1"}, "ContentType": "text/x", "CacheControl": "no-cache",
        "ContentDisposition": 'attachment; filename="x"', "ContentEncoding": "gzip",
        "ContentLanguage": "de",
    }  # fmt: skip
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1", **described)["ETag"]
    assert etag == f'"{hashlib.md5(b"1").hexdigest()}"'
    head = s3.head_object(Bucket=bucket, Key="k")
    assert {key: head.get(key) for key in described} == described
    assert head["ContentLength"] == 1 and head["ETag"] == etag
    assert read(s3, bucket, "k") == b"1"


@s3_does("objects", "without a Content-Type it is binary/octet-stream")
def test_default_type(s3, bucket):
    s3.put_object(Bucket=bucket, Key="page.html", Body=b"1")
    assert s3.head_object(Bucket=bucket, Key="page.html")["ContentType"] == "binary/octet-stream"


@s3_does("objects", "more than 2 KB of user metadata are refused")
def test_metadata_limit(s3, bucket):
    much = {"a": "x" * 2049}
    put = {"Bucket": bucket, "Key": "k", "Body": b"1", "Metadata": much}
    assert refused(lambda: s3.put_object(**put)) == (400, "MetadataTooLarge")


@s3_does("objects", "empty ones, and ones of many megabytes, come back as they were")
def test_sizes(s3, bucket):
    for content in (b"", os.urandom(9 * MB)):
        s3.put_object(Bucket=bucket, Key="k", Body=content)
        assert read(s3, bucket, "k") == content


@s3_does("objects", "what is not there is NoSuchKey, and to delete it is no error")
def test_missing(s3, bucket):
    assert refused(lambda: s3.get_object(Bucket=bucket, Key="x")) == (404, "NoSuchKey")
    assert refused(lambda: s3.head_object(Bucket=bucket, Key="x"))[0] == 404
    assert s3.delete_object(Bucket=bucket, Key="x")["ResponseMetadata"]["HTTPStatusCode"] == 204


@s3_does("objects", "a storage class is kept")
def test_storage_class(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", StorageClass="STANDARD_IA")
    assert s3.head_object(Bucket=bucket, Key="k")["StorageClass"] == "STANDARD_IA"


@s3_does("objects", "server-side encryption with S3's own keys is kept and told")
def test_encryption(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", ServerSideEncryption="AES256")
    assert s3.head_object(Bucket=bucket, Key="k")["ServerSideEncryption"] == "AES256"
    assert read(s3, bucket, "k") == b"1"


@s3_does("objects", "encryption with a KMS key", here="refused: there is no KMS")
def test_kms(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", ServerSideEncryption="aws:kms")
    assert s3.head_object(Bucket=bucket, Key="k")["ServerSideEncryption"] == "aws:kms"


@s3_does("objects", "encryption with the client's key", here="refused")
def test_customer_key(s3, bucket):
    key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": os.urandom(32)}
    store_url = s3.meta.endpoint_url
    assert AWS or store_url.startswith("http://127.0.0.1")
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", **key)
    assert read(s3, bucket, "k", **key) == b"1"


@s3_does("objects", "writing into the middle of one is refused in a bucket of the usual kind")
def test_append(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    appended = {"Bucket": bucket, "Key": "k", "Body": b"2", "WriteOffsetBytes": 1}
    assert refused(lambda: s3.put_object(**appended))[0] in (400, 501)
    assert read(s3, bucket, "k") == b"1"


@s3_does("objects", "attributes of one can be asked for", here="refused: its checksums are lost")
def test_attributes(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", ChecksumAlgorithm="SHA256")
    asked = s3.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["Checksum", "ObjectSize"]
    )
    assert asked["ObjectSize"] == 1 and asked["Checksum"]["ChecksumSHA256"]


# -- keys -----------------------------------------------------------------------------

ODD_KEYS = [
    "a b", "ä/ö", "日本/語", "emoji-😀", "a+b", "a%2Fb", "a%b", "a?b", "a#b", "a&b=c", "a;b", "a:b",
    "a@b", "a*b", "a|b", 'a"b', "a'b", "a<b>", "a`b", "a{b}", "a[b]", "a^b", "a~b", "a!b", "a$b",
    "a,b", "a=b", "-a", ".a", "a.", "...", "a/...", "..a", "a..b", "x/.hidden", "tab\there",
    "nl\nhere", "\x01ctl", "\x7f", "a" * 255, "d/" * 100 + "x", "é", "e\u0301", ".system", "v_null",
    "null", "~", "_", "$", "C:", "con", "%00x", "%", "%%", "+",
]  # fmt: skip


@s3_does("keys", f"{len(ODD_KEYS)} odd ones are kept, listed, found and deleted as they are")
def test_odd_keys(s3, bucket):
    def one(key: str) -> str | None:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        content = read(s3, bucket, key)
        found = key in keys(s3, bucket, Prefix=key)
        return None if content == key.encode() and found else key

    with ThreadPoolExecutor(8) as pool:
        assert [key for key in pool.map(one, ODD_KEYS) if key] == []
    assert keys(s3, bucket) == sorted(ODD_KEYS, key=str.encode)
    for key in ODD_KEYS:
        s3.delete_object(Bucket=bucket, Key=key)
    assert keys(s3, bucket) == []


@s3_does("keys", "a key has up to 1 024 bytes")
def test_long_key(s3, bucket):
    key = "/".join(["x" * 200] * 5) + "/" + "y" * 18
    s3.put_object(Bucket=bucket, Key=key, Body=b"1")
    assert keys(s3, bucket) == [key]
    long = {"Bucket": bucket, "Key": key + "12", "Body": b"1"}
    assert refused(lambda: s3.put_object(**long)) == (400, "KeyTooLongError")


def keeps(store: Store, s3, bucket: str, key: str) -> bool:
    """Whether the key is kept; where it is not, nothing is there under another one either. Sent
    raw: clients take `a/../b` for `b` before it leaves them."""
    path = f"/{bucket}/{quote(key, safe='/~')}"
    status, text = store.raw("PUT", path, key.encode())
    if status == 200:
        assert (keys(s3, bucket), store.raw("GET", path)[1]) == ([key], key)
        store.raw("DELETE", path)
        return True
    assert status == 400 and repr(key[:100])[1:-1] in html.unescape(text), text
    assert store.raw("GET", path)[0] == 404 and keys(s3, bucket) == []
    return False


UNKEPT = {
    "with empty parts: //": ["a//b", "/lead", "//", "a//", "/"],
    "with . and .. as parts": ["a/./b", "a/../b", "./a", "../a", "a/.", "a/..", ".", ".."],
    "with a backslash": ["b\\s", "\\", "a/\\/b", "s3:\\"],
    "with a part of more than 255 bytes": ["x" * 256, "d/" + "x" * 256, "é" * 128],
    "with parts that end in .versions, or beginning with .uploads": [
        "k.versions", "a/b.versions/c", ".versions", ".uploads", ".uploads/x",
    ],
}  # fmt: skip


def _unkept(title: str, names: list[str]):
    @s3_does("keys", title, here="refused, by name; such keys are NoSuchKey when asked for")
    def test(store, s3, bucket):
        kept = [keeps(store, s3, bucket, name) for name in names]
        assert len(set(kept)) == 1, dict(zip(names, kept, strict=True))
        if not kept[0]:
            raise ClientError({"ResponseMetadata": {"HTTPStatusCode": 400}}, "PutObject")

    return test


test_keys_with_empty_parts = _unkept(*list(UNKEPT.items())[0])
test_keys_with_dots = _unkept(*list(UNKEPT.items())[1])
test_keys_with_backslashes = _unkept(*list(UNKEPT.items())[2])
test_keys_with_long_parts = _unkept(*list(UNKEPT.items())[3])
test_keys_of_the_stores_own = _unkept(*list(UNKEPT.items())[4])


@s3_does("keys", "`a` and `a/b` are both there, whichever came first, and go one by one")
def test_file_and_folder(s3, bucket):
    for first, second in (("a", "a/b"), ("c/d", "c")):
        s3.put_object(Bucket=bucket, Key=first, Body=first.encode())
        s3.put_object(Bucket=bucket, Key=second, Body=second.encode())
        assert read(s3, bucket, first) == first.encode()
        assert read(s3, bucket, second) == second.encode()
        assert keys(s3, bucket) == sorted([first, second])
        s3.delete_object(Bucket=bucket, Key=first)
        assert keys(s3, bucket) == [second]
        assert read(s3, bucket, second) == second.encode()
        s3.delete_object(Bucket=bucket, Key=second)


@s3_does("keys", "`folder/` can be an empty object, apart from what is below it")
def test_folder_marker(s3, bucket):
    fill(s3, bucket, ["g/x"])
    assert refused(lambda: s3.get_object(Bucket=bucket, Key="g")) == (404, "NoSuchKey")
    assert refused(lambda: s3.get_object(Bucket=bucket, Key="g/")) == (404, "NoSuchKey")
    assert refused(lambda: s3.head_object(Bucket=bucket, Key="g/"))[0] == 404
    s3.put_object(Bucket=bucket, Key="f/", Body=b"")
    assert keys(s3, bucket) == ["f/", "g/x"]
    assert s3.head_object(Bucket=bucket, Key="f/")["ContentLength"] == 0
    fill(s3, bucket, ["f/x"])
    for gone in ("g", "g/"):
        s3.delete_object(Bucket=bucket, Key=gone)
    assert keys(s3, bucket) == ["f/", "f/x", "g/x"]
    s3.delete_object(Bucket=bucket, Key="f/x")
    assert keys(s3, bucket) == ["f/", "g/x"]
    s3.delete_object(Bucket=bucket, Key="f/")
    assert keys(s3, bucket) == ["g/x"]


@s3_does("keys", "`folder/` can have content", here="refused: the store would lose it")
def test_folder_with_content(s3, bucket):
    s3.put_object(Bucket=bucket, Key="f/", Body=b"content")
    assert read(s3, bucket, "f/") == b"content"


@s3_does("keys", "`folder/` can have user metadata", here="refused: the store would lose them")
def test_folder_with_metadata(s3, bucket):
    s3.put_object(Bucket=bucket, Key="f/", Body=b"", Metadata={"a": "b"})
    assert s3.head_object(Bucket=bucket, Key="f/")["Metadata"] == {"a": "b"}


@s3_does("keys", "`folder/` can have a media type of its own")
def test_folder_with_a_type(s3, bucket):
    s3.put_object(Bucket=bucket, Key="f/", Body=b"", ContentType="text/x")
    assert s3.head_object(Bucket=bucket, Key="f/")["ContentType"] == "text/x"


@s3_does("keys", "of writers of `a`, `a/b` and `a/b/c` at the same moment none is lost")
def test_racing_files_and_folders(s3, bucket):
    for turn in range(6):
        names = [f"{turn}/{n:02}{end}" for n in range(30) for end in ("", "/x", "/x/y", ".csv")]
        fill(s3, bucket, names)
        assert [name for name in names if read(s3, bucket, name) != b"1"] == []
        assert keys(s3, bucket, Prefix=f"{turn}/") == sorted(names)


# -- checksums ------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
@s3_does("checksums", "CRC32, SHA1 and SHA256 are checked, kept and told")
def test_checksum(s3, bucket, algorithm):
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"hello", ChecksumAlgorithm=algorithm)
    name = f"Checksum{algorithm}"
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert put[name] == head[name]


WRONG = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32}


@pytest.mark.parametrize("algorithm", WRONG)
@s3_does("checksums", "a wrong one of any of the five algorithms is refused, and nothing is kept")
def test_wrong_checksum(s3, bucket, algorithm):
    wrong = {f"Checksum{algorithm}": base64.b64encode(b"1" * WRONG[algorithm]).decode()}
    put = {"Bucket": bucket, "Key": "k", "Body": b"hello"} | wrong
    assert refused(lambda: s3.put_object(**put)) in ((400, "BadDigest"), (400, "InvalidRequest"))
    assert keys(s3, bucket) == []


@s3_does("checksums", "a wrong Content-MD5 is refused, and so is one that is none")
def test_wrong_md5(s3, bucket):
    put = {"Bucket": bucket, "Key": "k", "Body": b"hello"}
    wrong = base64.b64encode(b"1" * 16).decode()
    assert refused(lambda: s3.put_object(**put, ContentMD5=wrong)) == (400, "BadDigest")
    assert refused(lambda: s3.put_object(**put, ContentMD5="xx")) == (400, "InvalidDigest")
    assert keys(s3, bucket) == []


@s3_does("checksums", "a body that is not the one whose hash was signed is refused")
def test_tampered_body(store, s3, bucket):
    plain = Config(
        request_checksum_calculation="when_required", s3={"payload_signing_enabled": True}
    )
    client = store.client(config=plain)

    def tamper(request, **_):
        request.body = b"something else!"

    # After signing, before sending: where a man in the middle would be.
    client.meta.events.register("before-send.s3.PutObject", tamper)
    put = {"Bucket": bucket, "Key": "k", "Body": b"what was signed"}
    assert refused(lambda: client.put_object(**put)) == (400, "XAmzContentSHA256Mismatch")
    assert keys(s3, bucket) == []


def trailed(content: bytes) -> bytes:
    """A body in aws-chunked framing, its CRC32 behind it."""
    wrapper = AwsChunkedWrapper(
        io.BytesIO(content), checksum_cls=Crc32Checksum, checksum_name="x-amz-checksum-crc32",
        chunk_size=65536,
    )  # fmt: skip
    return wrapper.read()


def trailer_headers(length: int, **more: str) -> dict[str, str]:
    return {
        "X-Amz-Trailer": "x-amz-checksum-crc32", "Content-Encoding": "aws-chunked",
        "X-Amz-Decoded-Content-Length": str(length),
    } | more  # fmt: skip


UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


@s3_does("checksums", "a body in chunks with its checksum behind it is kept without the framing")
def test_trailer(store, s3, bucket):
    content = os.urandom(3 * MB)
    put = ("PUT", f"/{bucket}/k", trailed(content), trailer_headers(len(content)))
    assert store.raw(*put, payload=UNSIGNED_TRAILER)[0] == 200
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"] == base64.b64encode(zlib.crc32(content).to_bytes(4)).decode()
    assert "ContentEncoding" not in head
    assert read(s3, bucket, "k") == content


@s3_does("checksums", "in chunks, a wrong checksum, a wrong length or a missing end are refused")
def test_wrong_trailer(store, s3, bucket):
    content = os.urandom(100_000)
    good = trailed(content)
    short = trailer_headers(len(content) - 1)
    for body, headers in (
        (good.replace(b"crc32:", b"crc32:AAAA"), trailer_headers(len(content))),
        (good, short),
        (good[: good.index(b"0\r\nx-amz")], trailer_headers(len(content))),
        (b"zz\r\n" + good, trailer_headers(len(content))),
    ):
        status, text = store.raw("PUT", f"/{bucket}/k", body, headers, UNSIGNED_TRAILER)
        assert 400 <= status < 500, text
    assert keys(s3, bucket) == []


def signed_chunks(store: Store, path: str, content: bytes, alter=lambda chunk: chunk) -> tuple:
    """An upload whose chunks are signed one by one, as the AWS SDKs for Java and Go send it."""
    empty_hash, size = hashlib.sha256(b"").hexdigest(), 65536
    signer = S3SigV4Auth(store.credentials, "s3", store.region)
    url = (store.url or f"https://s3.{store.region}.amazonaws.com") + path
    request = AWSRequest("PUT", url, headers={
        "X-Amz-Decoded-Content-Length": str(len(content)), "Content-Encoding": "aws-chunked",
    })  # fmt: skip
    signer.payload = lambda request: "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    signer.add_auth(request)
    signature = request.headers["Authorization"].rpartition("=")[2]
    body = b""
    for start in [*range(0, len(content), size), len(content)]:
        chunk = content[start : start + size]
        text = "\n".join(
            ["AWS4-HMAC-SHA256-PAYLOAD", request.context["timestamp"],
             signer.credential_scope(request), signature, empty_hash,
             hashlib.sha256(chunk).hexdigest()]
        )  # fmt: skip
        signature = signer.signature(text, request)
        body += b"%x;chunk-signature=%s\r\n%s\r\n" % (
            len(chunk), signature.encode(), alter(chunk) if start else chunk,
        )  # fmt: skip
    request.data = body
    request.headers["Content-Length"] = str(len(body))
    answer = URLLib3Session(timeout=30).send(request.prepare())
    return answer.status_code, answer.text


@s3_does("checksums", "signed chunks are kept; one that is not what was signed is refused")
def test_signed_chunks(store, s3, bucket):
    content = os.urandom(200_000)
    assert signed_chunks(store, f"/{bucket}/k", content)[0] == 200
    assert read(s3, bucket, "k") == content
    status, text = signed_chunks(store, f"/{bucket}/other", content, lambda c: c[::-1])
    assert status == 403 and "SignatureDoesNotMatch" in text
    assert keys(s3, bucket) == ["k"]


# -- conditions -----------------------------------------------------------------------


@s3_does("conditions", "If-None-Match: * writes only what is not there")
def test_if_none_match(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")
    put = {"Bucket": bucket, "Key": "k", "Body": b"2", "IfNoneMatch": "*"}
    assert refused(lambda: s3.put_object(**put)) == (412, "PreconditionFailed")
    assert read(s3, bucket, "k") == b"1"


def winners(store: Store, bucket: str, **condition: str) -> list[int]:
    """Twenty writers of one key at the same moment: those that were let."""
    clients, go = [store.client() for _ in range(20)], threading.Barrier(20)

    def write(number: int) -> int | None:
        go.wait()
        try:
            clients[number].put_object(
                Bucket=bucket, Key="race", Body=body(number, condition), **condition
            )
            return number
        except ClientError as error:
            code = error.response["Error"]["Code"]
            assert code in ("PreconditionFailed", "ConditionalRequestConflict"), error
            return None

    with ThreadPoolExecutor(20) as pool:
        return [number for number in pool.map(write, range(20)) if number is not None]


def body(number: int, condition: dict) -> bytes:
    """Every writer's own in every race: who writes what is there leaves its ETag as it is."""
    return f"{number} {condition}".encode() * 1000


@s3_does("conditions", "of twenty that race with If-None-Match or If-Match, one wins")
def test_races(store, s3, bucket):
    won = winners(store, bucket, IfNoneMatch="*")
    assert len(won) == 1
    assert read(s3, bucket, "race") == body(won[0], {"IfNoneMatch": "*"})
    etag = s3.head_object(Bucket=bucket, Key="race")["ETag"]
    assert len(winners(store, bucket, IfMatch=etag)) == 1


@s3_does("conditions", "If-Match writes only over what it names")
def test_if_match(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    put = {"Bucket": bucket, "Key": "k", "Body": b"2"}
    other = '"00000000000000000000000000000000"'
    assert refused(lambda: s3.put_object(**put, IfMatch=other)) == (412, "PreconditionFailed")
    s3.put_object(**put, IfMatch=etag)
    assert read(s3, bucket, "k") == b"2"


@s3_does("conditions", "If-Match on what is not there is 404", here="it is 412")
def test_if_match_on_nothing(s3, bucket):
    put = {"Bucket": bucket, "Key": "k", "Body": b"1", "IfMatch": '"x"'}
    assert refused(lambda: s3.put_object(**put)) == (404, "NoSuchKey")


@s3_does("conditions", "reading: If-Match, If-None-Match, If-(Un)Modified-Since")
def test_reading_conditions(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    for condition, status in (
        ({"IfNoneMatch": etag}, 304), ({"IfMatch": '"x"'}, 412),
        ({"IfUnmodifiedSince": datetime(2020, 1, 1, tzinfo=UTC)}, 412),
        ({"IfModifiedSince": modified}, 304),
    ):  # fmt: skip
        found = refused(lambda c=condition: s3.get_object(Bucket=bucket, Key="k", **c))
        assert found[0] == status, condition
    assert refused(lambda: s3.head_object(Bucket=bucket, Key="k", IfNoneMatch=etag))[0] == 304
    assert read(s3, bucket, "k", IfMatch=etag) == b"1"


@s3_does("conditions", "deleting and completing an upload can have conditions, too")
def test_other_conditions(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    assert refused(lambda: s3.delete_object(Bucket=bucket, Key="k", IfMatch='"x"'))[0] == 412
    upload, parts = begun(s3, bucket, "k", [b"x"])
    done = {"Bucket": bucket, "Key": "k", "UploadId": upload, "MultipartUpload": {"Parts": parts}}
    complete = s3.complete_multipart_upload
    assert refused(lambda: complete(**done, IfNoneMatch="*")) == (412, "PreconditionFailed")
    assert read(s3, bucket, "k") == b"1"


# -- copies ---------------------------------------------------------------------------


@s3_does("copies", "take metadata and tags along, or are given new ones")
def test_copy(s3, bucket):
    described = {"Metadata": {"a": "b"}, "ContentType": "text/x", "Tagging": "t=1"}
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", **described)
    s3.copy_object(Bucket=bucket, Key="c", CopySource=f"{bucket}/k")
    head = s3.head_object(Bucket=bucket, Key="c")
    assert (head["Metadata"], head["ContentType"]) == ({"a": "b"}, "text/x")
    tags = s3.get_object_tagging(Bucket=bucket, Key="c")["TagSet"]
    assert tags == [{"Key": "t", "Value": "1"}]
    new = {"Metadata": {"z": "y"}, "MetadataDirective": "REPLACE", "ContentType": "text/y"}
    s3.copy_object(Bucket=bucket, Key="k", CopySource=f"{bucket}/k", **new)
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["Metadata"], head["ContentType"]) == ({"z": "y"}, "text/y")
    assert read(s3, bucket, "k") == b"1"


DESCRIBED = {
    "Metadata": {"a": "b", "kept-not": "1"}, "ContentType": "text/x", "CacheControl": "no-cache",
    "ContentDisposition": "attachment", "ContentEncoding": "gzip", "ContentLanguage": "pt-BR",
}  # fmt: skip
REPLACED = {"Metadata": {"x": "y"}, "ContentType": "text/y", "ContentLanguage": "de"}


def description(s3, bucket: str, key: str, **options) -> dict:
    head = s3.head_object(Bucket=bucket, Key=key, **options)
    return {name: head[name] for name in DESCRIBED if name in head}


def tags(s3, bucket: str, key: str) -> dict[str, str]:
    found = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in found}


@s3_does("copies", "with REPLACE get what is sent, and no metadata or header of the source")
def test_copy_with_other_metadata(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1", Tagging="t=1", **DESCRIBED)["ETag"]
    copy = {"Bucket": bucket, "CopySource": f"{bucket}/k"}
    for key in ("c", "k"):  # to another, and onto itself
        copied = s3.copy_object(**copy, Key=key, MetadataDirective="REPLACE", **REPLACED)
        assert copied["CopyObjectResult"]["ETag"] == etag, "with its quotes"
        assert description(s3, bucket, key) == REPLACED
        s3.copy_object(**copy, Key=key, MetadataDirective="REPLACE", Metadata={"z": "1"})
        wanted = {"Metadata": {"z": "1"}, "ContentType": "binary/octet-stream"}
        assert description(s3, bucket, key) == wanted
        assert read(s3, bucket, key) == b"1"
        assert s3.head_object(Bucket=bucket, Key=key)["ETag"] == etag
        assert tags(s3, bucket, key) == {"t": "1"}, "the tags have a directive of their own"


@s3_does("copies", "without REPLACE, metadata and headers that are sent are left aside")
def test_copy_with_metadata_but_without_replace(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", Tagging="t=1", **DESCRIBED)
    for directive in ({}, {"MetadataDirective": "COPY"}):
        copy = {"Bucket": bucket, "Key": "c", "CopySource": f"{bucket}/k"}
        s3.copy_object(**copy, **REPLACED, **directive)
        assert description(s3, bucket, "c") == DESCRIBED


@s3_does("copies", "with new tags keep the metadata")
def test_copy_with_other_tags(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", Tagging="t=1", **DESCRIBED)
    new = {"CopySource": f"{bucket}/k", "TaggingDirective": "REPLACE", "Tagging": "u=2"}
    for key in ("c", "k"):
        s3.copy_object(Bucket=bucket, Key=key, **new)
        assert tags(s3, bucket, key) == {"u": "2"}
        assert description(s3, bucket, key) == DESCRIBED


@s3_does("copies", "with a directive other than COPY and REPLACE are refused")
def test_copy_with_an_unknown_directive(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", **DESCRIBED)
    copy = {"Bucket": bucket, "Key": "k", "CopySource": f"{bucket}/k", **REPLACED}
    for directive in ("MetadataDirective", "TaggingDirective"):
        assert refused(lambda d=directive: s3.copy_object(**copy, **{d: "replace"}))[0] == 400
    assert description(s3, bucket, "k") == DESCRIBED


@s3_does("copies", "by parts have the metadata of their upload, not of the source; onto it, too")
def test_copy_by_parts_with_other_metadata(s3, bucket):
    content = os.urandom(6 * MB)
    s3.put_object(Bucket=bucket, Key="k", Body=content, **DESCRIBED)
    for key in ("m", "k"):
        upload = s3.create_multipart_upload(Bucket=bucket, Key=key, **REPLACED)["UploadId"]
        part = {"Bucket": bucket, "Key": key, "UploadId": upload, "CopySource": f"{bucket}/k"}
        parts = [
            s3.upload_part_copy(**part, PartNumber=number, CopySourceRange=f"bytes={span}")
            for number, span in ((1, f"0-{5 * MB - 1}"), (2, f"{5 * MB}-{6 * MB - 1}"))
        ]
        done = [
            {"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]}
            for number, copied in enumerate(parts, start=1)
        ]
        assert all(part["ETag"].startswith('"') for part in done)
        finish(s3, bucket, key, upload, done)
        assert description(s3, bucket, key) == REPLACED
        assert read(s3, bucket, key) == content


@s3_does("copies", "are STANDARD when no storage class is named", here="the source's class is kept")
def test_copy_of_another_class(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", StorageClass="STANDARD_IA")
    copy = {"Bucket": bucket, "Key": "k", "CopySource": f"{bucket}/k"}
    s3.copy_object(**copy, MetadataDirective="REPLACE", **REPLACED)
    assert s3.head_object(Bucket=bucket, Key="k").get("StorageClass", "STANDARD") == "STANDARD"


@s3_does("copies", "onto itself can change the storage class alone", here="refused without REPLACE")
def test_copy_to_another_class(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    copy = {"Bucket": bucket, "Key": "k", "CopySource": f"{bucket}/k"}
    s3.copy_object(**copy, StorageClass="STANDARD_IA")


@s3_does("copies", "onto itself without a change is refused, as is the copy of nothing")
def test_copy_onto_itself(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    itself = {"Bucket": bucket, "Key": "k", "CopySource": f"{bucket}/k"}
    assert refused(lambda: s3.copy_object(**itself)) == (400, "InvalidRequest")
    nothing = {"Bucket": bucket, "Key": "c", "CopySource": f"{bucket}/nope"}
    assert refused(lambda: s3.copy_object(**nothing)) == (404, "NoSuchKey")


@s3_does("copies", "only when the source is, or is not, what was named")
def test_conditional_copy(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    copy = {"Bucket": bucket, "Key": "c", "CopySource": f"{bucket}/k"}
    failed = (412, "PreconditionFailed")
    assert refused(lambda: s3.copy_object(**copy, CopySourceIfMatch='"x"')) == failed
    assert refused(lambda: s3.copy_object(**copy, CopySourceIfNoneMatch=etag)) == failed
    assert keys(s3, bucket) == ["k"]
    s3.copy_object(**copy, CopySourceIfMatch=etag)
    assert refused(lambda: s3.copy_object(**copy, IfNoneMatch="*")) == failed


@s3_does("copies", "of odd keys and of parts of an object")
def test_copy_of_odd_keys_and_parts(s3, bucket):
    odd = "ä b+c/%41?&="
    s3.put_object(Bucket=bucket, Key=odd, Body=b"odd")
    s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": odd})
    assert read(s3, bucket, "c") == b"odd"
    content = os.urandom(6 * MB)
    s3.put_object(Bucket=bucket, Key="k", Body=content)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    parts = []
    for number, (start, end) in enumerate(((0, 5 * MB), (5 * MB, 6 * MB)), start=1):
        copied = s3.upload_part_copy(
            Bucket=bucket, Key="m", UploadId=upload, PartNumber=number,
            CopySource=f"{bucket}/k", CopySourceRange=f"bytes={start}-{end - 1}",
        )  # fmt: skip
        parts.append({"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]})
    s3.complete_multipart_upload(
        Bucket=bucket, Key="m", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    assert read(s3, bucket, "m") == content


# -- multipart uploads ----------------------------------------------------------------


def begun(s3, bucket: str, key: str, parts: list[bytes], **options) -> tuple[str, list[dict]]:
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key, **options)["UploadId"]
    sent = [
        {
            "PartNumber": number,
            "ETag": s3.upload_part(
                Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=part
            )["ETag"],
        }
        for number, part in enumerate(parts, start=1)
    ]
    return upload, sent


def finish(s3, bucket: str, key: str, upload: str, parts: list[dict]) -> dict:
    return s3.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
    )


@s3_does("multipart", "parts become one object, with the ETag of the parts and their metadata")
def test_multipart(s3, bucket):
    contents = [os.urandom(5 * MB), os.urandom(5 * MB), b"end"]
    upload, parts = begun(s3, bucket, "m", contents, Metadata={"a": "b"}, ContentType="text/x")
    listed = s3.list_parts(Bucket=bucket, Key="m", UploadId=upload)["Parts"]
    assert [(part["PartNumber"], part["Size"]) for part in listed] == [
        (1, 5 * MB), (2, 5 * MB), (3, 3),
    ]  # fmt: skip
    uploads = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [item["UploadId"] for item in uploads] == [upload]
    assert keys(s3, bucket) == []
    etag = finish(s3, bucket, "m", upload, parts)["ETag"]
    digests = b"".join(hashlib.md5(part).digest() for part in contents)
    assert etag == f'"{hashlib.md5(digests).hexdigest()}-3"'
    assert read(s3, bucket, "m") == b"".join(contents)
    head = s3.head_object(Bucket=bucket, Key="m")
    assert (head["Metadata"], head["ContentType"]) == ({"a": "b"}, "text/x")
    assert s3.head_object(Bucket=bucket, Key="m", PartNumber=2)["ContentLength"] == 5 * MB
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


@s3_does("multipart", "an aborted upload is gone, its parts with it")
def test_abort(s3, bucket):
    upload, parts = begun(s3, bucket, "m", [b"x"])
    s3.abort_multipart_upload(Bucket=bucket, Key="m", UploadId=upload)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
    part = {"Bucket": bucket, "Key": "m", "UploadId": upload, "PartNumber": 1, "Body": b"x"}
    assert refused(lambda: finish(s3, bucket, "m", upload, parts)) == (404, "NoSuchUpload")
    assert refused(lambda: s3.upload_part(**part)) == (404, "NoSuchUpload")


@s3_does("multipart", "parts too small, in the wrong order, wrong or missing are refused")
def test_wrong_parts(s3, bucket):
    upload, parts = begun(s3, bucket, "m", [b"x" * 5 * MB, b"y"])
    wrong = [parts[0] | {"ETag": '"00000000000000000000000000000000"'}]
    missing = [parts[0], {"PartNumber": 7, "ETag": parts[0]["ETag"]}]
    small, tiny = begun(s3, bucket, "small", [b"x", b"y"])
    for key, number, chosen, code in (
        ("m", upload, parts[::-1], "InvalidPartOrder"), ("m", upload, wrong, "InvalidPart"),
        ("m", upload, missing, "InvalidPart"), ("small", small, tiny, "EntityTooSmall"),
    ):  # fmt: skip
        found = refused(lambda k=key, n=number, c=chosen: finish(s3, bucket, k, n, c))
        assert found == (400, code)
    assert keys(s3, bucket) == []


@s3_does("multipart", "without any part it is MalformedXML", here="it is NoSuchUpload")
def test_no_parts(s3, bucket):
    upload, _ = begun(s3, bucket, "m", [])
    assert refused(lambda: finish(s3, bucket, "m", upload, [])) == (400, "MalformedXML")


@s3_does("multipart", "a part can be sent again, numbers can be left out, up to 10 000")
def test_part_numbers(s3, bucket):
    upload, _ = begun(s3, bucket, "m", [b"old"])
    parts = []
    for number, content in ((1, b"x" * 5 * MB), (9, b"y")):
        part = {"Bucket": bucket, "Key": "m", "UploadId": upload, "PartNumber": number}
        etag = s3.upload_part(**part, Body=content)["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    far = {"Bucket": bucket, "Key": "m", "UploadId": upload, "PartNumber": 10_001, "Body": b"x"}
    assert refused(lambda: s3.upload_part(**far)) == (400, "InvalidArgument")
    finish(s3, bucket, "m", upload, parts)
    assert read(s3, bucket, "m") == b"x" * 5 * MB + b"y"


@s3_does("multipart", "a part with a wrong checksum is refused")
def test_wrong_part_checksum(s3, bucket):
    upload, _ = begun(s3, bucket, "m", [])
    part = {"Bucket": bucket, "Key": "m", "UploadId": upload, "PartNumber": 1, "Body": b"x"}
    assert refused(lambda: s3.upload_part(**part, ChecksumCRC32="AAAAAA=="))[0] == 400


@s3_does("multipart", "uploads and parts are listed in pages")
def test_multipart_pages(s3, bucket):
    made = {s3.create_multipart_upload(Bucket=bucket, Key=f"k{i}")["UploadId"] for i in range(5)}
    pages = s3.get_paginator("list_multipart_uploads").paginate(
        Bucket=bucket, PaginationConfig={"PageSize": 2}
    )
    found = [item["UploadId"] for page in pages for item in page.get("Uploads", [])]
    assert set(found) == made and len(found) == 5
    upload, _ = begun(s3, bucket, "m", [b"%d" % number for number in range(5)])
    pages = s3.get_paginator("list_parts").paginate(
        Bucket=bucket, Key="m", UploadId=upload, PaginationConfig={"PageSize": 2}
    )
    assert [p["PartNumber"] for page in pages for p in page.get("Parts", [])] == [1, 2, 3, 4, 5]


# -- ranges ---------------------------------------------------------------------------


@s3_does("ranges", "from, to, the last ones, beyond the end, across the store's chunks")
def test_ranges(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    for range_, content, told in (
        ("bytes=2-4", b"234", "bytes 2-4/10"), ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"), ("bytes=5-100", b"56789", "bytes 5-9/10"),
        ("bytes=-100", b"0123456789", "bytes 0-9/10"),
    ):  # fmt: skip
        got = s3.get_object(Bucket=bucket, Key="k", Range=range_)
        status = got["ResponseMetadata"]["HTTPStatusCode"]
        assert (got["Body"].read(), got["ContentRange"], status) == (content, told, 206)
    large = os.urandom(9 * MB)
    s3.put_object(Bucket=bucket, Key="large", Body=large)
    start = 4 * MB - 3
    part = read(s3, bucket, "large", Range=f"bytes={start}-{start + 10}")
    assert part == large[start : start + 11]


@s3_does("ranges", "one that begins behind the end is refused, one that is none is ignored")
def test_wrong_ranges(s3, bucket):
    for content, range_ in ((b"0123456789", "bytes=10-"), (b"", "bytes=0-")):
        s3.put_object(Bucket=bucket, Key="k", Body=content)
        got = refused(lambda r=range_: s3.get_object(Bucket=bucket, Key="k", Range=r))
        assert got == (416, "InvalidRange")
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    assert read(s3, bucket, "k", Range="lines=1-2") == b"0123456789"


@s3_does("ranges", "headers of the answer can be asked for")
def test_response_headers(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    asked = {"ResponseContentType": "text/zzz", "ResponseContentDisposition": "attachment"}
    got = s3.get_object(Bucket=bucket, Key="k", **asked)
    assert (got["ContentType"], got["ContentDisposition"]) == ("text/zzz", "attachment")


# -- listings -------------------------------------------------------------------------

MANY = sorted(
    {
        f"{folder}{number:03}{end}"
        for folder in ("", "data/", "data-2/", "data.x/y/", "data0/", "d/e/f/", "z~/")
        for number in range(0, 360, 3)
        for end in ("", ".csv", "/x")
    },
    key=str.encode,
)


@pytest.fixture(scope="module")
def many(s3):
    """A bucket of some 2 500 keys, whose order by bytes is not that of their folders."""
    name = f"conformance-{uuid.uuid4().hex[:16]}"
    s3.create_bucket(Bucket=name)
    fill(s3, name, MANY)
    yield name
    if AWS:
        empty(s3, name)
        s3.delete_bucket(Bucket=name)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("size", [1000, 617])
@s3_does("listings", "thousands of keys come in the order of their bytes, page by page, v1 and v2")
def test_pages(s3, many, version, size):
    pages = s3.get_paginator(version).paginate(Bucket=many, PaginationConfig={"PageSize": size})
    pages = list(pages)
    assert [item["Key"] for page in pages for item in page["Contents"]] == MANY
    assert [len(page["Contents"]) for page in pages[:-1]] == [size] * (len(pages) - 1)


@pytest.mark.parametrize("version", ["list_objects", "list_objects_v2"])
@s3_does("listings", "with a delimiter, keys and common prefixes in their order, page by page")
def test_delimited_pages(s3, many, version):
    expected = sorted({key.partition("/")[0] + ("/" if "/" in key else "") for key in MANY})
    pages = list(
        s3.get_paginator(version).paginate(
            Bucket=many, Delimiter="/", PaginationConfig={"PageSize": 50}
        )
    )
    found = [
        [item["Key"] for item in page.get("Contents", [])]
        + [item["Prefix"] for item in page.get("CommonPrefixes", [])]
        for page in pages
    ]
    assert sorted(sum(found, [])) == expected
    assert [sorted(page) for page in found] == [
        expected[start : start + 50] for start in range(0, len(expected), 50)
    ]


@pytest.mark.parametrize("after", ["data.csv", "data/", "data/003", "data", "d", "data-2/", "zz"])
@s3_does("listings", "from any key on, whether it is there or not")
def test_start_after(s3, many, after):
    expected = [key for key in MANY if key.encode() > after.encode()]
    assert keys(s3, many, StartAfter=after) == expected[:1000]
    listed = s3.list_objects(Bucket=many, Marker=after, MaxKeys=7).get("Contents", [])
    assert [item["Key"] for item in listed] == expected[:7]


@pytest.mark.parametrize(
    "prefix", ["data", "data/", "data/00", "data-", "d/e/f/003/", "nope", "data//"]
)
@s3_does("listings", "below any prefix, in the middle of a name too")
def test_prefixes(s3, many, prefix):
    assert keys(s3, many, Prefix=prefix) == [k for k in MANY if k.startswith(prefix)][:1000]


@s3_does("listings", "other delimiters than a slash")
def test_other_delimiters(s3, many, bucket):
    fill(s3, bucket, ["a-1", "a-2", "b"])
    listed = s3.list_objects_v2(Bucket=bucket, Delimiter="-")
    assert [item["Prefix"] for item in listed["CommonPrefixes"]] == ["a-"]
    assert [item["Key"] for item in listed["Contents"]] == ["b"] and listed["KeyCount"] == 2
    listed = s3.list_objects_v2(Bucket=many, Delimiter="a.x", MaxKeys=3, Prefix="data")
    expected = [key for key in MANY if key.startswith("data")]
    assert [item["Key"] for item in listed["Contents"]] == expected[:3]


@s3_does("listings", "max-keys is kept, and 0 is nothing")
def test_max_keys(s3, many):
    listed = s3.list_objects_v2(Bucket=many, MaxKeys=0)
    assert listed["KeyCount"] == 0 and not listed["IsTruncated"]
    assert s3.list_objects_v2(Bucket=many, MaxKeys=5)["KeyCount"] == 5


@s3_does("listings", "an emptied folder is no common prefix any more")
def test_emptied_folder(s3, bucket):
    fill(s3, bucket, ["d/x", "e/f/x", "k"])
    for key in ("d/x", "e/f/x"):
        s3.delete_object(Bucket=bucket, Key=key)
    assert "CommonPrefixes" not in s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert s3.list_objects_v2(Bucket=bucket, Prefix="d/", Delimiter="/")["KeyCount"] == 0


@s3_does("listings", "owners are told when they are asked for; a bad token is refused")
def test_owners_and_tokens(s3, bucket):
    fill(s3, bucket, ["a"])
    assert "Owner" not in s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert "Owner" in s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0]
    for token in ("", "nonsense!"):
        wrong = {"Bucket": bucket, "ContinuationToken": token}
        assert refused(lambda w=wrong: s3.list_objects_v2(**w))[0] == 400


# -- versions -------------------------------------------------------------------------


@pytest.fixture
def versioned(s3, bucket) -> str:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


@s3_does("versions", "every write is kept, and can be read, copied and deleted")
def test_versions(s3, versioned):
    assert s3.get_bucket_versioning(Bucket=versioned)["Status"] == "Enabled"
    first, second = (
        s3.put_object(Bucket=versioned, Key="k", Body=body)["VersionId"] for body in (b"1", b"22")
    )
    assert first != second
    assert read(s3, versioned, "k") == b"22"
    assert read(s3, versioned, "k", VersionId=first) == b"1"
    assert s3.head_object(Bucket=versioned, Key="k", VersionId=first)["ContentLength"] == 1
    listed = s3.list_object_versions(Bucket=versioned)["Versions"]
    found = [(item["VersionId"], item["IsLatest"]) for item in listed]
    assert found == [(second, True), (first, False)]
    source = {"Bucket": versioned, "Key": "k", "VersionId": first}
    copied = s3.copy_object(Bucket=versioned, Key="c", CopySource=source)
    assert copied["CopySourceVersionId"] == first
    assert read(s3, versioned, "c") == b"1"
    s3.delete_object(Bucket=versioned, Key="k", VersionId=second)
    assert read(s3, versioned, "k") == b"1"


@s3_does("versions", "a copy onto itself with other metadata is a version of its own")
def test_versions_with_other_metadata(s3, versioned):
    put = s3.put_object(Bucket=versioned, Key="k", Body=b"1", **DESCRIBED)
    copy = {"Bucket": versioned, "Key": "k", "CopySource": f"{versioned}/k"}
    new = s3.copy_object(**copy, MetadataDirective="REPLACE", **REPLACED)["VersionId"]
    assert new != put["VersionId"]
    assert description(s3, versioned, "k") == REPLACED
    assert description(s3, versioned, "k", VersionId=put["VersionId"]) == DESCRIBED
    assert read(s3, versioned, "k", VersionId=new) == b"1"


@s3_does("versions", "a deletion is a marker, which can be taken back")
def test_delete_marker(s3, versioned):
    version = s3.put_object(Bucket=versioned, Key="k", Body=b"1")["VersionId"]
    deleted = s3.delete_object(Bucket=versioned, Key="k")
    assert deleted["DeleteMarker"] is True
    assert refused(lambda: s3.get_object(Bucket=versioned, Key="k")) == (404, "NoSuchKey")
    assert keys(s3, versioned) == []
    assert read(s3, versioned, "k", VersionId=version) == b"1"
    markers = s3.list_object_versions(Bucket=versioned)["DeleteMarkers"]
    assert [marker["IsLatest"] for marker in markers] == [True]
    s3.delete_object(Bucket=versioned, Key="k", VersionId=deleted["VersionId"])
    assert read(s3, versioned, "k") == b"1"


@s3_does("versions", "also of uploads in parts, under conditions, and in bulk")
def test_versions_of_everything(s3, versioned):
    upload, parts = begun(s3, versioned, "m", [b"x"])
    version = finish(s3, versioned, "m", upload, parts)["VersionId"]
    assert read(s3, versioned, "m", VersionId=version) == b"x"
    put = {"Bucket": versioned, "Key": "m", "Body": b"2", "IfNoneMatch": "*"}
    assert refused(lambda: s3.put_object(**put)) == (412, "PreconditionFailed")
    gone = s3.delete_objects(
        Bucket=versioned, Delete={"Objects": [{"Key": "m", "VersionId": version}]}
    )
    assert gone["Deleted"][0]["VersionId"] == version
    s3.put_object(**put)


@s3_does("versions", "they are listed in pages")
def test_version_pages(s3, versioned):
    for number in range(7):
        for body in (b"1", b"2", b"3"):
            s3.put_object(Bucket=versioned, Key=f"d{number % 2}/k{number}", Body=body)
    pages = s3.get_paginator("list_object_versions").paginate(
        Bucket=versioned, PaginationConfig={"PageSize": 4}
    )
    found = [(item["Key"], item["VersionId"]) for page in pages for item in page["Versions"]]
    assert len(found) == 21 == len(set(found))
    assert [key for key, _ in found] == sorted(key for key, _ in found)


@s3_does("versions", "page by page in the order of their keys' bytes", here="folder by folder")
def test_version_order(s3, versioned):
    names = ["data-2/x", "data.csv", "data/x", "data0"]
    fill(s3, versioned, names)
    pages = s3.get_paginator("list_object_versions").paginate(
        Bucket=versioned, PaginationConfig={"PageSize": 1}
    )
    assert [item["Key"] for page in pages for item in page["Versions"]] == names


@s3_does("versions", "after a suspension the null version is the latest", here="listed as the last")
def test_suspended(s3, versioned):
    version = s3.put_object(Bucket=versioned, Key="k", Body=b"1")["VersionId"]
    s3.put_bucket_versioning(Bucket=versioned, VersioningConfiguration={"Status": "Suspended"})
    s3.put_object(Bucket=versioned, Key="k", Body=b"2")
    assert read(s3, versioned, "k") == b"2"
    listed = s3.list_object_versions(Bucket=versioned)["Versions"]
    assert [item["VersionId"] for item in listed] == ["null", version]


# -- deleting in bulk -----------------------------------------------------------------


@s3_does("bulk", "keys are deleted at once, loudly or quietly, those that are not there too")
def test_bulk(s3, bucket):
    names = ["a", "b/c", "ä b", "nope"]
    fill(s3, bucket, names[:-1])
    objects = [{"Key": name} for name in names]
    deleted = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})["Deleted"]
    assert sorted(item["Key"] for item in deleted) == sorted(names)
    assert keys(s3, bucket) == []
    fill(s3, bucket, ["a"])
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a"}], "Quiet": True})
    assert "Deleted" not in quiet and keys(s3, bucket) == []


@s3_does("bulk", "a thousand at the most")
def test_bulk_limit(s3, bucket):
    def delete(count: int) -> dict:
        objects = [{"Key": f"k{number}"} for number in range(count)]
        return s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})

    assert len(delete(1000)["Deleted"]) == 1000
    assert refused(lambda: delete(1001))[0] == 400


@s3_does(
    "bulk", "a key with // is not there, and deleting it no error",
    here="refused: the store would delete another one",
)  # fmt: skip
def test_bulk_with_a_key_that_means_another(store, s3, bucket):
    fill(s3, bucket, ["a/b"])
    for key in ("a//b", "a/./b", "x/../a/b", "a%2f%2fb", "a/%2e/b", "a\\b"):
        store.raw("DELETE", f"/{bucket}/{key}")
        assert keys(s3, bucket) == ["a/b"], key
    try:
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a//b"}]})
    finally:
        assert keys(s3, bucket) == ["a/b"]


# -- tags, ACLs and settings ----------------------------------------------------------


@s3_does("tags", "of objects and buckets: written, read, counted, deleted")
def test_tags(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", Tagging="a=1&b=2")
    assert s3.get_object(Bucket=bucket, Key="k")["TagCount"] == 2
    tags = [{"Key": "x", "Value": "y"}]
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": tags})
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == tags
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []
    assert read(s3, bucket, "k") == b"1"
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags
    s3.delete_bucket_tagging(Bucket=bucket)
    assert refused(lambda: s3.get_bucket_tagging(Bucket=bucket)) == (404, "NoSuchTagSet")


@s3_does("tags", "more than ten, and those of nothing, are refused")
def test_wrong_tags(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    many = {"TagSet": [{"Key": str(number), "Value": "1"} for number in range(11)]}
    put = s3.put_object_tagging
    assert refused(lambda: put(Bucket=bucket, Key="k", Tagging=many))[0] == 400
    assert refused(lambda: put(Bucket=bucket, Key="x", Tagging={"TagSet": []}))[0] == 404


@s3_does("settings", "a new bucket takes no ACLs but those that say nothing")
def test_acls(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", ACL="bucket-owner-full-control")
    assert s3.get_object_acl(Bucket=bucket, Key="k")["Grants"][0]["Permission"] == "FULL_CONTROL"
    public = {"Bucket": bucket, "ACL": "public-read"}
    code = (400, "AccessControlListNotSupported")
    assert refused(lambda: s3.put_object(**public, Key="k", Body=b"2")) == code
    assert refused(lambda: s3.put_object_acl(**public, Key="k")) == code
    assert refused(lambda: s3.put_bucket_acl(**public)) == code
    assert read(s3, bucket, "k") == b"1"


@s3_does("settings", "what was never set is told to be missing")
def test_missing_settings(s3, bucket):
    for what, code in {
        "get_bucket_policy": "NoSuchBucketPolicy", "get_bucket_cors": "NoSuchCORSConfiguration",
        "get_bucket_website": "NoSuchWebsiteConfiguration",
        "get_bucket_lifecycle_configuration": "NoSuchLifecycleConfiguration",
        "get_bucket_replication": "ReplicationConfigurationNotFoundError",
    }.items():  # fmt: skip
        assert refused(lambda w=what: getattr(s3, w)(Bucket=bucket)) == (404, code)
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] in (
        None,
        s3.meta.region_name,
    )
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=bucket)


RULE = {"ID": "x", "Status": "Enabled", "Filter": {"Prefix": "a/"}, "Expiration": {"Days": 1}}
DENY = (
    '{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", '
    '"Action": "s3:GetObject", "Resource": "arn:aws:s3:::BUCKET/*"}]}'
)
SETTINGS = {
    "a policy": lambda s3, b: s3.put_bucket_policy(Bucket=b, Policy=DENY.replace("BUCKET", b)),
    "a lifecycle": lambda s3, b: s3.put_bucket_lifecycle_configuration(
        Bucket=b, LifecycleConfiguration={"Rules": [RULE]}
    ),
    "CORS": lambda s3, b: s3.put_bucket_cors(
        Bucket=b,
        CORSConfiguration={"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]},
    ),
    "a website": lambda s3, b: s3.put_bucket_website(
        Bucket=b, WebsiteConfiguration={"IndexDocument": {"Suffix": "index.html"}}
    ),
    "object lock": lambda s3, b: s3.put_object(
        Bucket=b, Key="k", Body=b"2", ObjectLockMode="COMPLIANCE",
        ObjectLockRetainUntilDate=datetime.now(UTC) + timedelta(minutes=1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SETTINGS)
@s3_does(
    "settings", "policies, lifecycles, CORS, websites, object lock are set and have effect",
    here="refused, without touching bucket or object",
)  # fmt: skip
def test_settings(s3, bucket, what):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    try:
        SETTINGS[what](s3, bucket)
    finally:
        if not AWS:
            assert read(s3, bucket, "k") == b"1"


SUB_RESOURCES = [
    "website", "logging", "replication", "analytics", "metrics", "inventory", "notification",
    "intelligent-tiering", "accelerate", "requestPayment", "nonsense", "torrent", "encryption",
    "legal-hold", "retention", "restore", "select&select-type=2", "attributes", "renameObject",
    "x-id=PutObject&nonsense", "publicAccessBlock", "ownershipControls", "object-lock", "append",
]  # fmt: skip


@pytest.mark.parametrize("sub", SUB_RESOURCES)
@s3_does(
    "settings",
    f"none of {len(SUB_RESOURCES)} sub-resources, known or not, is taken for the object or the bucket",
)
def test_sub_resources(store, s3, bucket, sub):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    for method in ("PUT", "POST", "DELETE"):
        for path in (f"/{bucket}/k?{sub}", f"/{bucket}?{sub}"):
            store.raw(method, path, b"evil")
    assert read(s3, bucket, "k") == b"1"


@s3_does("settings", "a request that expects another owner of the bucket is refused")
def test_expected_owner(s3, bucket):
    other = {"Bucket": bucket, "ExpectedBucketOwner": "111122223333"}
    assert refused(lambda: s3.list_objects_v2(**other)) == (403, "AccessDenied")
    assert refused(lambda: s3.put_object(**other, Key="k", Body=b"1")) == (403, "AccessDenied")


# -- buckets --------------------------------------------------------------------------


@s3_does("buckets", "made, found, listed, deleted; full ones are not, and none is made unasked")
def test_buckets(s3, bucket):
    assert bucket in [item["Name"] for item in s3.list_buckets()["Buckets"]]
    s3.head_bucket(Bucket=bucket)
    fill(s3, bucket, ["a"])
    assert refused(lambda: s3.delete_bucket(Bucket=bucket)) == (409, "BucketNotEmpty")
    s3.delete_object(Bucket=bucket, Key="a")
    missing = f"no-such-{uuid.uuid4().hex}"
    gone = (404, "NoSuchBucket")
    assert refused(lambda: s3.put_object(Bucket=missing, Key="a", Body=b"1")) == gone
    assert refused(lambda: s3.list_objects_v2(Bucket=missing)) == gone
    assert refused(lambda: s3.delete_bucket(Bucket=missing)) == gone
    assert refused(lambda: s3.head_bucket(Bucket=missing))[0] == 404
    assert missing not in [item["Name"] for item in s3.list_buckets()["Buckets"]]


@pytest.mark.parametrize(
    "name",
    ["ab", "Upper", "under_score", "-x-", "a..b", "192.168.1.1", "x" * 64, "xn--abc", "x--x-s3"],
)
@s3_does("buckets", "names that are none are refused")
def test_bucket_names(store, name):
    s3 = store.client()
    s3.meta.events.unregister("before-parameter-build.s3", handlers.validate_bucket_name)
    assert refused(lambda: s3.create_bucket(Bucket=name)) == (400, "InvalidBucketName")


@s3_does("buckets", "a path that leaves the bucket leads nowhere")
def test_paths_out_of_the_bucket(store, s3, bucket):
    fill(s3, bucket, ["k"])
    for path in (
        "/..",
        "/.",
        f"/x/../{bucket}/k",
        "/.uploads/k",
        f"//{bucket}/k",
        f"/%2e%2e/{bucket}/k",
    ):
        for method in ("GET", "PUT", "DELETE"):
            assert 400 <= store.raw(method, path, b"")[0] < 500, (method, path)
    assert keys(s3, bucket) == ["k"]


@s3_does("buckets", "a hundred and more can be had")
def test_many_buckets(s3):
    names = [f"conformance-{uuid.uuid4().hex[:16]}" for _ in range(3 if AWS else 120)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: s3.create_bucket(Bucket=name), names))
        list(pool.map(lambda name: s3.put_object(Bucket=name, Key="k", Body=b"1"), names))
        list(pool.map(lambda name: s3.delete_object(Bucket=name, Key="k"), names))
        list(pool.map(lambda name: s3.delete_bucket(Bucket=name), names))


# -- who may --------------------------------------------------------------------------


def fetch(url: str, method: str = "GET", data: bytes | None = None, headers=None) -> tuple:
    request = urllib.request.Request(url, method=method, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@s3_does("access", "without a signature, with an unknown key or a wrong secret nothing is done")
def test_access(store, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    url = store.url or f"https://s3.{store.region}.amazonaws.com"
    for method, path in (
        ("GET", f"/{bucket}"), ("GET", f"/{bucket}/k"), ("PUT", f"/{bucket}/z"),
        ("DELETE", f"/{bucket}/k"), ("DELETE", f"/{bucket}"), ("POST", f"/{bucket}?delete"),
    ):  # fmt: skip
        status, text = fetch(url + path, method, b"" if method in ("PUT", "POST") else None)
        assert status == 403 and b"AccessDenied" in text, (method, path)
    nobody = store.client(aws_access_key_id="NOBODY")
    assert refused(lambda: nobody.list_objects_v2(Bucket=bucket)) == (403, "InvalidAccessKeyId")
    wrong = store.client(aws_secret_access_key="wrong")
    assert refused(lambda: wrong.list_objects_v2(Bucket=bucket)) == (403, "SignatureDoesNotMatch")
    assert keys(s3, bucket) == ["k"]


@s3_does("access", "presigned URLs to read and to write, for their key, method and time alone")
def test_presigned(s3, bucket):
    s3.put_object(Bucket=bucket, Key="a b/ä", Body=b"1")
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "a b/ä"})
    assert fetch(url) == (200, b"1")
    for altered in (
        url.replace("a%20b", "a%20c"),
        url + "&acl",
        url.replace("Expires=", "Expires=9"),
    ):
        assert fetch(altered)[0] == 403
    assert fetch(url, "DELETE")[0] == 403
    put = s3.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "k"})
    assert fetch(put, "PUT", b"xx", {"Content-Type": ""})[0] == 200
    assert read(s3, bucket, "k") == b"xx"
    short = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "k"}, ExpiresIn=1)
    time.sleep(2.2)
    status, text = fetch(short)
    assert status == 403 and b"AccessDenied" in text


@s3_does("access", "signature version 2 is refused by new buckets")
def test_version_2(store, bucket):
    old = store.client(config=Config(signature_version="s3"))
    url = old.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "k"})
    status, text = fetch(url)
    assert status in (400, 403) and b"AWS4-HMAC-SHA256" in text


def post(form: dict, content: bytes = b"hello") -> tuple[int, bytes]:
    """Send a form as a browser does."""
    boundary = "----x"
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in form["fields"].items()
    )
    head = 'Content-Disposition: form-data; name="file"; filename="f.txt"'
    body += f"--{boundary}\r\n{head}\r\nContent-Type: text/plain\r\n\r\n".encode()
    body += content + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return fetch(form["url"], "POST", body, kind)


@s3_does("access", "forms with a signed policy, as a browser sends them")
def test_forms(s3, bucket):
    def form(key: str) -> dict:
        return s3.generate_presigned_post(
            bucket, key, Conditions=[["content-length-range", 1, 10 * MB]]
        )

    assert post(form("k"))[0] == 204
    assert read(s3, bucket, "k") == b"hello"
    large = os.urandom(3 * MB)
    assert post(form("up/${filename}"), large)[0] == 204
    assert read(s3, bucket, "up/f.txt") == large
    extra = {"success_action_status": "201"}
    told = s3.generate_presigned_post(bucket, "k", Fields=extra, Conditions=[extra])
    status, text = post(told)
    assert status == 201 and b"<Key>k</Key>" in text


@s3_does("access", "forms that are too large, expired, altered or forged are refused")
def test_wrong_forms(s3, bucket):
    def form(**options) -> dict:
        return s3.generate_presigned_post(bucket, "k", **options)

    status, text = post(form(Conditions=[["content-length-range", 1, 3]]))
    assert status == 400 and b"EntityTooLarge" in text
    forged, altered, extra, expired = form(), form(), form(), form(ExpiresIn=1)
    forged["fields"]["x-amz-signature"] = "0" * 64
    altered["fields"]["key"] = "other"
    extra["fields"]["x-amz-meta-a"] = "b"
    time.sleep(2.2)
    for wrong in (forged, altered, extra, expired):
        assert post(wrong)[0] == 403
    assert keys(s3, bucket) == []


# -- tools ----------------------------------------------------------------------------


@pytest.fixture
def tools(store, bucket) -> dict:
    """What tools need to know, as environment variables."""
    variables = {
        "AWS_ACCESS_KEY_ID": store.credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": store.credentials.secret_key,
        "AWS_DEFAULT_REGION": store.region,
    }
    return variables | ({"AWS_ENDPOINT_URL_S3": store.url} if store.url else {})


def run(folder, variables: dict, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@s3_does("tools", "`aws s3 sync --delete` twice: the second time there is nothing to do")
def test_aws_sync(tools, bucket, tmp_path):
    names = ["data/x", "data/z", "data-2/y", "data.csv", "a/b", "a.txt", "a-1", "a0"]
    for name in names:
        path = tmp_path / "there" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    aws = os.path.join(os.path.dirname(sys.executable), "aws")
    there, back = f"s3://{bucket}/p", str(tmp_path / "back")
    assert run(tmp_path, tools, aws, "s3", "sync", "there", there, "--delete").count("upload:") == 8
    assert run(tmp_path, tools, aws, "s3", "sync", "there", there, "--delete") == ""
    run(tmp_path, tools, aws, "s3", "sync", there, back, "--delete")
    assert run(tmp_path, tools, aws, "s3", "sync", there, back, "--delete") == ""
    found = {str(p.relative_to(back)) for p in (tmp_path / "back").rglob("*") if p.is_file()}
    assert found == set(names)


@s3_does("tools", "`aws s3 cp` of many megabytes, there and back")
def test_aws_copy(tools, bucket, tmp_path):
    content = os.urandom(20 * MB)
    (tmp_path / "up").write_bytes(content)
    aws = os.path.join(os.path.dirname(sys.executable), "aws")
    run(tmp_path, tools, aws, "s3", "cp", "up", f"s3://{bucket}/large", "--metadata", "a=b")
    run(tmp_path, tools, aws, "s3", "cp", f"s3://{bucket}/large", "down")
    assert (tmp_path / "down").read_bytes() == content


@s3_does("tools", "`aws s3 cp --metadata-directive REPLACE` onto itself, in one piece or in many")
def test_aws_copy_with_other_metadata(tools, s3, bucket, tmp_path):
    aws = os.path.join(os.path.dirname(sys.executable), "aws")
    for size in (1, 9 * MB):  # from 8 MB on the tool copies by parts
        content, itself = os.urandom(size), f"s3://{bucket}/k"
        s3.put_object(Bucket=bucket, Key="k", Body=content, Tagging="t=1", **DESCRIBED)
        replace = "--metadata-directive REPLACE --metadata x=y --content-type text/y"
        run(tmp_path, tools, aws, "s3", "cp", itself, itself, *replace.split())
        wanted = {"Metadata": {"x": "y"}, "ContentType": "text/y"}
        assert description(s3, bucket, "k") == wanted
        assert read(s3, bucket, "k") == content


@s3_does("tools", "s3fs: written, listed, removed, and then not there any more")
def test_s3fs(store, bucket):
    s3fs = pytest.importorskip("s3fs")
    files = s3fs.S3FileSystem(
        key=store.credentials.access_key, secret=store.credentials.secret_key,
        endpoint_url=store.url, client_kwargs={"region_name": store.region},
        skip_instance_cache=True,
    )  # fmt: skip
    files.pipe(f"{bucket}/d/x", b"1")
    assert files.cat(f"{bucket}/d/x") == b"1"
    assert files.ls(f"{bucket}/d") == [f"{bucket}/d/x"]
    files.rm(f"{bucket}/d/x")
    files.invalidate_cache()
    assert not files.exists(f"{bucket}/d/x") and not files.exists(f"{bucket}/d")


@s3_does("tools", "pandas: Parquet and compressed CSV, there and back")
def test_pandas(store, bucket):
    pandas = pytest.importorskip("pandas")
    options = {
        "key": store.credentials.access_key, "secret": store.credentials.secret_key,
        "endpoint_url": store.url,
    }  # fmt: skip
    frame = pandas.DataFrame({"a": range(1000), "b": [str(number) for number in range(1000)]})
    frame.to_parquet(f"s3://{bucket}/d.parquet", storage_options=options)
    assert pandas.read_parquet(f"s3://{bucket}/d.parquet", storage_options=options).equals(frame)
    frame.to_csv(f"s3://{bucket}/d.csv.gz", storage_options=options, index=False)
    read_back = pandas.read_csv(
        f"s3://{bucket}/d.csv.gz", storage_options=options, dtype={"b": frame["b"].dtype}
    )
    assert read_back.equals(frame)


@s3_does("tools", "pyarrow: Parquet, streams of many megabytes, folders")
def test_pyarrow(store, bucket):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import fs, parquet

    place = (
        {"endpoint_override": store.url.partition("//")[2], "scheme": "http"} if store.url else {}
    )
    files = fs.S3FileSystem(
        access_key=store.credentials.access_key, secret_key=store.credentials.secret_key,
        region=store.region, **place,
    )  # fmt: skip
    table = arrow.table({"a": list(range(200_000))})
    parquet.write_table(table, f"{bucket}/x/t.parquet", filesystem=files)
    assert parquet.read_table(f"{bucket}/x/t.parquet", filesystem=files).equals(table)
    with files.open_output_stream(f"{bucket}/large") as stream:
        stream.write(b"x" * (12 * MB))
    assert files.get_file_info(f"{bucket}/large").size == 12 * MB
    listed = files.get_file_info(fs.FileSelector(f"{bucket}/x"))
    assert [item.path for item in listed] == [f"{bucket}/x/t.parquet"]


@s3_does("tools", "DVC: a remote to push to, to ask and to pull from")
def test_dvc(tools, bucket, tmp_path):
    dvc = [sys.executable, "-m", "dvc"]
    (tmp_path / "config").touch()  # DVC insists on a readable one
    home = {"HOME": str(tmp_path), "AWS_CONFIG_FILE": str(tmp_path / "config")}
    home |= tools | {"DVC_NO_ANALYTICS": "1"}
    (tmp_path / "data").mkdir()
    for number in range(20):
        (tmp_path / "data" / str(number)).write_text(str(number))
    run(tmp_path, home, *dvc, "init", "-q", "--no-scm")
    run(tmp_path, home, *dvc, "remote", "add", "-d", "store", f"s3://{bucket}/dvc")
    run(tmp_path, home, *dvc, "add", "-q", "data")
    run(tmp_path, home, *dvc, "push", "-q")
    assert "in sync" in run(tmp_path, home, *dvc, "status", "-c")
    for name in ("data", ".dvc/cache"):
        subprocess.run(["rm", "-r", str(tmp_path / name)], check=True)
    run(tmp_path, home, *dvc, "pull", "-q")
    assert (tmp_path / "data" / "7").read_text() == "7"


# -- the table ------------------------------------------------------------------------


def table() -> str:
    lines = ["| | S3 | here |", "|---|---|---|"]
    known: set[tuple[str, str, str]] = set()
    last = ""
    for row in TABLE:
        if row in known:
            continue
        known.add(row)
        group, what, here = row
        lines.append(f"| {group if group != last else ''} | {what} | {here or 'the same'} |")
        last = group
    return "\n".join(lines) + "\n"


def test_the_table_in_the_documents_is_this_suites():
    """`python tests/test_object_store.py` writes it."""
    text = DOCUMENT.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == table()


if __name__ == "__main__":
    text = DOCUMENT.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    DOCUMENT.write_text(text[:start] + table() + text[end:])
