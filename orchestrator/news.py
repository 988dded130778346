"""What nobody waits for an answer to, and so is told to the SNS topic: what became of a stack, a
configuration in the assets bucket that was refused."""

import os

from orchestrator import cloudformation, logs
from orchestrator.cloudformation import failure_reasons
from orchestrator.environment import client


def of_stack(detail: dict) -> dict:
    """A stack of the account has changed: if it is ours, tell of it, and see to its logs.

    AWS calls with every pipeline of every orchestrator, for it cannot choose by a tag.
    """
    stack = cloudformation.find(detail["stack-id"])
    if stack is None or not cloudformation.is_ours(stack):
        return {"told": None}
    told = tell_of_stack(detail)
    if detail["status-details"]["status"] != "DELETE_COMPLETE":
        logs.expire(stack)
    return told


def tell_of_stack(detail: dict) -> dict:
    """Tell what became of a pipeline, with the reason when it failed."""
    stack_id, status = detail["stack-id"], detail["status-details"]["status"]
    name = stack_id.split("/")[1]
    news = {
        "CREATE_COMPLETE": "is in service",
        "UPDATE_COMPLETE": "is in service with the new version",
        "UPDATE_ROLLBACK_COMPLETE": "was rolled back; the previous version keeps answering",
        "DELETE_COMPLETE": "was deleted",
    }.get(status, "failed")
    message = f"Pipeline {name} {news} ({status})."
    if "FAILED" in status or "ROLLBACK" in status:
        message += " " + failure_reasons({"StackId": stack_id})
    tell(f"Pipeline {news.partition(';')[0]}", message)
    return {"told": message}


def tell(subject: str, message: str) -> None:
    topic = os.environ.get("NOTIFICATIONS_TOPIC")
    if topic:
        client("sns").publish(TopicArn=topic, Subject=subject[:100], Message=message)
