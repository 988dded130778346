"""What a template's resources are made of: SageMaker's and EventBridge Scheduler's own operations, or
the orchestrator's handler.

A type of resource has

    create       its physical id; `update` too, where it can be changed in place (`updates`)
    delete       one that is gone already is no error
    tag          give one that stays as it is the tags of its stack, besides its own
    value        what Ref (attribute None) and Fn::GetAtt stand for
    attributes   those that Fn::GetAtt may ask for

each of which raises ResourceFailed with a reason that a user can act on.
"""

import contextlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from botocore.model import Shape

from orchestrator.sandbox.aws.wire import InvalidRequest, Service
from orchestrator.sandbox.cloudformation.functions import text_of
from orchestrator.sandbox.cloudformation.parameters import NUMBER
from orchestrator.sandbox.errors import AwsError, ResourceFailed

POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Context:
    """Which resource of which stack is meant, and by which of its operations."""

    stack_id: str
    stack_name: str
    logical_id: str
    type: str
    tags: list  # of the stack, which its resources have too
    token: str  # of what is being made: the same when it is taken up again after a kill
    is_cancelled: Callable[[], bool]


class SageMakerResource:
    """AWS::SageMaker::…, by the operations of the same name; what takes its time is waited for."""

    def __init__(self, sagemaker: Service, noun: str, updates: bool = False) -> None:
        self._sagemaker = sagemaker
        self._noun = noun
        self.name_property = f"{noun}Name"
        self.attributes = (self.name_property,)
        self.updates = updates

    def create(self, context: Context, physical_id: str, properties: dict) -> str:
        wanted = self._typed("Create", properties)
        named = {self.name_property: physical_id, "Tags": _tags(context, wanted)}
        self._call("Create", wanted | named)
        self._settle(context, physical_id)
        return physical_id

    def update(self, context: Context, physical_id: str, properties: dict, old: dict) -> str:
        wanted = {key: value for key, value in properties.items() if key != "Tags"}
        wanted = self._typed("Update", wanted)
        self._settle(context, physical_id)  # from what an interrupted attempt had begun
        self._call("Update", wanted | {self.name_property: physical_id})
        state = self._settle(context, physical_id)
        for key, value in wanted.items():
            if state.get(key, value) != value:
                raise ResourceFailed(state.get("FailureReason") or "The update was rolled back.")
        self.tag(context, physical_id, properties)
        return physical_id

    def tag(self, context: Context, physical_id: str, properties: dict) -> None:
        """Make its own and the stack's tags its tags, whichever it has."""
        arn = self._describe(physical_id)[f"{self._noun}Arn"]
        wanted = _tags(context, self._typed("Create", properties))
        try:
            there = self._sagemaker.call("AddTags", {"ResourceArn": arn, "Tags": wanted})["Tags"]
            keys = [tag["Key"] for tag in there if tag not in wanted]
            if keys:
                self._sagemaker.call("DeleteTags", {"ResourceArn": arn, "TagKeys": keys})
        except AwsError as error:
            raise ResourceFailed(error.message) from None

    def delete(self, context: Context, physical_id: str, properties: dict) -> None:
        """Delete it, and wait until it is gone; one that is gone already is no error."""
        try:
            self._sagemaker.call(f"Delete{self._noun}", {self.name_property: physical_id})
            while True:
                self._describe(physical_id)
                time.sleep(POLL_SECONDS)
        except InvalidRequest:  # no name for anything: it was refused when it was to be made
            return
        except AwsError as error:
            if "Could not find" not in error.message:
                raise ResourceFailed(error.message) from None

    def value(self, physical_id: str, attribute: str | None) -> str:
        return physical_id if attribute else self._describe(physical_id)[f"{self._noun}Arn"]

    def _typed(self, verb: str, properties: dict) -> dict:
        """Properties as the operation has their types: a parameter of a template is a text."""
        return typed(
            properties, self._sagemaker.operations[f"{verb}{self._noun}"].model.input_shape
        )

    def _settle(self, context: Context, physical_id: str) -> dict:
        """Wait until it is no longer on its way from one state to another; what it is then."""
        key = f"{self._noun}Status"
        while True:
            described = self._describe(physical_id)
            if described.get(key) == "Failed":
                raise ResourceFailed(described.get("FailureReason") or "No reason was given.")
            if described.get(key) not in ("Creating", "Updating"):
                return described
            if context.is_cancelled():
                raise ResourceFailed("Resource creation cancelled")
            time.sleep(POLL_SECONDS)

    def _describe(self, physical_id: str) -> dict:
        return self._call("Describe", {self.name_property: physical_id})

    def _call(self, verb: str, request: dict) -> dict:
        try:
            return self._sagemaker.call(f"{verb}{self._noun}", request)
        except AwsError as error:
            raise ResourceFailed(error.message) from None


