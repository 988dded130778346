"""Uploads by a browser's form: POST of multipart/form-data with a signed policy.

The file goes to disk first, for the policy may say how long it can be, and is then put into the store
like any other. Source: Amazon S3 API reference, "Browser-based uploads using POST" (signature
version 4).
"""

import base64
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Field, File, MultipartDecoder, NeedData

from orchestrator.sandbox.gate import ALGORITHM, Gate, Scope, malformed, mismatch
from orchestrator.sandbox.store.rules import S3Error, not_implemented
from orchestrator.sandbox.web import parts

FIELD_BYTES = 20_000  # S3's limit for a form without its file
BUFFER_BYTES = 1 << 20  # what may come before it is clear to which field it belongs
CREDENTIAL = re.compile(r"([^/]+)/(\d{8})/([^/]+)/s3/aws4_request")
# Fields that need no condition in the policy.
FREE = ("x-amz-signature", "file", "policy", "x-ignore-")
KNOWN = (
    "key", "policy", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature",
    "content-type", "cache-control", "content-disposition", "content-encoding", "expires",
    "success_action_status", "success_action_redirect", "redirect", "acl", "tagging",
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """A form that its policy allows."""

    key: str
    fields: dict[str, str]  # by lower-case name
    size: int  # of the file

    @property
    def headers(self) -> dict[str, str]:
        """Those of the PutObject that the form stands for."""
        wanted = (
            "content-type",
            "cache-control",
            "content-disposition",
            "content-encoding",
            "expires",
        )
        found = {name: self.fields[name] for name in wanted if name in self.fields}
        found |= {name: v for name, v in self.fields.items() if name.startswith("x-amz-meta-")}
        return found


async def read(receive, headers: dict[str, str], bucket: str, gate: Gate, file: BinaryIO) -> Form:
    """Read a form, its file into `file`; S3Error or gate.Refused when it is not allowed."""
    boundary = re.search(r'boundary="?([^";,]+)"?', headers.get("content-type", ""))
    if not boundary:
        raise S3Error("MalformedPOSTRequest", "The body is no multipart/form-data.")
    fields: dict[str, str] = {}

    def begin(filename: str) -> range:
        """Check what comes before the file; how long that may be."""
        _check_names(fields)
        fields["key"] = fields["key"].replace("${filename}", filename)
        _check_signature(fields, gate)
        return _check_policy(fields, bucket)

    sizes = await _taken_apart(parts(receive), boundary[1].encode(), fields, begin, file)
    if file.tell() < sizes.start:
        message = "Your proposed upload is smaller than the minimum allowed size"
        raise S3Error("EntityTooSmall", message)
    return Form(fields["key"], fields, file.tell())


def _check_names(fields: dict[str, str]) -> None:
    if "awsaccesskeyid" in fields:
        raise malformed(f"The form must be signed with {ALGORITHM}.")
    for name in fields:
        if name not in KNOWN and not name.startswith(("x-amz-meta-", "x-ignore-")):
            raise not_implemented(f"the form's field {name}")
    if "key" not in fields:
        raise S3Error("InvalidArgument", "Bucket POST must contain a field named 'key'.")
    if "tagging" in fields:
        raise not_implemented("the form's field tagging")


async def _taken_apart(
    body: AsyncIterator[bytes], boundary: bytes, fields: dict[str, str],
    begin: Callable[[str], range], file: BinaryIO,
) -> range:  # fmt: skip
    """Take the form's fields, then its file, of which nothing is written before `begin` has looked
    at the fields; how long it may be."""
    decoder = MultipartDecoder(boundary, BUFFER_BYTES, max_parts=1000)
    name, value, sizes = "", bytearray(), None
    try:
        async for part in body:
            decoder.receive_data(part)
            while True:
                event = decoder.next_event()
                if isinstance(event, Field):
                    name, value = event.name.lower(), bytearray()
                elif isinstance(event, File):
                    sizes = begin(event.filename or "")
                elif isinstance(event, Data) and sizes is None:
                    value += event.data
                    if len(value) > FIELD_BYTES:
                        raise S3Error(
                            "MaxPostPreDataLengthExceeded", "The form's fields are too long."
                        )
                    if not event.more_data:
                        fields[name] = value.decode()
                elif isinstance(event, Data):
                    file.write(event.data)
                    if file.tell() > sizes.stop:
                        message = "Your proposed upload exceeds the maximum allowed size"
                        raise S3Error("EntityTooLarge", message)
                    if not event.more_data:
                        return sizes  # what comes behind the file is ignored, as by S3
                elif isinstance(event, NeedData):
                    break
    except (ValueError, RequestEntityTooLarge):
        raise S3Error("MalformedPOSTRequest", "The body is no multipart/form-data.") from None
    raise S3Error("InvalidArgument", "POST requires exactly one file upload per request.")


def _check_signature(fields: dict[str, str], gate: Gate) -> None:
    claim = CREDENTIAL.fullmatch(fields.get("x-amz-credential", ""))
    if not claim or fields.get("x-amz-algorithm") != ALGORITHM or "policy" not in fields:
        raise malformed("The form must carry policy, x-amz-algorithm and x-amz-credential.")
    access_key, date, region = claim.groups()
    scope = Scope(access_key, date, region, "s3", "", fields.get("x-amz-signature", ""))
    gate.check_scope(scope, fields.get("x-amz-date", ""), "s3")
    if not gate.is_signed_text(scope, fields["policy"]):
        raise mismatch()


def _check_policy(fields: dict[str, str], bucket: str) -> range:
    """Every field must be as the policy wants it, and the policy must still hold; how many bytes it
    allows, both ends included."""
    values, covered, sizes = fields | {"bucket": bucket}, set(), range(sys.maxsize)
    try:
        policy = json.loads(base64.b64decode(fields["policy"], validate=True))
        expires = datetime.fromisoformat(policy["expiration"].replace("Z", "+00:00"))
        rules = [
            rule
            for condition in policy["conditions"]
            for rule in (
                [("eq", f"${name}", value) for name, value in condition.items()]
                if isinstance(condition, dict)
                else [condition]
            )
        ]
        if expires.replace(tzinfo=expires.tzinfo or UTC) < datetime.now(UTC):
            raise _denied("Policy expired.")
        for kind, what, value in rules:
            if kind == "content-length-range":
                sizes = range(int(what), int(value))
                continue
            name = what.removeprefix("$").lower()
            covered.add(name)
            found = values.get(name, "")
            fits = found == value if kind == "eq" else found.startswith(value)
            if kind not in ("eq", "starts-with") or not fits:
                raise _denied(f"Policy Condition failed: {json.dumps([kind, what, value])}")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise S3Error("InvalidPolicyDocument", "The policy cannot be read.") from None
    for name in fields:
        if name not in covered and not name.startswith(FREE):
            raise _denied(f"Extra input fields: {name}")
    return sizes


def _denied(why: str) -> S3Error:
    return S3Error("AccessDenied", f"Invalid according to Policy: {why}", 403)
