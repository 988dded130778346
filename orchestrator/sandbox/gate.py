"""Who may come in: AWS Signature Version 4, checked as AWS checks it.

The canonical request is put together as botocore's signer does on the other side: the same
encoding of path and query, the same trimming of header values (tests/test_gate.py holds the two
together). The signing key of a day, region and service is computed once; what is left of a check is
three hashes. Nothing of botocore is imported: this runs in processes that are to stay small.

Source: AWS's "Signature Version 4 signing process"; botocore.auth.SigV4Auth, S3SigV4Auth.

AwsError
└── Refused                 403; S3 has names of its own for what is wrong
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from orchestrator.sandbox.errors import AwsError

ALGORITHM = "AWS4-HMAC-SHA256"
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=([^/,\s]+)/([0-9]{8})/([^/,\s]+)/([^/,\s]+)/aws4_request *, *"
    r"SignedHeaders=([^,\s]+) *, *Signature=([0-9a-f]{64})"
)
SKEW_SECONDS = 15 * 60
# A header of ours that is not signed could be put in, or changed, on the way.
MUST_BE_SIGNED = "x-amz-"

STALE = (
    "Signature not yet current or expired: the request's time is more than 15 minutes "
    "from the server's"
)
MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check "
    "your AWS Secret Access Key and signing method. Consult the service documentation for "
    "details."
)
UNKNOWN_KEY = "The security token included in the request is invalid."
MALFORMED = "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature'."


class Refused(AwsError):
    def __init__(self, code: str, message: str, s3_code: str) -> None:
        super().__init__(code, message, 403)
        self.s3_code = s3_code


def mismatch() -> Refused:
    return Refused("SignatureDoesNotMatch", MISMATCH, "SignatureDoesNotMatch")


def malformed(message: str) -> Refused:
    return Refused("IncompleteSignature", message, "AuthorizationHeaderMalformed")


@dataclass(frozen=True, slots=True)
class Scope:
    """What an Authorization header claims."""

    access_key: str
    date: str
    region: str
    service: str
    signed_headers: str
    signature: str

    @property
    def text(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def scope_of(headers: dict[str, str]) -> Scope | None:
    """What a request claims to be signed for, None when it carries no such signature."""
    found = AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    return Scope(*found.groups()) if found else None


class Gate:
    """Checks signatures made with one pair of keys, for one region."""

    def __init__(self, access_key: str, secret: str, region: str) -> None:
        self._access_key = access_key
        self._secret = secret
        self._region = region

    def check(
        self, method: str, path: str, query: str, headers: dict[str, str], body_hash: str,
        scope: Scope | None, service: str,
    ) -> None:  # fmt: skip
        """Verify a request to `service`; Refused says why not.

        `path` and `query` are as they came; `headers` by lower-case name. `body_hash` is the
        SHA-256 of the body as it arrived, or for S3 what the client says of its body, which
        whoever reads the body must then hold it to.
        """
        if scope is None:
            raise malformed(MALFORMED)
        time = headers.get("x-amz-date", "")
        self.check_scope(scope, time, service)
        check_age(time)
        if "x-amz-security-token" in headers:  # we give out none
            raise Refused("InvalidClientTokenId", UNKNOWN_KEY, "InvalidToken")
        query = _canonical_query(query)
        self.check_canonical(method, path, query, headers, body_hash, scope, time, service)

    def check_canonical(
        self, method: str, path: str, query: str, headers: dict[str, str], body_hash: str,
        scope: Scope, time: str, service: str,
    ) -> None:  # fmt: skip
        """The signature alone, of a request whose query is in canonical form."""
        names, path = scope.signed_headers.split(";"), _canonical_path(path, service)
        try:
            canonical = canonical_request(method, path, query, headers, names, body_hash)
        except KeyError:
            raise mismatch() from None
        for name in headers:
            if name.startswith(MUST_BE_SIGNED) and name not in names:
                raise mismatch()
        if "host" not in names or not self.is_signed(scope, time, canonical):
            raise mismatch()

    def check_scope(self, scope: Scope, time: str, service: str) -> None:
        """The claim itself: a key we know, for this region and service, on the day it was made."""
        named = scope.access_key.encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(named, self._access_key.encode()):
            raise Refused("InvalidClientTokenId", UNKNOWN_KEY, "InvalidAccessKeyId")
        wrong = None
        if scope.region != self._region:
            wrong = f"a valid region, not '{scope.region}': the sandbox is in {self._region}"
        elif scope.service != service:
            wrong = f"correct service: '{service}', not '{scope.service}'"
        if wrong:
            message = f"Credential should be scoped to {wrong}."
            raise Refused("SignatureDoesNotMatch", message, "AuthorizationHeaderMalformed")
        if not time.startswith(scope.date):
            raise malformed("The date in Credential is not that of X-Amz-Date.")

    def is_signed(self, scope: Scope, time: str, canonical: str) -> bool:
        """Whether the signature is that of this canonical request."""
        wanted = self.signature(scope, time, canonical)
        found = scope.signature.encode("utf-8", "surrogateescape")
        return hmac.compare_digest(wanted.encode(), found)

    def signature(self, scope: Scope, time: str, canonical: str) -> str:
        """That of a canonical request."""
        digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
        return self.sign(scope, f"{ALGORITHM}\n{time}\n{scope.text}\n{digest}")

    def is_signed_text(self, scope: Scope, text: str) -> bool:
        """Whether the signature is that of this very text, as for a form's policy."""
        found = scope.signature.encode("utf-8", "surrogateescape")
        return hmac.compare_digest(self.sign(scope, text).encode(), found)

    def sign(self, scope: Scope, string_to_sign: str) -> str:
        key = _signing_key(self._secret, scope.date, scope.region, scope.service)
        return hmac.digest(key, string_to_sign.encode("utf-8", "surrogateescape"), "sha256").hex()


