"""Tags of models, endpoint configurations and endpoints: given when they are made, or later."""

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.sagemaker.arns import must_exist
from orchestrator.sandbox.state import State

MOST = 50


class Tags:
    def __init__(self, state: State) -> None:
        self._state = state

    @honours("ResourceArn", "Tags")
    def add_tags(self, request: dict) -> dict:
        with self._state.transaction():
            before = self._find(request)
            _check(request["Tags"])
            added = {tag["Key"]: tag for tag in request["Tags"]}
            tags = list(({tag["Key"]: tag for tag in before} | added).values())
            keep(self._state, request["ResourceArn"].lower(), tags)
        return {"Tags": tags}

    @honours("ResourceArn", "MaxResults")
    def list_tags(self, request: dict) -> dict:
        """All of them: there are no more than the smallest page holds."""
        return {"Tags": self._find(request)}

    @honours("ResourceArn", "TagKeys")
    def delete_tags(self, request: dict) -> dict:
        with self._state.transaction():
            tags = [tag for tag in self._find(request) if tag["Key"] not in request["TagKeys"]]
            keep(self._state, request["ResourceArn"].lower(), tags)
        return {}

    def _find(self, request: dict) -> list[dict]:
        must_exist(self._state, request["ResourceArn"])
        row = self._state.row("tags", arn=request["ResourceArn"].lower())
        return row["tags"] if row else []


def keep(state: State, arn: str, tags: list[dict]) -> None:
    """Make these the tags of a thing, in the place of any that it had; AwsError for bad ones."""
    _check(tags)
    forget(state, arn)
    state.insert("tags", arn=arn, tags=tags)


def forget(state: State, arn: str) -> None:
    state.delete("tags", arn=arn)


def _check(tags: list[dict]) -> None:
    keys = [tag["Key"] for tag in tags]
    wrong = None
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        wrong = f"The tag key {twice} is there twice."
    elif any(key.lower().startswith("aws:") for key in keys):
        wrong = "aws: prefixed tag key names are not allowed for external use."
    elif len(tags) > MOST:
        wrong = f"A resource has at most {MOST} tags."
    if wrong:
        raise AwsError("ValidationException", wrong)
