"""What nobody waits for an answer to, and so is told to the SNS topic: what became of a stack, a
configuration in the assets bucket that was refused."""

import os

from orchestrator.cloudformation import failure_reasons
from orchestrator.environment import client


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
