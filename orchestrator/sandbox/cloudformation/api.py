"""CloudFormation's API of stacks: what is to be done with them, and what is asked about them."""

import json

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.cloudformation import orders, parameters
from orchestrator.sandbox.cloudformation import template as templates
from orchestrator.sandbox.cloudformation.change_sets import ChangeSets
from orchestrator.sandbox.cloudformation.stacks import Stacks, checked_name, new_id
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.state import State


class Api:
    def __init__(self, stacks: Stacks, state: State, change_sets: ChangeSets) -> None:
        self._stacks = stacks
        self._state = state
        self._change_sets = change_sets

    # -- what is to be done ------------------------------------------------------------

    @honours("StackName", *orders.ORDER, "OnFailure", "DisableRollback")
    def create_stack(self, request: dict) -> dict:
        if "OnFailure" in request and "DisableRollback" in request:
            raise _bad("You can specify either DisableRollback or OnFailure, but not both.")
        usual = "DO_NOTHING" if request.get("DisableRollback") else "ROLLBACK"
        stack_id = new_id(checked_name(request["StackName"]))
        template, kept = orders.planned(request, self._stacks.attributes, stack_id)
        self._stacks.create(stack_id, template, kept, request.get("OnFailure", usual))
        return {"StackId": stack_id}

    @honours("StackName", *orders.ORDER, "UsePreviousTemplate")
    def update_stack(self, request: dict) -> dict:
        stack = self._stacks.updatable(request["StackName"])
        template, kept = orders.planned(request, self._stacks.attributes, stack["id"], stack)
        return {"StackId": self._stacks.update(stack["id"], template, kept)}

    @honours("StackName", "RoleARN")
    def delete_stack(self, request: dict) -> dict:
        self._stacks.delete(request["StackName"])
        return {}

    # -- stacks ------------------------------------------------------------------------

    @honours("StackName", "NextToken")
    def describe_stacks(self, request: dict) -> dict:
        if "StackName" in request:
            rows = [self._stacks.find(request["StackName"])]
        else:
            rows = [s for s in self._state.rows("stacks") if s["status"] != "DELETE_COMPLETE"]
        rows, token = orders.page(rows, orders.by_age, request, newest_first=True)
        return {"Stacks": [self._described(row) for row in rows], "NextToken": token}

    def _described(self, stack: dict) -> dict:
        kept = stack["request"] or {}
        outputs = self._stacks.outputs(stack)
        told = (stack["template"] or {}).get("Outputs", {})
        return _summary(stack) | {
            "ChangeSetId": stack["change_set"],
            "Description": _description(stack),
            "Parameters": kept.get("Shown", []),
            "RoleARN": kept.get("RoleARN"),
            "Capabilities": kept.get("Capabilities", []),
            "DisableRollback": stack["on_failure"] == "DO_NOTHING",
            "Outputs": [
                {"OutputKey": k, "OutputValue": v, "Description": told[k].get("Description")}
                for k, v in outputs.items()
            ],
            "Tags": kept.get("Tags", []),
        }

    @honours("StackStatusFilter", "NextToken")
    def list_stacks(self, request: dict) -> dict:
        wanted = request.get("StackStatusFilter")
        rows = [s for s in self._state.rows("stacks") if not wanted or s["status"] in wanted]
        rows, token = orders.page(rows, orders.by_age, request, newest_first=True)
        summaries = [_summary(row) | {"TemplateDescription": _description(row)} for row in rows]
        return {"StackSummaries": summaries, "NextToken": token}

    @honours("StackName", "NextToken")
    def describe_stack_events(self, request: dict) -> dict:
        stack = self._stacks.find(request["StackName"])
        rows = self._state.rows("events", stack_id=stack["id"])
        rows, token = orders.page(rows, lambda row: row["seq"], request, newest_first=True)
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
        return {"StackEvents": events, "NextToken": token}

    # -- their resources ---------------------------------------------------------------

    @honours("StackName", "NextToken")
    def list_stack_resources(self, request: dict) -> dict:
        stack = self._stacks.find(request["StackName"])
        rows = self._resources(stack, "LastUpdatedTimestamp")
        rows, token = orders.page(rows, lambda row: row["LogicalResourceId"], request)
        return {"StackResourceSummaries": rows, "NextToken": token}

    @honours("StackName", "LogicalResourceId", "PhysicalResourceId")
    def describe_stack_resources(self, request: dict) -> dict:
        if ("StackName" in request) == ("PhysicalResourceId" in request):
            raise _bad("Either StackName or PhysicalResourceId must be specified, and not both.")
        stack = self._stacks.find(request.get("StackName") or self._owner(request))
        rows = self._resources(stack, "Timestamp")
        if "LogicalResourceId" in request:
            rows = [self._one(stack, rows, request["LogicalResourceId"])]
        return {"StackResources": [_names(stack) | row for row in rows]}

    @honours("StackName", "LogicalResourceId")
    def describe_stack_resource(self, request: dict) -> dict:
        stack, logical_id = self._stacks.find(request["StackName"]), request["LogicalResourceId"]
        row = self._one(stack, self._resources(stack, "LastUpdatedTimestamp"), logical_id)
        resource = stack["template"]["Resources"].get(logical_id, {})
        metadata = json.dumps(resource["Metadata"]) if "Metadata" in resource else None
        return {"StackResourceDetail": _names(stack) | row | {"Metadata": metadata}}

    def _owner(self, request: dict) -> str:
        """The stack that a resource belongs to."""
        physical_id = request["PhysicalResourceId"]
        row = self._state.row("resources", physical_id=physical_id)
        if row is None:
            raise _bad(f"Stack for {physical_id} does not exist")
        return row["stack_id"]

    def _one(self, stack: dict, rows: list[dict], logical_id: str) -> dict:
        for row in rows:
            if row["LogicalResourceId"] == logical_id:
                return row
        raise _bad(f"Resource {logical_id} does not exist for stack {stack['name']}")

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

    # -- their templates ---------------------------------------------------------------

    @honours("StackName", "ChangeSetName", "TemplateStage")
    def get_template(self, request: dict) -> dict:
        """Both stages are the same: there are no transforms."""
        if "ChangeSetName" in request:
            kept = self._change_sets.find(request)["request"]
        elif "StackName" in request:
            kept = self._stacks.find(request["StackName"])["request"]
        else:
            raise _bad("Either StackName or ChangeSetName must be specified.")
        if kept is None:
            raise _bad(f"Template for stack {request['StackName']} does not exist")
        stages = ["Original", "Processed"]
        return {"TemplateBody": kept["TemplateBody"], "StagesAvailable": stages}

    @honours(*orders.TEMPLATE)
    def validate_template(self, request: dict) -> dict:
        template = orders.read(request, self._stacks.attributes)[1]
        declared = template.get("Parameters", {}).items()
        return {
            "Parameters": [parameters.declaration(name, spec) for name, spec in declared],
            "Description": template.get("Description"),
        }

    @honours(*orders.TEMPLATE, "StackName")
    def get_template_summary(self, request: dict) -> dict:
        if "StackName" in request:
            if any(key in request for key in orders.TEMPLATE):
                raise _bad("StackName stands alone, without TemplateBody and TemplateURL.")
            kept = self._stacks.find(request["StackName"])["request"]
            if kept is None:  # it waits for a change set
                return {"Parameters": [], "ResourceTypes": []}
            template = templates.parse(kept["TemplateBody"])
        else:
            template = orders.read(request, self._stacks.attributes)[1]
        declared = template.get("Parameters", {}).items()
        types = {resource["Type"] for resource in template["Resources"].values()}
        metadata = template.get("Metadata")
        return {
            "Parameters": [
                parameters.declaration(name, spec) | parameters.constraints(spec)
                for name, spec in declared
            ],
            "Description": template.get("Description"),
            "ResourceTypes": sorted(types),
            "Version": template.get("AWSTemplateFormatVersion", "2010-09-09"),
            "Metadata": None if metadata is None else json.dumps(metadata),
        }


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


def _names(stack: dict) -> dict:
    return {"StackId": stack["id"], "StackName": stack["name"]}


def _description(stack: dict) -> str | None:
    return (stack["template"] or {}).get("Description")


def _bad(message: str) -> AwsError:
    return AwsError("ValidationException", message)
