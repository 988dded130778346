"""Change sets: what an order would change, told before it is carried out.

A change set is complete when it has been asked for. Whether it can be carried out, and what has come
of that, is read off its stack: another operation of the stack makes it obsolete.
"""

import time
import uuid

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.cloudformation import orders
from orchestrator.sandbox.cloudformation import template as templates
from orchestrator.sandbox.cloudformation.functions import references
from orchestrator.sandbox.cloudformation.stacks import (
    Stacks,
    checked_name,
    differs,
    is_under_way,
    new_id,
)
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.places import ACCOUNT, REGION
from orchestrator.sandbox.state import State, now

NO_CHANGES = (
    "The submitted information didn't contain changes. Submit different information to create a "
    "change set."
)
SETTLE_SECONDS = 3
POLL_SECONDS = 0.05


class ChangeSets:
    def __init__(self, stacks: Stacks, state: State) -> None:
        self._stacks = stacks
        self._state = state

    # -- CloudFormation's API ----------------------------------------------------------

    @honours(
        "StackName", *orders.ORDER, "UsePreviousTemplate", "ChangeSetName", "ChangeSetType",
        "Description", "OnStackFailure",
    )  # fmt: skip
    def create_change_set(self, request: dict) -> dict:
        kind = request.get("ChangeSetType", "UPDATE")
        if kind not in ("CREATE", "UPDATE"):
            raise _bad(f"The sandbox does not honour the ChangeSetType {kind}.")
        if kind == "UPDATE" and "OnStackFailure" in request:
            raise _bad("The sandbox honours OnStackFailure of a new stack only.")
        with self._state.transaction():
            stack = self._new_stack(request) if kind == "CREATE" else self._old_stack(request)
            names = {"stack_id": stack["id"], "name": request["ChangeSetName"]}
            if self._state.row("change_sets", **names):
                taken = f"ChangeSet {names['name']} already exists"
                raise AwsError("AlreadyExistsException", taken)
            before = stack if kind == "UPDATE" else None
            template, kept = orders.planned(request, self._stacks.attributes, stack["id"], before)
            if kind == "CREATE" and stack["status"] is None:
                self._stacks.review(stack["id"])
                stack = self._stacks.find(stack["id"])
            name, unique = names["name"], uuid.uuid4()
            row = {
                "id": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:changeSet/{name}/{unique}",
                "type": kind,
                "on_failure": request.get("OnStackFailure", "ROLLBACK"),
                "description": request.get("Description"),
                "template": template,
                "request": kept,
                "created": now(),
                "operation": stack["operation"],
                "changes": None,
            }
            if before is None or differs(stack, template, kept):
                row["changes"] = self._changes(stack, template)
            self._state.insert("change_sets", **names, **row)
        return {"Id": row["id"], "StackId": stack["id"]}

    @honours("ChangeSetName", "StackName", "NextToken")
    def describe_change_set(self, request: dict) -> dict:
        row = self.find(request)
        changes, token = orders.page(row["changes"] or [], _logical_id, request)
        return self._summary(row) | {
            "Parameters": row["request"]["Shown"],
            "NotificationARNs": [],
            "RollbackConfiguration": {},
            "Capabilities": row["request"]["Capabilities"],
            "Tags": row["request"]["Tags"],
            "OnStackFailure": row["on_failure"] if row["type"] == "CREATE" else None,
            "Changes": changes,
            "NextToken": token,
        }

    @honours("StackName", "NextToken")
    def list_change_sets(self, request: dict) -> dict:
        stack = self._stacks.find(request["StackName"])
        rows = self._state.rows("change_sets", stack_id=stack["id"])
        rows, token = orders.page(rows, orders.by_age, request, newest_first=True)
        return {"Summaries": [self._summary(row) for row in rows], "NextToken": token}

    @honours("ChangeSetName", "StackName", "DisableRollback")
    def execute_change_set(self, request: dict) -> dict:
        """Begin what it says. The other change sets of its stack are of no use after that."""
        with self._state.transaction():
            row = self.find(request)
            status = self._execution(row)
            if status != "AVAILABLE":
                shown = "FAILED" if status == "UNAVAILABLE" else status
                raise AwsError(
                    "InvalidChangeSetStatus",
                    f"ChangeSet [{row['id']}] cannot be executed in its current status of [{shown}]",
                )
            if request.get("DisableRollback"):
                if row["type"] == "UPDATE":
                    raise _bad("The sandbox honours DisableRollback of a new stack only.")
                row["on_failure"] = "DO_NOTHING"
            self._stacks.execute(row)
            for other in self._state.rows("change_sets", stack_id=row["stack_id"]):
                if other["id"] != row["id"]:
                    self._state.delete("change_sets", id=other["id"])
        self._settle(row["stack_id"])
        return {}

    @honours("ChangeSetName", "StackName")
    def delete_change_set(self, request: dict) -> dict:
        row = self.find(request)
        if self._execution(row) == "EXECUTE_IN_PROGRESS":
            doing = f"ChangeSet [{row['id']}] cannot be deleted in its current status of "
            raise AwsError("InvalidChangeSetStatus", f"{doing}[EXECUTE_IN_PROGRESS]")
        self._state.delete("change_sets", id=row["id"])
        return {}

    def find(self, request: dict) -> dict:
        """The change set that a request names, by its id, or by its name and its stack."""
        name = request["ChangeSetName"]
        if name.startswith("arn:"):
            row = self._state.row("change_sets", id=name)
        elif "StackName" not in request:
            must = "StackName must be specified if ChangeSetName is not specified as an ARN."
            raise _bad(must)
        else:
            stack = self._stacks.find(request["StackName"])
            row = self._state.row("change_sets", stack_id=stack["id"], name=name)
        if row is None:
            raise AwsError("ChangeSetNotFound", f"ChangeSet [{name}] does not exist", 404)
        return row

    # -- small parts -------------------------------------------------------------------

    def _new_stack(self, request: dict) -> dict:
        """The stack that waits for a change set, or the id of one that does not exist yet."""
        try:
            stack = self._stacks.find(request["StackName"])
        except AwsError:
            return {"id": new_id(checked_name(request["StackName"])), "status": None}
        if stack["status"] == "DELETE_COMPLETE":
            return {"id": new_id(stack["name"]), "status": None}
        if stack["status"] != "REVIEW_IN_PROGRESS":
            again = f"cannot be created again with the changeSet [{request['ChangeSetName']}]."
            raise _bad(f"Stack [{stack['name']}] already exists and {again}")
        return stack

    def _old_stack(self, request: dict) -> dict:
        try:
            return self._stacks.updatable(request["StackName"])
        except AwsError as error:
            if "does not exist" in error.message:
                raise _bad(f"Stack [{request['StackName']}] does not exist") from None
            raise

    def _summary(self, row: dict) -> dict:
        stack = self._stacks.find(row["stack_id"])
        is_good = row["changes"] is not None
        return {
            "StackId": stack["id"],
            "StackName": stack["name"],
            "ChangeSetId": row["id"],
            "ChangeSetName": row["name"],
            "Description": row["description"],
            "CreationTime": row["created"],
            "Status": "CREATE_COMPLETE" if is_good else "FAILED",
            "StatusReason": None if is_good else NO_CHANGES,
            "ExecutionStatus": self._execution(row),
        }

    def _execution(self, row: dict) -> str:
        if row["changes"] is None:
            return "UNAVAILABLE"
        stack = self._stacks.find(row["stack_id"])
        if row["executed"] is None:
            return "AVAILABLE" if row["operation"] == stack["operation"] else "OBSOLETE"
        if row["executed"] != stack["operation"]:  # something has come after it
            return "EXECUTE_COMPLETE"
        if is_under_way(stack):
            return "EXECUTE_IN_PROGRESS"
        good = ("CREATE_COMPLETE", "UPDATE_COMPLETE")
        return "EXECUTE_COMPLETE" if stack["status"] in good else "EXECUTE_FAILED"

    def _settle(self, stack_id: str) -> None:
        """Answer a moment later, when the stack is done: the AWS CLI asks at once whether it is, and
        then not again for half a minute."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while is_under_way(self._stacks.find(stack_id)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _changes(self, stack: dict, template: dict) -> list[dict]:
        """What a template changes of a stack, resource by resource."""
        old = (stack["template"] or {"Resources": {}})["Resources"]
        names = {r["logical_id"]: r["physical_id"] for r in self._stacks.resources(stack)}
        found, replaced = [], set()
        for name in templates.in_order(template):
            resource = template["Resources"][name]
            change = {"Action": "Add", "Scope": [], "Details": []}
            if name in old:
                change = self._modification(resource, old[name], replaced)
                if not change["Details"]:
                    continue
                if change["Replacement"] != "False":
                    replaced.add(name)
                change["PhysicalResourceId"] = names.get(name)
            found.append(_change(name, resource, change))
        for name in old.keys() - template["Resources"].keys():
            removal = {"Action": "Remove", "PhysicalResourceId": names.get(name)}
            found.append(_change(name, old[name], removal | {"Scope": [], "Details": []}))
        return sorted(found, key=_logical_id)

    def _modification(self, resource: dict, old: dict, replaced: set[str]) -> dict:
        """A change of a resource. `replaced` are those that will be others after it, and what refers
        to them changes by that."""
        type_ = self._stacks.type(resource["Type"])
        new, before = resource.get("Properties", {}), old.get("Properties", {})
        details, certain, possible = [], resource["Type"] != old["Type"], False
        for name in sorted(new.keys() | before.keys()):
            moved = references(new.get(name)) & replaced
            if new.get(name) == before.get(name) and not moved:
                continue
            recreates = not type_.updates or name == type_.name_property
            is_static = new.get(name) != before.get(name) and not references(new.get(name))
            certain |= recreates and is_static
            possible |= recreates
            need = "Never" if not recreates else "Always" if is_static else "Conditionally"
            target = {"Attribute": "Properties", "Name": name, "RequiresRecreation": need}
            details.append({"Target": target, "Evaluation": "Static" if is_static else "Dynamic"})
        if certain and not details:  # another type with the same properties
            details = [{"Target": {"Attribute": "Properties", "RequiresRecreation": "Always"}}]
        return {
            "Action": "Modify",
            "Replacement": "True" if certain else "Conditional" if possible else "False",
            "Scope": ["Properties"],
            "Details": details,
        }


def _change(name: str, resource: dict, change: dict) -> dict:
    both = {"LogicalResourceId": name, "ResourceType": resource["Type"]}
    return {"Type": "Resource", "ResourceChange": both | change}


def _logical_id(change: dict) -> str:
    return change["ResourceChange"]["LogicalResourceId"]


def _bad(message: str) -> AwsError:
    return AwsError("ValidationException", message)