def canonical_request(
    method: str, path: str, query: str, headers: dict[str, str], names: list[str], body_hash: str
) -> str:
    """What is signed of a request, its path and query in canonical form already; KeyError when a
    header that is to be signed is not there."""
    lines = "".join([f"{name}:{' '.join(headers[name].split())}\n" for name in names])
    return f"{method}\n{path}\n{query}\n{lines}\n{';'.join(names)}\n{body_hash}"


@lru_cache(64)
def moment(time: str) -> datetime:
    """When an X-Amz-Date says that a request was made; Refused when it is no date."""
    try:
        return datetime.strptime(time, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise malformed(f"X-Amz-Date is no date: {time[:40]!r}") from None


def check_age(time: str) -> None:
    """Refused for an X-Amz-Date that is too far from now."""
    if abs((datetime.now(UTC) - moment(time)).total_seconds()) > SKEW_SECONDS:
        raise Refused("SignatureDoesNotMatch", STALE, "RequestTimeTooSkewed")


@lru_cache(64)
def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


@lru_cache(1024)
def _canonical_path(path: str, service: str) -> str:
    """The path as signed: S3's encoded once, every other service's encoded again.

    The latter would be normalised too; there is nothing here whose path would change by that.
    """
    if service == "s3":
        return quote(unquote_to_bytes(path), safe="/~")
    if "//" in path or {".", ".."} & set(path.split("/")):
        raise mismatch()
    return quote(path, safe="/~")


@lru_cache(1024)
def _canonical_query(query: str) -> str:
    """Names and values encoded anew and sorted, as AWS does with what a client sent."""
    pairs = [part.partition("=") for part in query.split("&") if part]
    encoded = [
        (quote(unquote_to_bytes(name), safe="-_.~"), quote(unquote_to_bytes(value), safe="-_.~"))
        for name, _, value in pairs
    ]
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))
