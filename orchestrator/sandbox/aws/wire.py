"""AWS's services on the wire: an operation is a plain function from a dictionary to a dictionary.

`Service` reads a request by botocore's model of the service, checks it, calls the operation and
writes its answer. An operation is a method called as boto3 calls it, and says which members of the
request it honours:

    @honours("EndpointName", "EndpointConfigName")
    def create_endpoint(self, request: dict) -> dict: ...

Any other member that a caller sends is refused by name; so are operations and services that are
not here. The query protocol (CloudFormation, STS), JSON (SageMaker, CloudWatch Logs) and REST with JSON
(EventBridge Scheduler) are spoken. CloudWatch takes either of the first two: boto3 and today's AWS CLI
ask it in JSON, those of before 2025 by a form.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qs, parse_qsl, unquote

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
        return self.function(self.checked(request))

    def checked(self, request: dict) -> dict:
        """A request as the function takes it; InvalidRequest for one that it does not honour."""
        try:
            self.function.honours.check(request, self.model.name)
            if self.model.input_shape is not None:
                request = shapes.check(request, self.model.input_shape)
        except Invalid as error:
            raise InvalidRequest("ValidationException", str(error)) from None
        return request


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
        return self.operation(name)(request)

    def operation(self, name: str) -> Operation:
        """An operation by its name; AwsError for one that is not here."""
        operation = self.operations.get(name)
        if operation is None:
            known = name in self._model.operation_names
            code = "InvalidAction" if "query" in self._protocols else "UnknownOperationException"
            why = "The sandbox does not answer" if known else "There is no operation"
            raise AwsError(code, f"{why} {self.name}:{name}.")
        return operation

    @property
    def _protocols(self) -> list[str]:
        metadata = self._model.metadata
        return metadata.get("protocols", [metadata["protocol"]])

    @cached_property
    def _routes(self) -> list[tuple[str, re.Pattern, str]]:
        """Method, path and name of each operation of a REST service."""
        found = []
        for name in self._model.operation_names:
            http = self._model.operation_model(name).http
            path = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", http["requestUri"])
            found.append((http["method"], re.compile(path), name))
        return found

    def _is_json(self, headers: dict[str, str]) -> bool:
        """Whether a request is, or should be, in JSON."""
        return "query" not in self._protocols or (
            "json" in self._protocols and "x-amz-target" in headers
        )

    def answer(
        self, headers: dict[str, str], body: bytes, method: str = "POST", path: str = "/",
        query: str = "",
    ) -> Answer:  # fmt: skip
        """Answer one verified request; its method, path and query mean something in REST alone."""
        try:
            if headers.get("smithy-protocol") == CBOR:
                message = f"The sandbox does not speak {CBOR}: ask {self.name} in another protocol."
                raise AwsError("UnsupportedProtocol", message)
            if "rest-json" in self._protocols:
                return self._answer_rest(body, method, path, query)
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
        result = self.call(name, _read_json(body))
        return self._written(name, result, f"{JSON}{self._model.metadata['jsonVersion']}")

    def _answer_rest(self, body: bytes, method: str, path: str, query: str) -> Answer:
        name, labels = self._routed(method, path)
        shape = self._model.operation_model(name).input_shape
        asked = parse_qs(query, keep_blank_values=True)
        try:
            request = shapes.from_rest(labels, asked, _read_json(body), shape)
        except Invalid as error:
            raise InvalidRequest("ValidationException", str(error)) from None
        return self._written(name, self.call(name, request), "application/json")

    def _routed(self, method: str, path: str) -> tuple[str, dict[str, str]]:
        """The operation that a method and a path mean, and the labels of the path."""
        for verb, pattern, name in self._routes:
            found = pattern.fullmatch(path) if verb == method else None
            if found:
                return name, {key: unquote(text) for key, text in found.groupdict().items()}
        message = f"There is no operation {method} {path} of {self.name}."
        raise AwsError("UnknownOperationException", message, 404)

    def _written(self, name: str, result: dict, content_type: str) -> Answer:
        shape = self._model.operation_model(name).output_shape
        text = json.dumps(shapes.to_json(result, shape) if shape else {})
        return Answer(200, content_type, text.encode())

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


def _read_json(body: bytes) -> dict:
    try:
        request = json.loads(body or b"{}", parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise AwsError("SerializationException", "The body is no JSON.") from None
    if not isinstance(request, dict):
        raise AwsError("SerializationException", "The body is no JSON object.")
    return request


def _no_number(text: str) -> None:
    """NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(text)
