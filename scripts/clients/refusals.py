"""What AWS refuses, in one line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
)

from common.errors import TargetError


@contextmanager
def explained() -> Iterator[None]:
    """Turn what AWS refuses into one line that says what to do."""
    try:
        yield
    except (NoCredentialsError, ProfileNotFound) as error:
        raise TargetError(
            f"no AWS credentials: {error}", "aws configure, or aws sso login"
        ) from None
    except NoRegionError:
        raise TargetError("no AWS region is set", "aws configure set region us-east-1") from None
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        raise TargetError(f"AWS refused: {message} ({code})", _remedy(code, message)) from None
    except BotoCoreError as error:
        raise TargetError(f"AWS does not answer: {error}", "check network and region") from None


def _remedy(code: str, message: str) -> str:
    if "Expired" in code or "InvalidClientTokenId" in code or "UnrecognizedClient" in code:
        return "your credentials are no longer valid: aws sso login, or aws configure"
    if code == "403":  # S3, of a HEAD: without words
        return "ask for the permission; a bucket must be of the orchestrator's own account"
    if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"):
        return "ask for the permission that the message names"
    if code == "ResourceLimitExceeded" or "limit" in message.lower():
        return "ask for the quota: Service Quotas, Amazon SageMaker, endpoint usage of the instance"
    if code in ("PermanentRedirect", "IllegalLocationConstraintException"):
        return "the bucket is in another region: set AWS_DEFAULT_REGION to it"
    if "Throttl" in code or code == "TooManyRequestsException":
        return "AWS asks for patience: try again in a minute"
    return ""