def _tags(context: Context, properties: dict) -> list[dict]:
    """A resource's own tags, and those of its stack that it has not itself."""
    own = properties.get("Tags", [])
    if not isinstance(own, list) or not all(isinstance(tag, dict) for tag in own):
        return own  # for the operation to refuse
    keys = [tag.get("Key") for tag in own]
    return own + [tag for tag in context.tags if tag["Key"] not in keys]


class ScheduleResource:
    """AWS::Scheduler::Schedule. A schedule has no tags, its stack's neither."""

    name_property = "Name"
    attributes = ("Arn",)
    updates = True

    def __init__(self, scheduler: Service) -> None:
        self._scheduler = scheduler

    def create(self, context: Context, physical_id: str, properties: dict) -> str:
        return self._put("CreateSchedule", physical_id, properties)

    def update(self, context: Context, physical_id: str, properties: dict, old: dict) -> str:
        return self._put("UpdateSchedule", physical_id, properties)

    def _put(self, operation: str, physical_id: str, properties: dict) -> str:
        for name in ("ActionAfterCompletion", "ClientToken"):
            if name in properties:  # members of the operation that CloudFormation does not have
                raise ResourceFailed(f"Encountered unsupported property {name}")
        shape = self._scheduler.operations[operation].model.input_shape
        self._call(operation, typed(properties, shape) | {"Name": physical_id})
        return physical_id

    def delete(self, context: Context, physical_id: str, properties: dict) -> None:
        """One that is gone already is no error, nor one that was refused when it was to be made."""
        try:
            self._scheduler.call("DeleteSchedule", {"Name": physical_id})
        except InvalidRequest:
            return
        except AwsError as error:
            if error.code != "ResourceNotFoundException":
                raise ResourceFailed(error.message) from None

    def tag(self, context: Context, physical_id: str, properties: dict) -> None:
        pass

    def value(self, physical_id: str, attribute: str | None) -> str:
        if attribute is None:
            return physical_id
        return self._call("GetSchedule", {"Name": physical_id})["Arn"]

    def _call(self, operation: str, request: dict) -> dict:
        try:
            return self._scheduler.call(operation, request)
        except AwsError as error:
            raise ResourceFailed(error.message) from None


class Answers:
    """Where custom resources' answers come in: an address for each question, good for one answer."""

    def __init__(self) -> None:
        self._open: dict[str, dict | None] = {}

    def expect(self) -> str:
        """A token that nobody can guess; whoever knows it may answer once."""
        token = uuid.uuid4().hex + uuid.uuid4().hex
        self._open[token] = None
        return token

    def give(self, token: str, answer: dict) -> bool:
        """Take an answer; False when nobody waits for it."""
        if self._open.get(token, answer) is not None:
            return False
        self._open[token] = answer
        return True

    def take(self, token: str) -> dict | None:
        return self._open.get(token)

    def forget(self, token: str) -> None:
        self._open.pop(token, None)


