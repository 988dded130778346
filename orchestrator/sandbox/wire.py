"""CloudFormation's and SageMaker's control APIs on the wire: the calls the sandbox answers.

CloudFormation speaks the query protocol (form in, XML out), SageMaker JSON 1.1 with the
operation in a header. Shapes and names are those of botocore's service models; only what
`aws` and boto3 need to create, update, delete and look is here:

    cloudformation   CreateStack UpdateStack DeleteStack DescribeStacks DescribeStackEvents
                     ListStacks ListStackResources DescribeStackResources GetTemplate
    sagemaker        ListEndpoints DescribeEndpoint ListEndpointConfigs DescribeEndpointConfig
                     ListModels DescribeModel
"""

import json
import re
from collections.abc import Callable
from datetime import datetime
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.stacks import ACCOUNT, Stacks
from orchestrator.sandbox.state import State
from orchestrator.sandbox.web import Answer

NAMESPACE = "http://cloudformation.amazonaws.com/doc/2010-05-15/"
JSON = "application/x-amz-json-1.1"
REQUEST_ID = "00000000-0000-0000-0000-000000000000"


class CloudFormation:
    def __init__(self, stacks: Stacks, state: State) -> None:
        self._stacks = stacks
        self._state = state
        self._operations: dict[str, Callable[[dict], dict]] = {
            "CreateStack": self._create,
            "UpdateStack": self._update,
            "DeleteStack": self._delete,
            "DescribeStacks": self._describe,
            "ListStacks": self._list,
            "DescribeStackEvents": self._events,
            "ListStackResources": self._list_resources,
            "DescribeStackResources": self._describe_resources,
            "GetTemplate": self._get_template,
        }

    def answer(self, body: bytes) -> Answer:
        """Answer one verified request."""
        form = dict(parse_qsl(body.decode(errors="replace")))
        action = form.get("Action", "")
        try:
            operation = self._operations.get(action)
            if operation is None:
                message = f"The sandbox does not answer cloudformation:{action}"
                raise AwsError("InvalidAction", message)
            result = operation(form)
        except AwsError as error:
            return Answer(error.status, "text/xml", query_error(error))
        content = _xml(result)
        text = (
            f'<{action}Response xmlns="{NAMESPACE}"><{action}Result>{content}</{action}Result>'
            f"<ResponseMetadata><RequestId>{REQUEST_ID}</RequestId></ResponseMetadata>"
            f"</{action}Response>"
        )
        return Answer(200, "text/xml", text.encode())

    def _create(self, form: dict) -> dict:
        name = _required(form, "StackName")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,127}", name):
            pattern = "[a-zA-Z][-a-zA-Z0-9]*"
            raise AwsError(
                "ValidationError",
                f"1 validation error detected: Value '{name}' at 'stackName' failed to satisfy "
                f"constraint: Member must satisfy regular expression pattern: {pattern}",
            )
        return {"StackId": self._stacks.create(name, _template(form), _members(form, "Tags"))}

    def _update(self, form: dict) -> dict:
        return {"StackId": self._stacks.update(_required(form, "StackName"), _template(form))}

    def _delete(self, form: dict) -> dict:
        self._stacks.delete(_required(form, "StackName"))
        return {}

    def _describe(self, form: dict) -> dict:
        if "StackName" in form:
            stacks = [self._stacks.find(form["StackName"])]
        else:
            stacks = [s for s in self._state.rows("stacks") if s["status"] != "DELETE_COMPLETE"]
        return {"Stacks": [self._described(stack) for stack in stacks]}

    def _described(self, stack: dict) -> dict:
        outputs = self._stacks.outputs(stack)
        return {
            "StackId": stack["id"],
            "StackName": stack["name"],
            "Description": stack["template"].get("Description"),
            "CreationTime": stack["created"],
            "LastUpdatedTime": stack["updated"],
            "DeletionTime": stack["deleted"],
            "StackStatus": stack["status"],
            "StackStatusReason": stack["reason"],
            "DisableRollback": "true",
            "Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in outputs.items()],
            "Tags": stack["tags"],
        }

    def _list(self, form: dict) -> dict:
        fields = ("StackId", "StackName", "CreationTime", "DeletionTime", "StackStatus")
        stacks = [self._described(stack) for stack in self._state.rows("stacks")]
        return {"StackSummaries": [{key: stack[key] for key in fields} for stack in stacks]}

    def _events(self, form: dict) -> dict:
        stack = self._stacks.find(_required(form, "StackName"))
        rows = self._state.rows("events", order="seq DESC", stack_id=stack["id"])
        events = [
            {
                "StackId": stack["id"],
                "EventId": f"{row['seq']}",
                "StackName": stack["name"],
                "LogicalResourceId": row["logical_id"],
                "PhysicalResourceId": row["physical_id"],
                "ResourceType": row["type"],
                "Timestamp": row["time"],
                "ResourceStatus": row["status"],
                "ResourceStatusReason": row["reason"],
            }
            for row in rows
        ]
        return {"StackEvents": events}

    def _list_resources(self, form: dict) -> dict:
        return {"StackResourceSummaries": self._resources(form)}

    def _describe_resources(self, form: dict) -> dict:
        stack = self._stacks.find(_required(form, "StackName"))
        both = {"StackId": stack["id"], "StackName": stack["name"]}
        resources = [
            both | {("Timestamp" if k == "LastUpdatedTimestamp" else k): v for k, v in row.items()}
            for row in self._resources(form)
        ]
        return {"StackResources": resources}

    def _resources(self, form: dict) -> list[dict]:
        stack = self._stacks.find(_required(form, "StackName"))
        latest = {
            row["physical_id"]: row for row in self._state.rows("events", stack_id=stack["id"])
        }
        return [
            {
                "LogicalResourceId": row["logical_id"],
                "PhysicalResourceId": row["name"],
                "ResourceType": row["type"],
                "LastUpdatedTimestamp": latest[row["name"]]["time"],
                "ResourceStatus": latest[row["name"]]["status"],
                "ResourceStatusReason": latest[row["name"]]["reason"],
            }
            for row in self._stacks.resources(stack)
            if row["name"] in latest
        ]

    def _get_template(self, form: dict) -> dict:
        stack = self._stacks.find(_required(form, "StackName"))
        return {"TemplateBody": json.dumps(stack["template"])}


