"""AWS's services on the wire: an operation is a plain function from a dictionary to a dictionary.

`Service` reads a request by botocore's model of the service, checks it, calls the operation and
writes its answer. An operation is a method called as boto3 calls it, and says which members of the
request it honours:

    @honours("EndpointName", "EndpointConfigName")
    def create_endpoint(self, request: dict) -> dict: ...

Any other member that a caller sends is refused by name; so are operations and services that are
not here. The query protocol (CloudFormation, STS) and JSON (SageMaker, CloudWatch Logs) are spoken.
CloudWatch takes either: boto3 and today's AWS CLI ask it in JSON, those of before 2025 by a form.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qsl

from botocore import xform_name
from botocore.model import OperationModel, ServiceModel

from orchestrator.environment import client
from orchestrator.sandbox.aws import shapes
from orchestrator.sandbox.aws.shapes import Honoured, Invalid
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.refusals import CBOR, REQUEST_ID, XML, query_refusal, refusal
from orchestrator.sandbox.web import Answer

JSON = "application/x-amz-json-"


class InvalidRequest(AwsError):
    """A request that its service's model does not allow: what it speaks of cannot exist."""


def honours(*members: str) -> Callable:
    """Mark a method as an AWS operation, with the members of its request that it honours."""

    def mark(function: Callable[..., dict]) -> Callable[..., dict]:
        function.honours = Honoured(members)
        return function

    return mark


@dataclass(frozen=True)
class Operation:
    model: OperationModel
    function: Callable[[dict], dict]

    def __call__(self, request: dict) -> dict:
        """Check a request and carry it out; AwsError refuses it."""
        try:
            self.function.honours.check(request, self.model.name)
            if self.model.input_shape is not None:
                request = shapes.check(request, self.model.input_shape)
        except Invalid as error:
            raise InvalidRequest("ValidationException", str(error)) from None
        return self.function(request)


class Service:
    """One service of AWS, made of objects whose methods are its operations."""

    def __init__(self, name: str, *parts: object) -> None:
        self.name = name
        self._parts = parts

    @cached_property
    def _model(self) -> ServiceModel:
        # Read when it is needed: SageMaker's takes a moment. The handler's clients share it.
        return client(self.name).meta.service_model

    @property
    def title(self) -> str:
        """As AWS calls it."""
        return self._model.metadata["serviceFullName"]

    @cached_property
    def operations(self) -> dict[str, Operation]:
        found = {}
        for name in self._model.operation_names:
            for part in self._parts:
                function = getattr(part, xform_name(name), None)
                if hasattr(function, "honours"):
                    found[name] = Operation(self._model.operation_model(name), function)
        return found

    def call(self, name: str, request: dict) -> dict:
        """Carry out an operation by its name; AwsError refuses what is asked."""
        operation = self.operations.get(name)
        if operation is None:
            known = name in self._model.operation_names
            code = "InvalidAction" if "query" in self._protocols else "UnknownOperationException"
            why = "The sandbox does not answer" if known else "There is no operation"
            raise AwsError(code, f"{why} {self.name}:{name}.")
        return operation(request)

    @property
    def _protocols(self) -> list[str]:
        return self._model.metadata["protocols"]

    def _is_json(self, headers: dict[str, str]) -> bool:
        """Whether a request is, or should be, in JSON."""
        return "query" not in self._protocols or (
            "json" in self._protocols and "x-amz-target" in headers
        )

    def answer(self, headers: dict[str, str], body: bytes) -> Answer:
        """Answer one verified request."""
        try:
            if headers.get("smithy-protocol") == CBOR:
                message = f"The sandbox does not speak {CBOR}: ask {self.name} in another protocol."
                raise AwsError("UnsupportedProtocol", message)
            if self._is_json(headers):
                return self._answer_json(headers, body)
            return self._answer_query(body)
        except AwsError as error:
            return self.refuse(error, headers)

    def refuse(self, error: AwsError, headers: dict[str, str]) -> Answer:
        """A refusal as this service words it, also of a request that did not come as far as here."""
        if self._is_json(headers) or headers.get("smithy-protocol") == CBOR:
            return refusal(self.name, headers, error)
        return query_refusal(error, self._namespace)

    @property
    def _namespace(self) -> str:
        return self._model.metadata["xmlNamespace"]

    def _answer_json(self, headers: dict[str, str], body: bytes) -> Answer:
        name = headers.get("x-amz-target", "").rpartition(".")[2]
        try:
            request = json.loads(body or b"{}", parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise AwsError("SerializationException", "The body is no JSON.") from None
        if not isinstance(request, dict):
            raise AwsError("SerializationException", "The body is no JSON object.")
        result = self.call(name, request)
        shape = self._model.operation_model(name).output_shape
        text = json.dumps(shapes.to_json(result, shape) if shape else {})
        return Answer(200, f"{JSON}{self._model.metadata['jsonVersion']}", text.encode())

    def _answer_query(self, body: bytes) -> Answer:
        try:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True)
        except ValueError:
            raise AwsError("MalformedQueryString", "The body is no form.") from None
        form = dict(pairs)
        if len(form) != len(pairs):
            raise AwsError("MalformedQueryString", "A member is there twice.")
        name = form.pop("Action", "")
        if form.pop("Version", self._model.api_version) != self._model.api_version:
            raise AwsError("InvalidAction", f"The version is {self._model.api_version}.")
        request: dict = {}
        if name in self._model.operation_names:
            shape = self._model.operation_model(name).input_shape
            try:
                request = (shapes.from_form(form, shape) if shape else None) or {}
            except Invalid as error:
                raise AwsError("ValidationError", str(error)) from None
        result = self.call(name, request)
        shape = self._model.operation_model(name).output_shape
        content = f"<{name}Result>{shapes.to_xml(result, shape)}</{name}Result>" if shape else ""
        text = (
            f'<{name}Response xmlns="{self._namespace}">{content}'
            f"<ResponseMetadata><RequestId>{REQUEST_ID}</RequestId></ResponseMetadata>"
            f"</{name}Response>"
        )
        return Answer(200, XML, text.encode())


def _no_number(text: str) -> None:
    """NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(text)
