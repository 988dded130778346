"""CloudFormation's part of the sandbox: a template becomes resources, all or nothing.

A stack is created, updated and deleted in the background, its resources in the order of
their dependencies. An update makes new resources beside the old ones and removes the old
only when everything is up; a failed update leaves everything as it was. What a `kill -9`
interrupts is taken up again at the next start.
"""

import graphlib
import logging
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

from orchestrator.sandbox.errors import AwsError, ResourceFailed
from orchestrator.sandbox.state import State, now

log = logging.getLogger(__name__)

ACCOUNT = "000000000000"
STACK_TYPE = "AWS::CloudFormation::Stack"
UPDATABLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")


class Stacks:
    """Every stack of the sandbox."""

    def __init__(self, state: State, region: str, providers: list) -> None:
        """`providers` make the resource types real (resources.py)."""
        self._state = state
        self._region = region
        self._providers = {provider.type: provider for provider in providers}
        self._workers = ThreadPoolExecutor(8, thread_name_prefix="stack")
        self._locks: dict[str, threading.Lock] = {}

    # -- what CloudFormation's API does ------------------------------------------------

    def create(self, name: str, template: dict, tags: list) -> str:
        """Begin to create a stack; its id."""
        self._check(template)
        if any(row["status"] != "DELETE_COMPLETE" for row in self._state.rows("stacks", name=name)):
            raise AwsError("AlreadyExistsException", f"Stack [{name}] already exists")
        stack_id = f"arn:aws:cloudformation:{self._region}:{ACCOUNT}:stack/{name}/{uuid.uuid4()}"
        self._state.insert(
            "stacks", id=stack_id, name=name, status="CREATE_IN_PROGRESS", template=template,
            tags=tags, created=now(),
        )  # fmt: skip
        self._event(stack_id, name, STACK_TYPE, stack_id, "CREATE_IN_PROGRESS", "User Initiated")
        self._begin(stack_id)
        return stack_id

    def update(self, name_or_id: str, template: dict) -> str:
        self._check(template)
        stack = self.find(name_or_id)
        if stack["status"] not in UPDATABLE:
            raise AwsError(
                "ValidationError",
                f"Stack:{stack['id']} is in {stack['status']} state and can not be updated.",
            )
        if template == stack["template"]:
            raise AwsError("ValidationError", "No updates are to be performed.")
        self._state.update("stacks", {"id": stack["id"]}, target=template, updated=now())
        self._set_status(stack, "UPDATE_IN_PROGRESS", "User Initiated")
        self._begin(stack["id"])
        return stack["id"]

    def delete(self, name_or_id: str) -> None:
        """Begin to delete a stack; one that does not exist is no error, as on AWS."""
        try:
            stack = self.find(name_or_id)
        except AwsError:
            return
        if stack["status"] not in ("DELETE_IN_PROGRESS", "DELETE_COMPLETE"):
            self._set_status(stack, "DELETE_IN_PROGRESS", "User Initiated")
            self._begin(stack["id"])

    def find(self, name_or_id: str) -> dict:
        """A stack by its id, or a living one by its name."""
        found = self._state.row("stacks", id=name_or_id)
        for row in self._state.rows("stacks", name=name_or_id):
            if row["status"] != "DELETE_COMPLETE":
                found = row
        if found is None:
            raise AwsError("ValidationError", f"Stack with id {name_or_id} does not exist")
        return found

    def resources(self, stack: dict) -> list[dict]:
        return self._state.rows("resources", stack_id=stack["id"])

    def outputs(self, stack: dict) -> dict[str, str]:
        """The template's outputs, resolved; none until the stack is complete."""
        if not stack["status"].endswith("_COMPLETE") or stack["status"] == "DELETE_COMPLETE":
            return {}
        names = {row["logical_id"]: row["name"] for row in self.resources(stack)}
        declared = stack["template"].get("Outputs", {})
        return {key: self._resolved(output["Value"], names) for key, output in declared.items()}

    # -- carrying out ------------------------------------------------------------------

    def resume(self) -> None:
        """Take up, after a restart, what was under way."""
        for stack in self._state.rows("stacks"):
            if stack["status"].endswith("_IN_PROGRESS"):
                self._begin(stack["id"])

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _begin(self, stack_id: str) -> None:
        self._workers.submit(self._carry_out, stack_id)

    def _carry_out(self, stack_id: str) -> None:
        """Bring a stack from an _IN_PROGRESS state to where it leads; one job per stack."""
        with self._locks.setdefault(stack_id, threading.Lock()):
            stack = self._state.row("stacks", id=stack_id)
            try:
                if stack["status"] == "CREATE_IN_PROGRESS":
                    self._carry_out_create(stack)
                elif stack["status"] == "DELETE_IN_PROGRESS":
                    self._remove(self.resources(stack))
                    self._state.update("stacks", {"id": stack_id}, deleted=now())
                    self._advance(stack, "DELETE_COMPLETE")
                elif stack["status"].startswith("UPDATE_"):
                    self._carry_out_update(stack)
            except Exception as error:
                log.exception("stack %s", stack["name"])
                operation = stack["status"].split("_")[0]
                self._advance(stack, f"{operation}_FAILED", f"Internal error: {error}")

    def _carry_out_create(self, stack: dict) -> None:
        self._remove(self.resources(stack))  # what an interrupted attempt made
        try:
            self._make(stack, stack["template"], {})
        except ResourceFailed as error:
            self._advance(stack, "CREATE_FAILED", error.message)
            return
        with self._state.transaction():
            self._state.update("resources", {"stack_id": stack["id"]}, stage="current")
            self._advance(stack, "CREATE_COMPLETE")

    def _carry_out_update(self, stack: dict) -> None:
        kept = {row["logical_id"]: row for row in self._rows(stack, "current")}
        if stack["status"] == "UPDATE_IN_PROGRESS":
            self._remove(self._rows(stack, "new"))  # what an interrupted attempt made
            try:
                made = self._make(stack, stack["target"], kept)
            except ResourceFailed as error:
                self._advance(stack, "UPDATE_ROLLBACK_IN_PROGRESS", error.message)
            else:
                self._take_over(stack, made)
        if stack["status"] == "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS":
            self._remove(self._rows(stack, "old"))
            self._advance(stack, "UPDATE_COMPLETE")
        elif stack["status"] == "UPDATE_ROLLBACK_IN_PROGRESS":
            for row in kept.values():
                if hasattr(self._providers[row["type"]], "update"):
                    self._providers[row["type"]].update(row["name"], row["properties"])
            self._remove(self._rows(stack, "new"))
            self._state.update("stacks", {"id": stack["id"]}, target=None)
            self._advance(stack, "UPDATE_ROLLBACK_COMPLETE")

    def _take_over(self, stack: dict, made: dict[str, dict]) -> None:
        """The moment an update becomes the truth: what was made is current, the rest is old."""
        with self._state.transaction():
            if not self._advance(stack, "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"):
                return
            for row in self.resources(stack):
                where = {"type": row["type"], "name": row["name"]}
                if row["name"] in made:
                    properties = made[row["name"]]
                    self._state.update("resources", where, stage="current", properties=properties)
                else:
                    self._state.update("resources", where, stage="old")
            where = {"id": stack["id"]}
            self._state.update("stacks", where, template=stack["target"], target=None)

    def _advance(self, stack: dict, status: str, reason: str | None = None) -> bool:
        """Go from the state a job began with to the next, unless a delete came between."""
        with self._state.transaction():
            if self._state.row("stacks", id=stack["id"])["status"] != stack["status"]:
                return False
            self._set_status(stack, status, reason)
            return True

    def _rows(self, stack: dict, stage: str) -> list[dict]:
        return self._state.rows("resources", stack_id=stack["id"], stage=stage)

    def _make(self, stack: dict, template: dict, kept: dict[str, dict]) -> dict[str, dict]:
        """Make every resource of the template real: its resources' properties, by name.

        `kept` are the stack's present resources by logical id: what is unchanged is left
        alone, what can be changed in place is, anything else is made anew beside it.
        """
        names, made = {}, {}
        for logical_id in _in_order(template):
            resource = template["Resources"][logical_id]
            provider = self._providers[resource["Type"]]
            properties = self._resolved(resource["Properties"], names)
            old = kept.get(logical_id)
            wanted = properties.get(provider.name_property)
            if old and old["properties"] == properties:
                names[logical_id] = old["name"]
            elif old and hasattr(provider, "update") and wanted in (None, old["name"]):
                names[logical_id] = old["name"]
                self._attempt(stack, logical_id, "UPDATE", provider, old["name"], properties)
            else:
                name = wanted or _generated_name(stack["name"], logical_id)
                names[logical_id] = name
                self._create(stack, logical_id, provider, name, properties)
            made[names[logical_id]] = properties
        return made

    def _create(self, stack: dict, logical_id: str, provider, name: str, properties: dict) -> None:
        owner = self._state.row("resources", type=provider.type, name=name)
        if owner:
            reason = f"{name} already exists in stack {owner['stack_id']}"
            self._event(stack["id"], logical_id, provider.type, name, "CREATE_FAILED", reason)
            raise ResourceFailed(reason)
        self._state.insert(
            "resources", type=provider.type, name=name, stack_id=stack["id"],
            logical_id=logical_id, properties=properties, created=now(), stage="new",
        )  # fmt: skip
        self._attempt(stack, logical_id, "CREATE", provider, name, properties)

    def _attempt(
        self, stack: dict, logical_id: str, verb: str, provider, name: str, properties: dict
    ) -> None:
        def event(status: str, reason: str | None = None) -> None:
            self._event(stack["id"], logical_id, provider.type, name, f"{verb}_{status}", reason)

        event("IN_PROGRESS")
        if self._state.row("stacks", id=stack["id"])["status"] == "DELETE_IN_PROGRESS":
            event("FAILED", "Resource creation cancelled")
            raise ResourceFailed("Resource creation cancelled")
        try:
            getattr(provider, verb.lower())(name, properties)
        except ResourceFailed as error:
            event("FAILED", error.message)
            raise
        event("COMPLETE")

    def _remove(self, rows: list[dict]) -> None:
        for row in reversed(rows):
            event = (row["stack_id"], row["logical_id"], row["type"], row["name"])
            self._event(*event, "DELETE_IN_PROGRESS")
            self._providers[row["type"]].delete(row["name"])
            self._state.delete("resources", type=row["type"], name=row["name"])
            self._event(*event, "DELETE_COMPLETE")

    # -- small parts -------------------------------------------------------------------

    def _check(self, template: dict) -> None:
        resources = template.get("Resources") if isinstance(template, dict) else None
        if not isinstance(resources, dict) or not resources:
            message = "Template format error: At least one Resources member must be defined."
            raise AwsError("ValidationError", message)
        unknown = sorted(
            {r.get("Type") for r in resources.values()} - set(self._providers), key=str
        )
        if unknown:
            raise AwsError(
                "ValidationError", f"Template format error: Unrecognized resource types: {unknown}"
            )

    def _resolved(self, value: object, names: dict[str, str]) -> object:
        """`value` with every Fn::GetAtt replaced; the only attribute plans use is the name."""
        if isinstance(value, dict):
            if set(value) == {"Fn::GetAtt"}:
                return names[value["Fn::GetAtt"][0]]
            return {key: self._resolved(item, names) for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolved(item, names) for item in value]
        return value

    def _set_status(self, stack: dict, status: str, reason: str | None = None) -> None:
        stack["status"] = status
        self._state.update("stacks", {"id": stack["id"]}, status=status, reason=reason)
        self._event(stack["id"], stack["name"], STACK_TYPE, stack["id"], status, reason)

    def _event(self, stack_id, logical_id, type_, physical_id, status, reason=None) -> None:
        self._state.insert(
            "events", stack_id=stack_id, time=now(), logical_id=logical_id, type=type_,
            physical_id=physical_id, status=status, reason=reason,
        )  # fmt: skip


def _in_order(template: dict) -> list[str]:
    """Logical ids, every one after those it refers to."""

    def references(value: object) -> set[str]:
        if isinstance(value, dict):
            if set(value) == {"Fn::GetAtt"}:
                return {value["Fn::GetAtt"][0]}
            value = list(value.values())
        if isinstance(value, list):
            return set().union(*(references(item) for item in value))
        return set()

    graph = {key: references(item["Properties"]) for key, item in template["Resources"].items()}
    return list(graphlib.TopologicalSorter(graph).static_order())


def _generated_name(stack_name: str, logical_id: str) -> str:
    """As CloudFormation names what the template does not; 63 characters at most."""
    return f"{stack_name[:32].rstrip('-')}-{logical_id[:16]}-{uuid.uuid4().hex[:12]}"
