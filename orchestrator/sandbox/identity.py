"""STS: who the caller is. There is one pair of keys, and it opens everything, as an account's root's."""

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.places import ACCOUNT


class Identity:
    @honours()
    def get_caller_identity(self, request: dict) -> dict:
        return {"UserId": ACCOUNT, "Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:root"}
