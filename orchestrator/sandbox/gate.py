"""Who may come in: AWS Signature Version 4, checked as AWS checks it.

nanio verifies the signature; here is the hash of the body that goes into it, and the words
in which each service refuses.
"""

import hashlib
import json

from nanio import errors as s3_errors
from nanio.auth.credentials import StaticCredentialResolver
from nanio.auth.sigv4 import parse_authorization_header, verify_header_auth
from nanio.errors import S3Error

from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.web import Answer
from orchestrator.sandbox.wire import query_error

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


def service_of(headers: dict[str, str]) -> str | None:
    """The service a request was signed for, None when it carries no such signature."""
    try:
        return parse_authorization_header(headers.get("authorization", "")).service
    except S3Error:
        return None


def check(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes,
    credentials: StaticCredentialResolver,
) -> None:  # fmt: skip
    """Verify the signature of a request to any service but S3; AwsError (403) refuses it."""
    # The canonical request holds the hash of the body as it arrived, whatever the
    # x-amz-content-sha256 header says.
    signed = headers | {"x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
    try:
        verify_header_auth(
            method=method, path=path, query=query, headers=signed, secret_lookup=credentials.resolve
        )
    except s3_errors.RequestTimeTooSkewed:
        raise AwsError("SignatureDoesNotMatch", STALE, 403) from None
    except s3_errors.SignatureDoesNotMatch:
        raise AwsError("SignatureDoesNotMatch", MISMATCH, 403) from None
    except s3_errors.InvalidAccessKeyId:
        raise AwsError("InvalidClientTokenId", UNKNOWN_KEY, 403) from None
    except S3Error:
        raise AwsError("IncompleteSignature", MALFORMED, 403) from None


def refusal(service: str | None, error: AwsError) -> Answer:
    """The refusal in the service's own format; API Gateway's is a plain `message`."""
    if service == "cloudformation":
        return Answer(error.status, "text/xml", query_error(error))
    body = {"message": error.message}
    if service == "sagemaker":
        body = {"__type": error.code} | body
    return Answer(error.status, "application/json", json.dumps(body).encode())
