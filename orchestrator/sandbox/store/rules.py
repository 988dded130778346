"""What the store does as S3 does, and so may pass: operations, their parameters, headers and keys.

Everything else is refused by name. SeaweedFS answers some of what it does not know by overwriting the
object or deleting the bucket, and keeps some keys under another name; nothing of the kind reaches it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from orchestrator.sandbox.places import ACCOUNT

# Names of general purpose buckets, without the prefixes and suffixes that AWS keeps for others.
BUCKET = re.compile(
    r"(?!xn--|sthree-|amzn-s3-demo-)(?!.*(-s3alias|--ol-s3|--x-s3|--table-s3)$)"
    r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
)
KEY_BYTES, SEGMENT_BYTES = 1024, 255
METADATA_BYTES = 2048
PARTS = 10_000


class S3Error(Exception):
    """A refusal in S3's own words."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status


def not_implemented(what: str) -> S3Error:
    return S3Error("NotImplemented", f"This store does not honour {what}.", 501)


@dataclass(frozen=True)
class Operation:
    """One of S3's operations: what tells it from others, and which parameters it takes."""

    name: str
    method: str
    place: str  # service, bucket or object
    flags: frozenset[str]  # the parameters that must be there
    optional: frozenset[str]
    headers: frozenset[str]  # x-amz- headers, besides COMMON; a trailing - is a prefix


def _operations(table: str) -> dict[tuple[str, str, frozenset[str]], Operation]:
    found = {}
    for line in table.strip().splitlines():
        name, method, place, flags, optional, headers = (cell.strip() for cell in line.split("|"))
        operation = Operation(
            name, method, place, *(frozenset(cell.split()) for cell in (flags, optional)),
            frozenset(f"x-amz-{header}" for header in headers.split()),
        )  # fmt: skip
        found[method, place, operation.flags] = operation
    return found


LISTED = "prefix delimiter max-keys encoding-type"
GOT = (
    "versionId partNumber response-cache-control response-content-disposition "
    "response-content-encoding response-content-language response-content-type response-expires"
)
SUMS = (
    "checksum-crc32 checksum-crc32c checksum-crc64nvme checksum-sha1 checksum-sha256 "
    "sdk-checksum-algorithm trailer decoded-content-length"
)
KEPT = "meta- tagging storage-class acl server-side-encryption"
COPIED = (
    "copy-source copy-source-if-match copy-source-if-none-match copy-source-if-modified-since "
    "copy-source-if-unmodified-since source-expected-bucket-owner"
)
OPERATIONS = _operations(f"""
ListBuckets             | GET    | service |                     |                          |
CreateBucket            | PUT    | bucket  |                     |                          | acl
HeadBucket              | HEAD   | bucket  |                     |                          |
DeleteBucket            | DELETE | bucket  |                     |                          |
ListObjects             | GET    | bucket  |                     | {LISTED} marker          | optional-object-attributes
ListObjectsV2           | GET    | bucket  | list-type           | {LISTED} start-after continuation-token fetch-owner | optional-object-attributes
ListObjectVersions      | GET    | bucket  | versions            | {LISTED} key-marker version-id-marker | optional-object-attributes
ListMultipartUploads    | GET    | bucket  | uploads             | prefix delimiter encoding-type key-marker upload-id-marker max-uploads |
DeleteObjects           | POST   | bucket  | delete              |                          | {SUMS}
PostObject              | POST   | bucket  |                     |                          |
GetBucketLocation       | GET    | bucket  | location            |                          |
GetBucketVersioning     | GET    | bucket  | versioning          |                          |
PutBucketVersioning     | PUT    | bucket  | versioning          |                          | {SUMS}
GetBucketTagging        | GET    | bucket  | tagging             |                          |
PutBucketTagging        | PUT    | bucket  | tagging             |                          | {SUMS}
DeleteBucketTagging     | DELETE | bucket  | tagging             |                          |
GetBucketAcl            | GET    | bucket  | acl                 |                          |
GetBucketPolicy         | GET    | bucket  | policy              |                          |
GetBucketLifecycle      | GET    | bucket  | lifecycle           |                          |
GetBucketCors           | GET    | bucket  | cors                |                          |
GetBucketEncryption     | GET    | bucket  | encryption          |                          |
GetBucketWebsite        | GET    | bucket  | website             |                          |
GetBucketLogging        | GET    | bucket  | logging             |                          |
GetBucketNotification   | GET    | bucket  | notification        |                          |
GetBucketReplication    | GET    | bucket  | replication         |                          |
GetBucketOwnership      | GET    | bucket  | ownershipControls   |                          |
GetObjectLock           | GET    | bucket  | object-lock         |                          |
GetObject               | GET    | object  |                     | {GOT}                    | checksum-mode
HeadObject              | HEAD   | object  |                     | {GOT}                    | checksum-mode
PutObject               | PUT    | object  |                     |                          | {SUMS} {KEPT}
DeleteObject            | DELETE | object  |                     | versionId                |
GetObjectTagging        | GET    | object  | tagging             | versionId                |
PutObjectTagging        | PUT    | object  | tagging             | versionId                | {SUMS}
DeleteObjectTagging     | DELETE | object  | tagging             | versionId                |
GetObjectAcl            | GET    | object  | acl                 | versionId                |
CreateMultipartUpload   | POST   | object  | uploads             |                          | {KEPT} checksum-algorithm checksum-type
UploadPart              | PUT    | object  | partNumber uploadId |                          | {SUMS}
CompleteMultipartUpload | POST   | object  | uploadId            |                          | {SUMS} checksum-type mp-object-size
AbortMultipartUpload    | DELETE | object  | uploadId            |                          |
ListParts               | GET    | object  | uploadId            | max-parts part-number-marker encoding-type |
""")
COPY = Operation(
    "CopyObject", "PUT", "object", frozenset(), frozenset(),
    frozenset(f"x-amz-{header}" for header in
              f"{COPIED} {KEPT} metadata-directive tagging-directive checksum-algorithm".split()),
)  # fmt: skip
COPY_PART = Operation(
    "UploadPartCopy", "PUT", "object", frozenset(("partNumber", "uploadId")), frozenset(),
    frozenset(f"x-amz-{header}" for header in f"{COPIED} copy-source-range".split()),
)  # fmt: skip
WITH_A_BODY = ("PutObject", "UploadPart", "DeleteObjects", "CompleteMultipartUpload",
               "PutBucketVersioning", "PutBucketTagging", "PutObjectTagging", "CreateBucket")  # fmt: skip
