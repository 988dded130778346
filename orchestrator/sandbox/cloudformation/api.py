"""CloudFormation's API: what is asked about stacks, and what is to be done with them."""

import json

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.cloudformation import template as templates
from orchestrator.sandbox.cloudformation.stacks import Stacks
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.state import State

ON_FAILURE = ("DO_NOTHING", "ROLLBACK", "DELETE")


class Api:
    def __init__(self, stacks: Stacks, state: State) -> None:
        self._stacks = stacks
        self._state = state

    @honours(
        "StackName", "TemplateBody", "Capabilities", "OnFailure", "DisableRollback", "RoleARN", "Tags"
    )  # fmt: skip
    def create_stack(self, request: dict) -> dict:
        if "OnFailure" in request and "DisableRollback" in request:
            both = "You can specify either DisableRollback or OnFailure, but not both."
            raise AwsError("ValidationException", both)
        usual = "DO_NOTHING" if request.get("DisableRollback") else "ROLLBACK"
        stack_id = self._stacks.create(
            request["StackName"], _template(request), request.get("Tags", []),
            request.get("OnFailure", usual), request.get("RoleARN"),
        )  # fmt: skip
        return {"StackId": stack_id}

    @honours("StackName", "TemplateBody", "Capabilities", "RoleARN")
    def update_stack(self, request: dict) -> dict:
        return {"StackId": self._stacks.update(request["StackName"], _template(request))}

    @honours("StackName", "RoleARN")
    def delete_stack(self, request: dict) -> dict:
        self._stacks.delete(request["StackName"])
        return {}

    @honours("StackName")
    def describe_stacks(self, request: dict) -> dict:
        if "StackName" in request:
            stacks = [self._stacks.find(request["StackName"])]
        else:
            stacks = [s for s in self._state.rows("stacks") if s["status"] != "DELETE_COMPLETE"]
        return {"Stacks": [self._described(stack) for stack in stacks]}

    def _described(self, stack: dict) -> dict:
        outputs = self._stacks.outputs(stack)
        return _summary(stack) | {
            "Description": stack["template"].get("Description"),
            "RoleARN": stack["role"],
            "DisableRollback": stack["on_failure"] == "DO_NOTHING",
            "Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in outputs.items()],
            "Tags": stack["tags"],
        }

    @honours("StackStatusFilter")
    def list_stacks(self, request: dict) -> dict:
        wanted = request.get("StackStatusFilter")
        stacks = [s for s in self._state.rows("stacks") if not wanted or s["status"] in wanted]
        return {"StackSummaries": [_summary(stack) for stack in stacks]}

    @honours("StackName")
    def describe_stack_events(self, request: dict) -> dict:
        stack = self._stacks.find(_name(request))
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

    @honours("StackName")
    def list_stack_resources(self, request: dict) -> dict:
        stack = self._stacks.find(request["StackName"])
        return {"StackResourceSummaries": self._resources(stack, "LastUpdatedTimestamp")}

    @honours("StackName")
    def describe_stack_resources(self, request: dict) -> dict:
        stack = self._stacks.find(_name(request))
        both = {"StackId": stack["id"], "StackName": stack["name"]}
        return {"StackResources": [both | row for row in self._resources(stack, "Timestamp")]}

    def _resources(self, stack: dict, time: str) -> list[dict]:
        events = self._state.rows("events", stack_id=stack["id"])
        latest = {(event["logical_id"], event["type"]): event for event in events}
        found = []
        for row in self._stacks.resources(stack):
            event = latest.get((row["logical_id"], row["type"]))
            if event is not None and row["stage"] != "old":
                found.append(
                    {
                        "LogicalResourceId": row["logical_id"],
                        "PhysicalResourceId": row["physical_id"],
                        "ResourceType": row["type"],
                        time: event["time"],
                        "ResourceStatus": event["status"],
                        "ResourceStatusReason": event["reason"],
                    }
                )
        return found

    @honours("StackName")
    def get_template(self, request: dict) -> dict:
        stack = self._stacks.find(_name(request))
        return {"TemplateBody": json.dumps(stack["template"])}


def _summary(stack: dict) -> dict:
    return {
        "StackId": stack["id"],
        "StackName": stack["name"],
        "CreationTime": stack["created"],
        "LastUpdatedTime": stack["updated"],
        "DeletionTime": stack["deleted"],
        "StackStatus": stack["status"],
        "StackStatusReason": stack["reason"],
    }


def _name(request: dict) -> str:
    """The stack that is asked about, where the API has it as an optional member."""
    if "StackName" not in request:
        raise AwsError("ValidationException", "The parameter StackName is required")
    return request["StackName"]


def _template(request: dict) -> dict:
    if "TemplateBody" not in request:
        raise AwsError("ValidationException", "The sandbox takes templates as TemplateBody.")
    return templates.parse(request["TemplateBody"])