def _required(form: dict, key: str) -> str:
    if key not in form:
        raise AwsError("ValidationError", f"The parameter {key} is required")
    return form[key]


def _template(form: dict) -> dict:
    try:
        template = json.loads(_required(form, "TemplateBody"))
    except ValueError:
        message = "Template format error: the sandbox takes templates in JSON only"
        raise AwsError("ValidationError", message) from None
    return template


def _members(form: dict, name: str) -> list[dict]:
    """A query-protocol list of structures: `Tags.member.1.Key`, `Tags.member.1.Value`, …"""
    found: dict[int, dict] = {}
    for key, value in form.items():
        match = re.fullmatch(rf"{name}\.member\.(\d+)\.(\w+)", key)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = value
    return [found[number] for number in sorted(found)]


def _xml(value: object) -> str:
    if isinstance(value, dict):
        return "".join(f"<{k}>{_xml(v)}</{k}>" for k, v in value.items() if v is not None)
    if isinstance(value, list):
        return "".join(f"<member>{_xml(item)}</member>" for item in value)
    return escape(str(value))


def query_error(error: AwsError) -> bytes:
    content = _xml({"Type": "Sender", "Code": error.code, "Message": error.message})
    return (
        f'<ErrorResponse xmlns="{NAMESPACE}"><Error>{content}</Error>'
        f"<RequestId>{REQUEST_ID}</RequestId></ErrorResponse>"
    ).encode()


