"""SNS: topics, and who is told what is published to them.

A subscriber is an address of this machine's loopback, by http or https; there is no other that a
laptop could tell, and each other protocol is refused by name. It is asked first, as by SNS: until it
has confirmed, by the SubscribeURL or the token of the message that it gets, it is told nothing else.
"""

import ipaddress
import logging
import re
import secrets
import uuid
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.places import ACCOUNT, NEWS_TOPIC, REGION
from orchestrator.sandbox.sns.delivery import Delivery
from orchestrator.sandbox.state import State

log = logging.getLogger(__name__)

ARN = f"arn:aws:sns:{REGION}:{ACCOUNT}:"
NAME = re.compile(r"[A-Za-z0-9_-]{1,256}")
SUBJECT = re.compile(r"[!-~][ -~]{0,99}")
MESSAGE_BYTES = 256 << 10
PAGE = 100
PENDING = "pending confirmation"


class Topics:
    def __init__(self, state: State, delivery: Delivery, url: str) -> None:
        """`url` is the sandbox's own, for the links in messages."""
        self._state, self._delivery, self._url = state, delivery, url
        self.create_topic({"Name": NEWS_TOPIC.removeprefix(ARN)})

    # -- topics ------------------------------------------------------------------------

    @honours("Name")
    def create_topic(self, request: dict) -> dict:
        """A topic of that name, be it new or not."""
        name = request["Name"]
        if not NAME.fullmatch(name):
            raise _invalid("Topic Name")
        with self._state.transaction():
            if self._state.row("topics", arn=ARN + name) is None:
                self._state.insert("topics", arn=ARN + name)
        return {"TopicArn": ARN + name}

    @honours("TopicArn")
    def delete_topic(self, request: dict) -> dict:
        """With its subscriptions; one that is not there is no error, as on AWS."""
        arn = request["TopicArn"]
        if arn == NEWS_TOPIC:
            message = f"The sandbox tells its news to {arn}, which stays."
            raise AwsError("InvalidParameter", message)
        with self._state.transaction():
            for row in self._state.rows("subscriptions", topic=arn):
                self._remove(row)
            self._state.delete("topics", arn=arn)
        return {}

    @honours("NextToken")
    def list_topics(self, request: dict) -> dict:
        topics = [{"TopicArn": row["arn"]} for row in self._state.rows("topics", "arn")]
        return _page(topics, request, "Topics")

    @honours("TopicArn")
    def get_topic_attributes(self, request: dict) -> dict:
        rows = self._state.rows("subscriptions", topic=self._topic(request))
        confirmed = sum(row["confirmed"] for row in rows)
        return {
            "Attributes": {
                "TopicArn": request["TopicArn"],
                "Owner": ACCOUNT,
                "DisplayName": "",
                "SubscriptionsConfirmed": str(confirmed),
                "SubscriptionsPending": str(len(rows) - confirmed),
                "SubscriptionsDeleted": "0",
            }
        }

    @honours("TopicArn", "Message", "Subject")
    def publish(self, request: dict) -> dict:
        topic, message = self._topic(request), request["Message"]
        if not 0 < len(message.encode()) <= MESSAGE_BYTES:
            raise _invalid(f"Message must be 1 to {MESSAGE_BYTES} bytes")
        if "Subject" in request and not SUBJECT.fullmatch(request["Subject"]):
            raise _invalid("Subject")
        body = _message("Notification", topic) | {"Message": message}
        body |= {"Subject": request["Subject"]} if "Subject" in request else {}
        log.info("%s: %s", topic.removeprefix(ARN), request.get("Subject", message[:200]))
        with self._state.transaction():
            for row in self._state.rows("subscriptions", topic=topic, confirmed=1):
                link = self._link("Unsubscribe", SubscriptionArn=row["arn"])
                self._delivery.post(row["arn"], body | {"UnsubscribeURL": link})
        return {"MessageId": body["MessageId"]}

    # -- subscriptions -----------------------------------------------------------------

    @honours("TopicArn", "Protocol", "Endpoint", "ReturnSubscriptionArn")
    def subscribe(self, request: dict) -> dict:
        topic, protocol = self._topic(request), request["Protocol"]
        endpoint = request.get("Endpoint", "")
        _check_address(protocol, endpoint)
        with self._state.transaction():
            which = {"topic": topic, "protocol": protocol, "endpoint": endpoint}
            row = self._state.row("subscriptions", **which)
            if row is None:
                row = which | {"arn": f"{topic}:{uuid.uuid4()}", "confirmed": 0}
                self._state.insert("subscriptions", token=secrets.token_hex(64), **row)
                row = self._state.row("subscriptions", arn=row["arn"])
            if not row["confirmed"]:
                self._ask_to_confirm(row)
        shown = row["confirmed"] or request.get("ReturnSubscriptionArn")
        return {"SubscriptionArn": row["arn"] if shown else PENDING}

    def _ask_to_confirm(self, row: dict) -> None:
        topic, token = row["topic"], row["token"]
        text = (
            f"You have chosen to subscribe to the topic {topic}.\n"
            "To confirm the subscription, visit the SubscribeURL included in this message."
        )
        link = self._link("ConfirmSubscription", TopicArn=topic, Token=token)
        told = {"Message": text, "Token": token, "SubscribeURL": link}
        self._delivery.post(row["arn"], _message("SubscriptionConfirmation", topic) | told)

    @honours("TopicArn", "Token")
    def confirm_subscription(self, request: dict) -> dict:
        topic = self._topic(request)
        row = self._state.row("subscriptions", topic=topic, token=request["Token"])
        if row is None:
            raise _invalid("Token")
        self._state.update("subscriptions", {"arn": row["arn"]}, confirmed=1)
        return {"SubscriptionArn": row["arn"]}

    @honours("SubscriptionArn")
    def unsubscribe(self, request: dict) -> dict:
        with self._state.transaction():
            self._remove(self._subscription(request))
        return {}

    @honours("SubscriptionArn")
    def get_subscription_attributes(self, request: dict) -> dict:
        row = self._subscription(request)
        return {
            "Attributes": _listed(row)
            | {
                "SubscriptionArn": row["arn"],
                "PendingConfirmation": "false" if row["confirmed"] else "true",
                "RawMessageDelivery": "false",
            }
        }

    @honours("NextToken")
    def list_subscriptions(self, request: dict) -> dict:
        rows = self._state.rows("subscriptions", "arn")
        return _page([_listed(row) for row in rows], request, "Subscriptions")

    @honours("TopicArn", "NextToken")
    def list_subscriptions_by_topic(self, request: dict) -> dict:
        rows = self._state.rows("subscriptions", "arn", topic=self._topic(request))
        return _page([_listed(row) for row in rows], request, "Subscriptions")

    # -- small parts -------------------------------------------------------------------

    def _topic(self, request: dict) -> str:
        arn = request.get("TopicArn")
        if arn is None:
            raise _invalid("TopicArn")
        if self._state.row("topics", arn=arn) is None:
            raise AwsError("NotFound", "Topic does not exist", 404)
        return arn

    def _subscription(self, request: dict) -> dict:
        row = self._state.row("subscriptions", arn=request["SubscriptionArn"])
        if row is None:
            raise AwsError("NotFound", "Subscription does not exist", 404)
        return row

    def _remove(self, row: dict) -> None:
        self._state.delete("deliveries", subscription=row["arn"])
        self._state.delete("subscriptions", arn=row["arn"])

    def _link(self, action: str, **members: str) -> str:
        return f"{self._url}/?{urlencode({'Action': action, **members})}"


