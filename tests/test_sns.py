"""SNS: topics, subscribers on loopback, and the news of pipelines."""

import http.server
import json
import threading
import time
import urllib.request

import pytest
from botocore.exceptions import ClientError

from orchestrator.sandbox.places import NEWS_TOPIC
from orchestrator.sandbox.sns.delivery import Delivery
from orchestrator.sandbox.sns.topics import Topics
from orchestrator.sandbox.state import State


def until(condition, seconds: float = 15):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


class Receiver:
    """A subscriber: what it was posted, and what it answers."""

    def __init__(self) -> None:
        self.messages, self.headers, self.statuses = [], [], []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.messages.append(json.loads(body))
                receiver.headers.append(dict(self.headers))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/news"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def of_kind(self, kind: str) -> list[dict]:
        return [message for message in self.messages if message["Type"] == kind]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


class House:
    """SNS without a sandbox: its state, topics and deliveries."""

    def __init__(self, path) -> None:
        self.called: list[dict] = []
        self.state = State(path)
        self.delivery = Delivery(self.state, lambda event, _: self.called.append(event))
        self.topics = Topics(self.state, self.delivery, "http://127.0.0.1:1")
        self.delivery.start()

    def close(self) -> None:
        self.delivery.close()
        self.state.close()


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "state.db")
    yield house
    house.close()


def subscribed(topics, receiver: Receiver) -> str:
    topics.subscribe({"TopicArn": NEWS_TOPIC, "Protocol": "http", "Endpoint": receiver.url})
    [asked] = until(lambda: receiver.of_kind("SubscriptionConfirmation"))
    confirmed = topics.confirm_subscription({"TopicArn": NEWS_TOPIC, "Token": asked["Token"]})
    return confirmed["SubscriptionArn"]


def test_what_a_subscriber_does_not_take_is_posted_again(house, receiver):
    subscribed(house.topics, receiver)
    receiver.statuses = [500, 302]
    house.topics.publish({"TopicArn": NEWS_TOPIC, "Message": "once"})
    first, *again = until(lambda: len(receiver.messages) == 4 and receiver.of_kind("Notification"))
    assert again == [first, first]
    until(lambda: house.state.rows("deliveries") == [])


def test_what_waits_is_delivered_after_a_restart(tmp_path, receiver):
    house = House(tmp_path / "state.db")
    subscribed(house.topics, receiver)
    receiver.statuses = [503]
    house.topics.publish({"TopicArn": NEWS_TOPIC, "Message": "kept"})
    until(lambda: receiver.of_kind("Notification"))
    house.close()
    again = House(tmp_path / "state.db")
    until(lambda: len(receiver.of_kind("Notification")) == 2)
    again.close()


def test_a_stack_that_comes_to_rest_is_told_once_and_nobody_elses(tmp_path):
    house = House(tmp_path / "state.db")
    until(lambda: house.state.rows("told"))

    def event(stack: str, status: str, type_: str = "AWS::CloudFormation::Stack") -> None:
        stack_id = f"arn:aws:cloudformation:us-east-1:0:stack/{stack}/1"
        house.state.insert("events", stack_id=stack_id, type=type_, status=status)

    event("mlops-pipeline-a", "CREATE_IN_PROGRESS")
    event("mlops-pipeline-a", "CREATE_COMPLETE", "AWS::SageMaker::Model")
    event("other", "CREATE_COMPLETE")
    event("mlops-pipeline-a", "CREATE_COMPLETE")
    [called] = until(lambda: house.called)
    assert called["source"] == "aws.cloudformation"
    assert called["detail"]["status-details"] == {"status": "CREATE_COMPLETE"}
    house.close()
    again = House(tmp_path / "state.db")
    time.sleep(0.7)
    assert again.called == []
    again.close()