WRITING_A_BUCKET = ("CreateBucket", "DeleteBucket", "DeleteObjects", "PutBucketVersioning",
                    "PutBucketTagging", "DeleteBucketTagging")  # fmt: skip
WRITING_A_KEY = ("PutObject", "CopyObject", "CompleteMultipartUpload", "DeleteObject",
                 "PutObjectTagging", "DeleteObjectTagging")  # fmt: skip
NOT_OF_FOLDERS = ("CopyObject", "CreateMultipartUpload", "UploadPart", "UploadPartCopy",
                  "CompleteMultipartUpload")  # fmt: skip

COMMON = frozenset(
    f"x-amz-{name}"
    for name in ("date", "content-sha256", "expected-bucket-owner", "user-agent", "api-version")
)
API_VERSION = "2006-03-01"  # the only one there is
# What goes on to the store of the headers that are not x-amz-.
PLAIN = frozenset((
    "cache-control", "content-disposition", "content-encoding", "content-language", "content-md5",
    "content-type", "expires", "if-match", "if-modified-since", "if-none-match",
    "if-unmodified-since", "range",
))  # fmt: skip
OWNERS = ("x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner")
NOT_PASSED = (*OWNERS, "x-amz-acl", "x-amz-content-sha256", "x-amz-date", "x-amz-user-agent",
              "x-amz-api-version",
              "x-amz-trailer", "x-amz-decoded-content-length")  # fmt: skip
ACLS = ("private", "bucket-owner-full-control")  # what a bucket without ACLs takes


@dataclass(frozen=True)
class Request:
    """A request to S3, taken apart and found to be one that the store does as S3 does."""

    operation: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]  # those that go on

    @property
    def takes_no_body(self) -> bool:
        return self.operation not in WITH_A_BODY

    @property
    def writes(self) -> str | None:
        """The `bucket/key`, or the whole bucket, whose entry it changes."""
        if self.operation in WRITING_A_BUCKET:
            return self.bucket
        return f"{self.bucket}/{self.key}" if self.operation in WRITING_A_KEY else None


def read(method: str, path: str, query: str, headers: dict[str, str]) -> Request:
    """Take a request apart; S3Error names what the store would not do as asked."""
    bucket, _, key = unquote(path[1:], errors="surrogateescape").partition("/")
    place = "object" if key else "bucket" if bucket else "service"
    pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    parameters = dict(pairs)
    if len(parameters) != len(pairs):
        raise S3Error("InvalidArgument", "A parameter is there twice.")
    if bucket and not BUCKET.fullmatch(bucket):
        raise S3Error("InvalidBucketName", "The specified bucket is not valid.")
    parameters.pop("x-id", None)  # says again which operation is meant
    operation = _operation(method, place, parameters, headers)
    _check_headers(operation, headers)
    if place == "object":
        check_key(key, method)
        check_number(parameters.get("partNumber"))
    if key.endswith("/") and operation.name in NOT_OF_FOLDERS:
        raise _no_key(key, "a folder can only be an empty object")
    if source := headers.get("x-amz-copy-source"):
        check_key(unquote(source.partition("?")[0].lstrip("/")).partition("/")[2], "GET")
    kept = {
        name: value
        for name, value in headers.items()
        if name in PLAIN or name.startswith("x-amz-") and name not in NOT_PASSED
    }
    return Request(operation.name, bucket, key, parameters, kept)