def _message(kind: str, topic: str) -> dict:
    """What every message says. A signature, which only AWS could make, is not in it."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    identity = str(uuid.uuid4())
    return {"Type": kind, "MessageId": identity, "TopicArn": topic, "Timestamp": moment}


def _check_address(protocol: str, endpoint: str) -> None:
    if protocol not in ("http", "https"):
        why = "no mail can be sent from here" if protocol.startswith("email") else "it is not here"
        message = f"The sandbox does not honour the Protocol {protocol}: {why}. Subscribe an http"
        raise AwsError("InvalidParameter", f"{message} address on loopback.")
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname or "", parts.port
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback or parts.scheme != protocol or not endpoint.isprintable() or " " in endpoint:
        message = f"The sandbox tells addresses on loopback only, {protocol}://127.0.0.1:PORT/…"
        raise AwsError("InvalidParameter", f"Invalid parameter: Endpoint. {message}")


def _listed(row: dict) -> dict:
    return {
        "SubscriptionArn": row["arn"] if row["confirmed"] else "PendingConfirmation",
        "Owner": ACCOUNT,
        "Protocol": row["protocol"],
        "Endpoint": row["endpoint"],
        "TopicArn": row["topic"],
    }


def _page(items: list[dict], request: dict, plural: str) -> dict:
    token = request.get("NextToken", "0")
    if not re.fullmatch(r"[0-9]{1,9}", token):
        raise _invalid("NextToken")
    start = int(token)
    answer = {plural: items[start : start + PAGE]}
    return answer | {"NextToken": str(start + PAGE)} if start + PAGE < len(items) else answer


def _invalid(what: str) -> AwsError:
    return AwsError("InvalidParameter", f"Invalid parameter: {what}")
