"""The sandbox itself: CloudFormation, SageMaker's control plane, STS, CloudWatch, SNS, EventBridge
Scheduler and the orchestrator's API.

Requests come in through the fronts (front.py) over a Unix socket; a request's signature says which
service it is for, as on AWS the host name does. The orchestrator's API is served below `/prod`, by
the handler that runs on AWS. The fronts, the store and the endpoints' processes are started, watched
and stopped from here.
"""

import asyncio
import hashlib
import json
import logging
import os
import re
import socket
import sqlite3
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from botocore.exceptions import ClientError

from orchestrator.environment import client
from orchestrator.handler import handler
from orchestrator.sandbox import web
from orchestrator.sandbox.aws.wire import Operation, Service
from orchestrator.sandbox.cloudformation.api import Api
from orchestrator.sandbox.cloudformation.change_sets import ChangeSets
from orchestrator.sandbox.cloudformation.resources import (
    Answers,
    CustomResource,
    SageMakerResource,
    ScheduleResource,
)
from orchestrator.sandbox.cloudformation.stacks import CUSTOM, Stacks
from orchestrator.sandbox.cloudwatch.journal import Journal
from orchestrator.sandbox.cloudwatch.logs import Logs
from orchestrator.sandbox.cloudwatch.metrics import Metrics
from orchestrator.sandbox.cloudwatch.tally import Tally
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.front import ANSWERS, CONTROL, ENDPOINTS, HOST
from orchestrator.sandbox.gate import Gate, scope_of
from orchestrator.sandbox.hosting.fleet import Fleet
from orchestrator.sandbox.hosting.publisher import Publisher
from orchestrator.sandbox.identity import Identity
from orchestrator.sandbox.jobs.queue import Queue
from orchestrator.sandbox.nursery import Nursery
from orchestrator.sandbox.places import (
    ASSETS_BUCKET,
    HANDLER,
    REGION,
    STAGE,
    Places,
)
from orchestrator.sandbox.refusals import refusal
from orchestrator.sandbox.sagemaker.asynchronous import Invocations
from orchestrator.sandbox.sagemaker.endpoint_configs import EndpointConfigs
from orchestrator.sandbox.sagemaker.endpoints import Endpoints
from orchestrator.sandbox.sagemaker.models import Models
from orchestrator.sandbox.sagemaker.processing_jobs import ProcessingJobs
from orchestrator.sandbox.sagemaker.tags import Tags
from orchestrator.sandbox.sagemaker.transform_jobs import TransformJobs
from orchestrator.sandbox.scheduler.runs import Runs
from orchestrator.sandbox.scheduler.schedules import Schedules
from orchestrator.sandbox.sns.delivery import Delivery
from orchestrator.sandbox.sns.topics import Topics
from orchestrator.sandbox.state import State
from orchestrator.sandbox.web import MAX_BODY, Answer

log = logging.getLogger("sandbox")

API_PATHS = re.compile(r"/provisionpipeline|/pipelinestatus|/pipelines/[^/]+/inference")
# The links in SNS's messages, which carry their right in the address.
LINK = re.compile(r"Action=(ConfirmSubscription|Unsubscribe)&")
NO_TOKEN = AwsError("MissingAuthenticationToken", "Missing Authentication Token", 403)