class SageMaker:
    def __init__(self, state: State, region: str) -> None:
        self._state = state
        self._region = region
        self._operations: dict[str, Callable[[dict], dict]] = {
            "DescribeEndpoint": self._describe_endpoint,
            "ListEndpoints": self._list_endpoints,
            "DescribeEndpointConfig": self._describe_endpoint_config,
            "ListEndpointConfigs": self._list_endpoint_configs,
            "DescribeModel": self._describe_model,
            "ListModels": self._list_models,
        }

    def answer(self, target: str, body: bytes) -> Answer:
        """Answer one verified request; `target` is its X-Amz-Target header."""
        name = target.rpartition(".")[2]
        try:
            operation = self._operations.get(name)
            if operation is None:
                message = f"The sandbox does not answer sagemaker:{name}"
                raise AwsError("UnknownOperationException", message)
            result = operation(json.loads(body or b"{}"))
        except AwsError as error:
            return Answer(error.status, JSON, json_error(error))
        except (ValueError, KeyError, TypeError, AttributeError):
            error = AwsError("SerializationException", "The body is not a valid request")
            return Answer(error.status, JSON, json_error(error))
        return Answer(200, JSON, json.dumps(result).encode())

    def _arn(self, kind: str, name: str) -> str:
        return f"arn:aws:sagemaker:{self._region}:{ACCOUNT}:{kind}/{name.lower()}"

    def _found(self, kind: str, type_: str, name: str) -> dict:
        row = self._state.row("resources", type=type_, name=name)
        if row is None:
            arn = self._arn(kind, name)
            raise AwsError("ValidationException", f'Could not find {kind} "{arn}".')
        return row

    def _describe_endpoint(self, request: dict) -> dict:
        row = self._state.row("endpoints", name=request["EndpointName"])
        if row is None:
            arn = self._arn("endpoint", request["EndpointName"])
            raise AwsError("ValidationException", f'Could not find endpoint "{arn}".')
        described = self._endpoint_summary(row) | {"EndpointConfigName": row["config"]}
        if row["reason"]:
            described["FailureReason"] = row["reason"]
        config = self._state.row(
            "resources", type="AWS::SageMaker::EndpointConfig", name=row["config"]
        )
        if config:
            capture = config["properties"].get("DataCaptureConfig")
            if capture:
                described["DataCaptureConfig"] = {
                    "EnableCapture": capture["EnableCapture"],
                    "CaptureStatus": "Started" if capture["EnableCapture"] else "Stopped",
                    "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
                    "DestinationS3Uri": capture["DestinationS3Uri"],
                    "KmsKeyId": capture.get("KmsKeyId", ""),
                }
            described["ProductionVariants"] = [
                {
                    "VariantName": variant["VariantName"],
                    "CurrentWeight": variant["InitialVariantWeight"],
                    "DesiredWeight": variant["InitialVariantWeight"],
                    "CurrentInstanceCount": variant["InitialInstanceCount"],
                    "DesiredInstanceCount": variant["InitialInstanceCount"],
                }
                for variant in config["properties"]["ProductionVariants"]
            ]
        return described

    def _endpoint_summary(self, row: dict) -> dict:
        return {
            "EndpointName": row["name"],
            "EndpointArn": self._arn("endpoint", row["name"]),
            "EndpointStatus": row["status"],
            "CreationTime": _epoch(row["created"]),
            "LastModifiedTime": _epoch(row["updated"]),
        }

    def _list_endpoints(self, request: dict) -> dict:
        rows = self._state.rows("endpoints", order="created DESC")
        wanted = request.get("StatusEquals")
        kept = [row for row in rows if wanted in (None, row["status"])]
        return {"Endpoints": [self._endpoint_summary(row) for row in kept]}

    def _describe_endpoint_config(self, request: dict) -> dict:
        name = request["EndpointConfigName"]
        row = self._found("endpoint-config", "AWS::SageMaker::EndpointConfig", name)
        kept = ("ProductionVariants", "DataCaptureConfig", "KmsKeyId")
        properties = {k: v for k, v in row["properties"].items() if k in kept}
        return self._summary("EndpointConfig", "endpoint-config", row) | properties

    def _list_endpoint_configs(self, request: dict) -> dict:
        rows = self._state.rows("resources", type="AWS::SageMaker::EndpointConfig")
        return {
            "EndpointConfigs": [self._summary("EndpointConfig", "endpoint-config", r) for r in rows]
        }

    def _describe_model(self, request: dict) -> dict:
        row = self._found("model", "AWS::SageMaker::Model", request["ModelName"])
        kept = ("PrimaryContainer", "ExecutionRoleArn")
        properties = {k: v for k, v in row["properties"].items() if k in kept}
        return self._summary("Model", "model", row) | properties

    def _list_models(self, request: dict) -> dict:
        rows = self._state.rows("resources", type="AWS::SageMaker::Model")
        return {"Models": [self._summary("Model", "model", row) for row in rows]}

    def _summary(self, shape: str, kind: str, row: dict) -> dict:
        return {
            f"{shape}Name": row["name"],
            f"{shape}Arn": self._arn(kind, row["name"]),
            "CreationTime": _epoch(row["created"]),
        }


def json_error(error: AwsError) -> bytes:
    return json.dumps({"__type": error.code, "message": error.message}).encode()


def _epoch(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