def test_the_news_of_a_pipeline_reach_whoever_has_subscribed(sandbox, endpoint, receiver):
    """Through boto3: asked, confirmed by the link alone, told, and never again."""
    sns = sandbox.client("sns")
    topics = [
        t["TopicArn"]
        for page in sns.get_paginator("list_topics").paginate()
        for t in page["Topics"]
    ]
    assert NEWS_TOPIC in topics
    asked = sns.subscribe(TopicArn=NEWS_TOPIC, Protocol="http", Endpoint=receiver.url)
    assert asked["SubscriptionArn"] == "pending confirmation"
    sns.publish(TopicArn=NEWS_TOPIC, Message="too early")
    [message] = until(lambda: receiver.messages)
    assert message["Type"] == "SubscriptionConfirmation"
    with urllib.request.urlopen(message["SubscribeURL"]) as answer:  # unsigned
        assert b"<SubscriptionArn>" in answer.read()
    sandbox.wait(sandbox.provision(sandbox.payload("told")))
    [news] = until(lambda: receiver.of_kind("Notification"))
    assert news["TopicArn"] == NEWS_TOPIC
    assert news["Subject"] == "Pipeline is in service"
    assert "told" in news["Message"] and "(CREATE_COMPLETE)" in news["Message"]
    assert {"MessageId", "Timestamp", "UnsubscribeURL"} <= news.keys()
    assert receiver.headers[-1]["x-amz-sns-message-type"] == "Notification"
    [listed] = sns.list_subscriptions_by_topic(TopicArn=NEWS_TOPIC)["Subscriptions"]
    assert listed["Endpoint"] == receiver.url
    pages = sns.get_paginator("list_subscriptions").paginate()
    assert listed in [each for page in pages for each in page["Subscriptions"]]
    attributes = sns.get_topic_attributes(TopicArn=NEWS_TOPIC)["Attributes"]
    assert attributes["SubscriptionsConfirmed"] == "1"
    sns.unsubscribe(SubscriptionArn=listed["SubscriptionArn"])
    assert sns.list_subscriptions()["Subscriptions"] == []


@pytest.mark.parametrize(
    "operation, request_, code, words",
    [
        ("subscribe", {"Protocol": "email", "Endpoint": "a@b.c"}, "InvalidParameter", "Protocol email"),
        ("subscribe", {"Protocol": "sqs", "Endpoint": "arn"}, "InvalidParameter", "Protocol sqs"),
        ("subscribe", {"Protocol": "http", "Endpoint": "http://example.org"}, "InvalidParameter", "loopback"),
        ("subscribe", {"Protocol": "http", "Endpoint": "http://127.0.0.1.example.org/"}, "InvalidParameter", "loopback"),
        ("subscribe", {"Protocol": "http", "Endpoint": "http://[::1", }, "InvalidParameter", "loopback"),
        ("subscribe", {"Protocol": "http", "Attributes": {"RawMessageDelivery": "true"}}, "ValidationError", "Attributes of Subscribe"),
        ("confirm_subscription", {"Token": "0"}, "InvalidParameter", "Token"),
        ("publish", {"Message": ""}, "InvalidParameter", "Message"),
        ("publish", {"Message": "a", "Subject": "a\nb"}, "InvalidParameter", "Subject"),
        ("publish", {"Message": "a", "MessageAttributes": {"k": {"DataType": "String", "StringValue": "v"}}}, "ValidationError", "MessageAttributes of Publish"),
        ("publish", {"Message": "a", "TopicArn": NEWS_TOPIC + "x"}, "NotFound", "does not exist"),
        ("delete_topic", {}, "InvalidParameter", "stays"),
    ],
)  # fmt: skip
def test_what_sns_does_not_honour_here_is_refused_by_name(
    sandbox, operation, request_, code, words
):
    with pytest.raises(ClientError) as raised:
        getattr(sandbox.client("sns"), operation)(**{"TopicArn": NEWS_TOPIC} | request_)
    error = raised.value.response["Error"]
    assert error["Code"] == code
    assert words in error["Message"]


def test_topics_of_ones_own(sandbox):
    sns = sandbox.client("sns")
    arn = sns.create_topic(Name="mine")["TopicArn"]
    assert sns.create_topic(Name="mine")["TopicArn"] == arn
    assert sns.publish(TopicArn=arn, Message="hello")["MessageId"]
    result = sandbox.project.run("aws", "sns", "list-topics", **sandbox.environment)
    assert result.returncode == 0, result.stderr
    assert {"TopicArn": arn} in json.loads(result.stdout)["Topics"]
    sns.delete_topic(TopicArn=arn)
    assert {"TopicArn": arn} not in sns.list_topics()["Topics"]
