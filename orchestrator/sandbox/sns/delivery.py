"""Messages on their way to SNS's subscribers, and the news of stacks on their way to the orchestrator.

A thread posts what is due. What a subscriber does not take with a 2xx is tried again, later and later,
for an hour. What waits is in the state, and outlives the sandbox; a message may come twice when the
sandbox is killed, as on AWS.

The same thread stands for EventBridge, whose rule on AWS calls the handler when a stack has come to
rest (template.yaml): it looks through the stacks' events, and remembers how far.
"""

import http.client
import json
import logging
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from orchestrator.sandbox.state import State

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
END_SECONDS = 2
ANSWER_SECONDS = 5  # SNS waits for 15
LONGEST_PAUSE = 20  # between two attempts, which begin a second apart
GIVE_UP_SECONDS = 3600
MOST_WAITING = 1000  # messages for one subscriber; the oldest go
STACK = "AWS::CloudFormation::Stack"
AT_REST = (
    "CREATE_COMPLETE", "CREATE_FAILED", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE",
    "UPDATE_ROLLBACK_FAILED", "DELETE_COMPLETE", "DELETE_FAILED",
)  # fmt: skip
PIPELINES = "mlops-pipeline-"


class Delivery:
    def __init__(self, state: State, handler: Callable[[dict, None], object]) -> None:
        self._state, self._handler = state, handler
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(END_SECONDS)  # what it is about, it is about again after the next start

    def post(self, subscription: str, message: dict) -> None:
        """Have a message delivered, from now on."""
        waiting = self._state.rows("deliveries", "id", subscription=subscription)
        for row in waiting[: max(0, len(waiting) + 1 - MOST_WAITING)]:
            self._state.delete("deliveries", id=row["id"])
        now = time.time()
        body = json.dumps(message, indent=2)
        self._state.insert(
            "deliveries", subscription=subscription, kind=message["Type"], body=body, begun=now,
            due=now, attempts=0,
        )  # fmt: skip

    def _run(self) -> None:
        while not self._closing.wait(PAUSE_SECONDS):
            try:
                self._tell_of_stacks()
                for row in self._state.rows("deliveries", "id"):
                    if row["due"] <= time.time() and not self._closing.is_set():
                        self._deliver(row)
            except Exception:
                if not self._closing.is_set():
                    log.exception("messages are not delivered; it is tried again")

    def _deliver(self, row: dict) -> None:
        where, now = {"id": row["id"]}, time.time()
        subscription = self._state.row("subscriptions", arn=row["subscription"])
        if subscription is None:
            self._state.delete("deliveries", **where)
            return
        failure = _post(subscription, row)
        if failure and now - row["begun"] < GIVE_UP_SECONDS:
            due = now + min(LONGEST_PAUSE, 2 ** row["attempts"])
            self._state.update("deliveries", where, due=due, attempts=row["attempts"] + 1)
            return
        if failure:
            log.warning("%s is not told: %s", subscription["endpoint"], failure)
        self._state.delete("deliveries", **where)

    def _tell_of_stacks(self) -> None:
        """Call the handler with each stack of a pipeline that has come to rest since it was told."""
        known = self._state.row("told")
        if known is None:  # what was before there was anybody to tell is no news
            events = self._state.rows("events", "seq DESC")
            self._state.insert("told", seq=events[0]["seq"] if events else 0)
            return
        for event in self._state.after("events", "seq", known["seq"]):
            name = event["stack_id"].split("/")[1]
            if event["type"] == STACK and event["status"] in AT_REST and name.startswith(PIPELINES):
                self._call(event)
            self._state.update("told", {}, seq=event["seq"])

    def _call(self, event: dict) -> None:
        detail = {"stack-id": event["stack_id"], "status-details": {"status": event["status"]}}
        try:
            self._handler({"source": "aws.cloudformation", "detail": detail}, None)
        except Exception:
            log.exception("nobody is told of %s of %s", event["status"], event["stack_id"])


def _post(subscription: dict, row: dict) -> str | None:
    """Post a message; why it was not taken, None when it was."""
    message = json.loads(row["body"])
    parts = urlsplit(subscription["endpoint"])
    kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[parts.scheme]
    connection = kind(parts.hostname, parts.port, timeout=ANSWER_SECONDS)
    headers = {
        "Content-Type": "text/plain; charset=UTF-8",
        "User-Agent": "Amazon Simple Notification Service Agent",
        "x-amz-sns-message-type": row["kind"],
        "x-amz-sns-message-id": message["MessageId"],
        "x-amz-sns-topic-arn": subscription["topic"],
        "x-amz-sns-subscription-arn": subscription["arn"],
    }
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("POST", target, row["body"].encode(), headers)
        status = connection.getresponse().status
        return None if 200 <= status < 300 else f"it answered {status}"
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