class CustomResource:
    """Custom::…, by the function that its ServiceToken names: the orchestrator's handler.

    As on AWS, the function is called with a RequestType and answers by a PUT to a ResponseURL
    (CloudFormation user guide, "Custom resource request and response objects").
    """

    name_property = None
    attributes = ()
    updates = True
    answer_seconds = 60

    def __init__(
        self, function_arn: str, invoke: Callable[[dict], None], answers: Answers, url: str
    ) -> None:
        """`invoke` calls the function with an event; `url` is where its answers come in."""
        self._function_arn = function_arn
        self._invoke = invoke
        self._answers = answers
        self._url = url

    def create(self, context: Context, physical_id: str | None, properties: dict) -> str:
        return self._ask(context, "Create", properties)["PhysicalResourceId"]

    def update(self, context: Context, physical_id: str, properties: dict, old: dict) -> str:
        """A new physical id means that there is a new thing, and the old one is to be deleted."""
        more = {"PhysicalResourceId": physical_id, "OldResourceProperties": strings(old)}
        return self._ask(context, "Update", properties, more)["PhysicalResourceId"]

    def delete(self, context: Context, physical_id: str | None, properties: dict) -> None:
        if not self._is_ours(properties):
            return  # nobody was asked to make it
        if physical_id is None:  # it was begun, and the sandbox killed before it had a name
            physical_id = self.create(context, None, properties)
        self._ask(context, "Delete", properties, {"PhysicalResourceId": physical_id})

    def tag(self, context: Context, physical_id: str, properties: dict) -> None:
        """A job has the tags of its request alone."""

    def value(self, physical_id: str, attribute: str | None) -> str:
        return physical_id

    def _ask(self, context: Context, kind: str, properties: dict, more: dict | None = None) -> dict:
        if not self._is_ours(properties):
            raise ResourceFailed(f"ServiceToken must be {self._function_arn}.")
        token = self._answers.expect()
        event = {
            "RequestType": kind,
            "ServiceToken": self._function_arn,
            "ResponseURL": self._url + token,
            "StackId": context.stack_id,
            # The same when it is asked again: the function must not do it twice.
            "RequestId": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{context.token}/{kind}")),
            "ResourceType": context.type,
            "LogicalResourceId": context.logical_id,
            "ResourceProperties": strings(properties),
        }
        try:
            self._invoke(event | (more or {}))
            deadline = time.monotonic() + self.answer_seconds
            while (answer := self._answers.take(token)) is None:
                if context.is_cancelled():
                    raise ResourceFailed("Resource creation cancelled")
                if time.monotonic() > deadline:
                    raise ResourceFailed("The function did not answer.")
                time.sleep(POLL_SECONDS)
        finally:
            self._answers.forget(token)
        if answer.get("Status") != "SUCCESS" or not answer.get("PhysicalResourceId"):
            reason = str(answer.get("Reason") or "No reason was given.")
            raise ResourceFailed(reason, answer.get("PhysicalResourceId"))
        return answer

    def _is_ours(self, properties: dict) -> bool:
        return properties.get("ServiceToken") == self._function_arn


def typed(value: object, shape: Shape) -> object:
    """A value with the texts in it as the numbers and booleans that its shape has, and the other way
    round, as CloudFormation does; what does not fit stays as it is, for the operation to refuse."""
    kind = shape.type_name
    if isinstance(value, dict) and kind == "structure":
        members = shape.members
        return {k: typed(v, members[k]) if k in members else v for k, v in value.items()}
    if isinstance(value, dict) and kind == "map":
        return {key: typed(item, shape.value) for key, item in value.items()}
    if isinstance(value, list) and kind == "list":
        return [typed(item, shape.member) for item in value]
    if kind == "string" and isinstance(value, bool | int | float):
        return text_of(value)
    if kind == "boolean" and value in ("true", "false"):
        return value == "true"
    number = {"integer": int, "long": int, "float": float, "double": float}.get(kind)
    if number and isinstance(value, str) and NUMBER.fullmatch(value):
        with contextlib.suppress(ValueError):
            return number(value)
    return value


def strings(value: object) -> object:
    """Numbers and booleans as text, which is how CloudFormation hands properties over."""
    if isinstance(value, dict):
        return {key: strings(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strings(item) for item in value]
    return text_of(value)
