"""What of S3 a request speaks of must be there: asked when it comes in, not when it is used."""

from botocore.exceptions import ClientError, ParamValidationError

from orchestrator.environment import client
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.hosting.publisher import split_url


def must_have_object(url: str, what: str) -> None:
    bucket, key = split_url(url)
    try:
        client("s3").head_object(Bucket=bucket, Key=key)
    except (ClientError, ParamValidationError):
        raise AwsError("ValidationException", f"Could not find {what} at {url}.") from None


def must_have_bucket(url: str, what: str) -> None:
    bucket, _ = split_url(url)
    try:
        client("s3").head_bucket(Bucket=bucket)
    except (ClientError, ParamValidationError):
        message = f"The {what} bucket {bucket} does not exist."
        raise AwsError("ValidationException", message) from None