def _operation(
    method: str, place: str, parameters: dict[str, str], headers: dict[str, str]
) -> Operation:
    if method == "PUT" and "acl" in parameters:
        raise S3Error("AccessControlListNotSupported", "The bucket does not allow ACLs")
    for candidate in sorted(OPERATIONS.values(), key=lambda found: -len(found.flags)):
        if (candidate.method, candidate.place) != (method, place):
            continue
        if candidate.flags <= parameters.keys():
            break
    else:
        raise not_implemented(f"{method} of a {place}")
    if "x-amz-copy-source" in headers:
        candidate = {"PutObject": COPY, "UploadPart": COPY_PART}.get(candidate.name, candidate)
    for name in parameters:
        if name not in candidate.flags and name not in candidate.optional:
            raise not_implemented(f"the parameter {name} of {candidate.name}")
    if candidate.name == "ListObjectsV2" and parameters["list-type"] != "2":
        raise S3Error("InvalidArgument", "list-type must be 2")
    return candidate


def _check_headers(operation: Operation, headers: dict[str, str]) -> None:
    allowed = operation.headers | COMMON
    for name in headers:
        if not name.startswith("x-amz-") or name in allowed:
            continue
        if not any(name.startswith(prefix) for prefix in allowed if prefix.endswith("-")):
            raise not_implemented(f"the header {name} of {operation.name}")
    for name in OWNERS:
        if headers.get(name, ACCOUNT) != ACCOUNT:
            raise S3Error("AccessDenied", "Access Denied", 403)
    if headers.get("x-amz-api-version", API_VERSION) != API_VERSION:
        raise not_implemented(f"x-amz-api-version: {headers['x-amz-api-version'][:40]}")
    if headers.get("x-amz-acl", "private") not in ACLS:
        raise S3Error("AccessControlListNotSupported", "The bucket does not allow ACLs")
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    if encryption != "AES256":
        raise not_implemented(f"x-amz-server-side-encryption: {encryption}")
    metadata = sum(
        len(name) - len("x-amz-meta-") + len(value)
        for name, value in headers.items()
        if name.startswith("x-amz-meta-")
    )
    if metadata > METADATA_BYTES:
        message = "Your metadata headers exceed the maximum allowed metadata size"
        raise S3Error("MetadataTooLarge", message)


def check_number(number: str | None) -> None:
    if number is not None and not (re.fullmatch(r"\d{1,5}", number) and 1 <= int(number) <= PARTS):
        message = f"Part number must be an integer between 1 and {PARTS}, inclusive"
        raise S3Error("InvalidArgument", message)


def why_not(key: str) -> str | None:
    """Why the store cannot keep a key as it is; None when it can."""
    if len(key.encode("utf-8", "surrogateescape")) > KEY_BYTES:
        return f"a key has at most {KEY_BYTES} bytes"
    return why_not_below(key.removesuffix("/").split("/"), key)


def why_not_below(segments: list[str], key: str) -> str | None:
    """The same for the parts of a key that are known."""
    if "\\" in key or "\0" in key:
        return "it holds a backslash or a NUL"
    try:
        key.encode()
    except UnicodeEncodeError:
        return "it is no UTF-8"
    for segment in segments:
        if segment in ("", ".", ".."):
            return "it has an empty, . or .. part"
        if len(segment.encode()) > SEGMENT_BYTES:
            return f"a part of it is longer than {SEGMENT_BYTES} bytes"
        if segment.endswith(".versions"):
            return "a part of it ends in .versions, where the store keeps versions"
    if segments[0] == ".uploads":
        return "it begins with .uploads, where the store keeps uploads"
    return None


def check_key(key: str, method: str) -> None:
    """S3Error for a key that the store would keep under another name, or not find again."""
    reason = why_not(key)
    if reason is None:
        return
    if method in ("GET", "HEAD"):
        raise S3Error("NoSuchKey", "The specified key does not exist.", 404)
    raise _no_key(key, reason)


def _no_key(key: str, reason: str) -> S3Error:
    code = "KeyTooLongError" if "bytes" in reason else "InvalidArgument"
    return S3Error(code, f"This store cannot keep the key {key[:100]!r}: {reason}.")


def keys_in(names: Iterable[str]) -> None:
    """S3Error for the first key of many that the store would take for another one."""
    for name in names:
        check_key(name, "DELETE")