class Sandbox:
    """The ASGI application, and everything that it is made of."""

    def __init__(
        self, places: Places, keys: tuple[str, str], state: State, url: str, s3_url: str,
        nursery: Nursery, commands: dict[str, str],
    ) -> None:  # fmt: skip
        self._gate = Gate(*keys, REGION)
        self._bodies = web.Bodies(sys.maxsize)  # the fronts have bounded them
        self._s3_url = s3_url
        self._state = state
        self._fleet = Fleet(self._state, places, nursery, commands)
        self._publisher = Publisher(places, self._state)
        self._journal = Journal(places)
        # The handler calls back into this process: its threads must not be the ones that
        # answer those calls.
        self._handlers = ThreadPoolExecutor(16, thread_name_prefix="handler")
        self._answers = Answers()
        models, configs = Models(self._state, places), EndpointConfigs(self._state)
        endpoints, tags = Endpoints(self._state, self._fleet), Tags(self._state)
        self._queue = Queue(self._state, places, nursery, commands)
        transforms = TransformJobs(self._state, self._queue.wake)
        processings = ProcessingJobs(self._state, self._queue.wake)
        sagemaker = Service("sagemaker", models, configs, endpoints, tags, transforms, processings)
        self._runs = Runs(self._state, self._operation)
        schedules = Schedules(self._state, self._runs, self._operation)
        scheduler = Service("scheduler", schedules)
        custom = CustomResource(HANDLER, self._invoke, self._answers, url + ANSWERS)
        self._stacks = Stacks(
            self._state,
            {
                "AWS::SageMaker::Model": SageMakerResource(sagemaker, "Model"),
                "AWS::SageMaker::EndpointConfig": SageMakerResource(sagemaker, "EndpointConfig"),
                "AWS::SageMaker::Endpoint": SageMakerResource(sagemaker, "Endpoint", updates=True),
                "AWS::Scheduler::Schedule": ScheduleResource(scheduler),
                CUSTOM: custom,
            },
        )
        change_sets = ChangeSets(self._stacks, self._state)
        self._tally = Tally(places.metrics)
        self._invocations = Invocations(self._state, places, self._counted)
        # Requests are signed for the host's name, which is not always the service's.
        self._delivery = Delivery(self._state, handler)
        self._services = {
            "sagemaker": sagemaker,
            "cloudformation": Service(
                "cloudformation", Api(self._stacks, self._state, change_sets), change_sets
            ),
            "sts": Service("sts", Identity()),
            "logs": Service("logs", Logs(self._journal)),
            "sns": Service("sns", Topics(self._state, self._delivery, url)),
            "monitoring": Service("cloudwatch", Metrics(self._journal)),
            "scheduler": scheduler,
        }

    def _counted(self, *answer: object) -> None:
        """Asynchronous answers are few: each is handed over at once."""
        self._tally.count(*answer)
        self._tally.write()

    def _operation(self, service: str, name: str) -> Operation:
        """What a schedule calls, by the names of a service and of its operation."""
        for known in self.services:
            if known.name == service:
                return known.operation(name)
        raise AwsError("UnknownService", f"The sandbox has no service called {service}.", 404)

    @property
    def services(self) -> list[Service]:
        return list(self._services.values())

    def start(self) -> None:
        """Bring back what ran before: endpoints in service, operations under way."""
        self._fleet.recover()
        self._publisher.start()
        self._journal.start()
        self._delivery.start()

    def go_on(self) -> None:
        """What needs the store: its bucket is made, and operations under way are taken up."""
        try:
            client("s3").create_bucket(Bucket=ASSETS_BUCKET)
        except ClientError as error:
            if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
                raise
        self._stacks.resume()
        self._invocations.resume()
        self._queue.start()
        self._runs.start()

    def close(self) -> None:
        self._runs.close()
        self._stacks.close()
        self._queue.close()
        self._invocations.close()
        self._delivery.close()
        self._fleet.close()
        self._publisher.close()
        self._journal.close()
        self._state.close()

    async def __call__(self, scope, receive, send) -> None:
        headers = web.headers_of(scope)
        headers["host"] = headers.pop(HOST, "")
        try:
            body = await self._bodies.read(receive, MAX_BODY)
        except web.Disconnected:  # a front that was killed: nobody waits for an answer
            return
        claim = scope_of(headers)
        unsigned = "execute-api" if scope["path"].startswith(STAGE) else ""
        service = claim.service if claim else unsigned
        try:
            answer = await self._answer(scope, headers, body)
        except AwsError as error:
            answer = self._refuse(service, error, headers)
        except Exception as error:
            log.exception("a request could not be answered")
            answer = self._refuse(service, _failure(error), headers)
        await web.send_answer(send, answer, with_body=scope["method"] != "HEAD")

    def _refuse(self, service: str, error: AwsError, headers: dict[str, str]) -> Answer:
        if service in self._services:
            return self._services[service].refuse(error, headers)
        return refusal(service, headers, error)

    async def _answer(self, scope, headers: dict[str, str], body: bytes) -> Answer:
        """Check a request, and answer it; AwsError refuses it."""
        method, path = scope["method"], scope["raw_path"].decode("latin-1")
        if method == "PUT" and path.startswith(ANSWERS):
            return self._take_answer(path.removeprefix(ANSWERS), body)
        claim = scope_of(headers)
        query = scope["query_string"].decode("latin-1")
        if claim is None and method == "GET" and path == "/" and LINK.match(query):
            return await asyncio.to_thread(self._services["sns"].answer, {}, query.encode())
        if claim is None:
            raise NO_TOKEN
        if claim.service == "s3":
            wrong = f'This is not S3, which is at {self._s3_url}: eval "$(make -s env)"'
            raise AwsError("WrongAddress", wrong, 421)
        if len(body) > MAX_BODY:
            message = f"The body is longer than the {MAX_BODY} bytes that are allowed."
            raise AwsError("ValidationException", message, 413)
        digest = hashlib.sha256(body).hexdigest()
        self._gate.check(method, path, query, headers, digest, claim, claim.service)
        if claim.service == "execute-api":
            return await self._answer_api(method, path, headers, body)
        if claim.service == "sagemaker" and path.startswith(ENDPOINTS):
            target = f"{path}?{query}" if query else path
            return await asyncio.to_thread(self._invocations.answer, method, target, headers, body)
        if claim.service not in self._services:
            raise AwsError(
                "UnknownService", f"The sandbox has no service called {claim.service}.", 404
            )
        service = self._services[claim.service]
        return await asyncio.to_thread(service.answer, headers, body, method, path, query)

    async def _answer_api(self, method: str, path: str, headers: dict, body: bytes) -> Answer:
        """API Gateway: two POST methods, and nothing else is there."""
        if method != "POST" or not path.startswith(STAGE):
            raise NO_TOKEN
        path = path.removeprefix(STAGE)
        if not API_PATHS.fullmatch(path):
            raise NO_TOKEN
        event = {
            "resource": path,
            "path": path,
            "httpMethod": method,
            "headers": headers,
            # What is no UTF-8 is refused by name, not replaced: contract.text.
            "body": body.decode(errors="surrogateescape"),
            "isBase64Encoded": False,
        }
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._handlers, handler, event, None)
        content_type = answer["headers"]["Content-Type"]
        return Answer(answer["statusCode"], content_type, answer["body"].encode())

    def _invoke(self, event: dict) -> None:
        """Lambda: the handler is called with an event, and nobody waits for what it returns."""
        self._handlers.submit(handler, event, None)

    def _take_answer(self, token: str, body: bytes) -> Answer:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not self._answers.give(token, answer):
            raise AwsError("AccessDenied", "Nobody waits for this answer.", 403)
        return Answer(200, "application/json", b"{}")


async def serve(sandbox: Sandbox) -> asyncio.Task:
    """Listen where the fronts look for the sandbox."""
    Path(CONTROL).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    # Under another name until it listens, so that nobody connects in vain.
    place = f"run/{uuid.uuid4().hex[:12]}.sock"
    listener.bind(place)
    listener.listen(1024)
    serving = await web.start(sandbox, [listener], drain_seconds=65, idle_seconds=86400)
    os.rename(place, CONTROL)
    return serving


def _failure(error: Exception) -> AwsError:
    """What a request is told that was right, and yet could not be carried out."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        message = "The disk is full. Free some space, and send the request again."
        return AwsError("ServiceUnavailable", message, 503)
    return AwsError("InternalFailure", f"The sandbox could not do it: {error}", 500)
