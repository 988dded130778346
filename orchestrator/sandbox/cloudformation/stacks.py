"""Stacks: a template becomes resources, all or nothing.

A stack is created, updated and deleted in the background, its resources in the order of
their dependencies. An update makes new resources beside the old ones and removes the old
only when everything is up; a failed update leaves everything as it was.

Every operation ends in a state from which the next good request works: whatever goes wrong while a
resource is made counts as its failure, and what cannot even be written down is tried again. What a
`kill -9` interrupts is taken up at the next start.
"""

import logging
import re
import threading
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from orchestrator.sandbox.cloudformation import template as templates
from orchestrator.sandbox.cloudformation.functions import Lookup, resolved, text_of
from orchestrator.sandbox.cloudformation.resources import Context
from orchestrator.sandbox.errors import AwsError, ResourceFailed
from orchestrator.sandbox.places import ACCOUNT, REGION
from orchestrator.sandbox.state import State, now

log = logging.getLogger(__name__)

STACK_TYPE = "AWS::CloudFormation::Stack"
UPDATABLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
CUSTOM = "Custom::"
WORKERS = 32


class Stopping(BaseException):
    """The sandbox stops: whatever is under way is left for the next start."""


class Stacks:
    """Every stack of the sandbox."""

    def __init__(self, state: State, types: dict) -> None:
        """`types` are the kinds of resources by name, `Custom::` those of all custom ones."""
        self._state = state
        self._types = types
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="stack")
        self._locks: dict[str, threading.Lock] = {}
        self._closing = threading.Event()

    # -- what CloudFormation's API does ------------------------------------------------

    def type(self, name: str):
        """What a type of resource is made by; None for one that is not here."""
        return self._types.get(CUSTOM if name.startswith(CUSTOM) else name)

    def attributes(self, type_name: str) -> Collection[str] | None:
        """Those that Fn::GetAtt may ask a type of resource for; None for a type that is not here."""
        return getattr(self.type(type_name), "attributes", None)

    def create(self, stack_id: str, template: dict, request: dict, on_failure: str) -> None:
        """Begin to create a stack of an expanded template. `request` is what was asked for."""
        with self._state.transaction():
            self._insert(stack_id, "CREATE_IN_PROGRESS", "User Initiated")
            self._start_create(stack_id, template, request, on_failure)
        self._begin(stack_id)

    def review(self, stack_id: str) -> None:
        """Write down a stack that a change set is to create."""
        with self._state.transaction():
            self._insert(stack_id, "REVIEW_IN_PROGRESS", "User Initiated")

    def update(self, name_or_id: str, template: dict, request: dict) -> str:
        """Begin to update a stack; its id."""
        with self._state.transaction():
            stack = self.updatable(name_or_id)
            if not differs(stack, template, request):
                raise AwsError("ValidationException", "No updates are to be performed.")
            self._start_update(stack, template, request)
        self._begin(stack["id"])
        return stack["id"]

    def execute(self, change_set: dict) -> None:
        """Begin what a change set says."""
        with self._state.transaction():
            stack = self._state.row("stacks", id=change_set["stack_id"])
            template, request = change_set["template"], change_set["request"]
            if change_set["type"] == "CREATE":
                self._set_status(stack, "CREATE_IN_PROGRESS", "User Initiated")
                self._start_create(stack["id"], template, request, change_set["on_failure"])
            else:
                self._start_update(self.updatable(stack["id"]), template, request)
            operation = self._state.row("stacks", id=stack["id"])["operation"]
            self._state.update("stacks", {"id": stack["id"]}, change_set=change_set["id"])
            self._state.update("change_sets", {"id": change_set["id"]}, executed=operation)
        self._begin(stack["id"])

    def updatable(self, name_or_id: str) -> dict:
        """A stack that can be updated now."""
        stack = self.find(name_or_id)
        if stack["status"] not in UPDATABLE:
            state = f"Stack:{stack['id']} is in {stack['status']} state and can not be updated."
            raise AwsError("ValidationException", state)
        return stack

    def _insert(self, stack_id: str, status: str, reason: str) -> None:
        name = stack_id.split("/")[1]
        rows = self._state.rows("stacks", name=name)
        if any(row["status"] != "DELETE_COMPLETE" for row in rows):
            raise AwsError("AlreadyExistsException", f"Stack [{name}] already exists")
        self._state.insert(
            "stacks", id=stack_id, name=name, status=status, operation=_token(), created=now()
        )
        self._event(stack_id, name, STACK_TYPE, stack_id, status, reason)

    def _start_create(self, stack_id: str, template: dict, request: dict, on_failure: str) -> None:
        self._state.update(
            "stacks", {"id": stack_id}, template=template, request=request, on_failure=on_failure,
            operation=_token(),
        )  # fmt: skip

    def _start_update(self, stack: dict, template: dict, request: dict) -> None:
        changes = {"target": template, "target_request": request, "change_set": None}
        self._state.update(
            "stacks", {"id": stack["id"]}, updated=now(), operation=_token(), **changes
        )
        self._set_status(stack, "UPDATE_IN_PROGRESS", "User Initiated")

    def delete(self, name_or_id: str) -> None:
        """Begin to delete a stack; one that does not exist is no error, as on AWS."""
        with self._state.transaction():
            try:
                stack = self.find(name_or_id)
            except AwsError:
                return
            if stack["status"] in ("DELETE_IN_PROGRESS", "DELETE_COMPLETE"):
                return
            self._set_status(stack, "DELETE_IN_PROGRESS", "User Initiated")
        self._begin(stack["id"])

    def find(self, name_or_id: str) -> dict:
        """A stack by its id, or a living one by its name."""
        found = self._state.row("stacks", id=name_or_id)
        for row in self._state.rows("stacks", name=name_or_id):
            if row["status"] != "DELETE_COMPLETE":
                found = row
        if found is None:
            raise AwsError("ValidationException", f"Stack with id {name_or_id} does not exist")
        return found

    def resources(self, stack: dict) -> list[dict]:
        return self._state.rows("resources", stack_id=stack["id"])

    def outputs(self, stack: dict) -> dict[str, str]:
        """The template's outputs, resolved; none until the stack is complete."""
        if not stack["status"].endswith("_COMPLETE") or stack["status"] == "DELETE_COMPLETE":
            return {}
        lookup = self._lookup({row["logical_id"]: row for row in self._rows(stack, "current")})
        found = {}
        for key, output in stack["template"].get("Outputs", {}).items():
            try:
                found[key] = text_of(resolved(output["Value"], lookup))
            except (AwsError, KeyError):
                continue  # what it speaks of is gone
        return found

    # -- carrying out ------------------------------------------------------------------

    def resume(self) -> None:
        """Take up, after a restart, what was under way."""
        for stack in self._state.rows("stacks"):
            if is_under_way(stack):
                self._begin(stack["id"])

    def close(self) -> None:
        self._closing.set()
        self._workers.shutdown(cancel_futures=True)

    def _begin(self, stack_id: str) -> None:
        if not self._closing.is_set():
            self._workers.submit(self._carry_out, stack_id)

    def _carry_out(self, stack_id: str) -> None:
        """Bring a stack from an _IN_PROGRESS state to where it leads; one job per stack."""
        with self._locks.setdefault(stack_id, threading.Lock()):
            while not self._closing.is_set():
                try:
                    self._carry_on(self._state.row("stacks", id=stack_id))
                    return
                except Stopping:
                    return
                except Exception:  # the state could not be written: a full disk, say
                    log.exception("stack %s; it is tried again", stack_id)
                    self._closing.wait(1)

    def _carry_on(self, stack: dict) -> None:
        if stack["status"] == "CREATE_IN_PROGRESS":
            self._carry_out_create(stack)
        elif stack["status"] == "ROLLBACK_IN_PROGRESS":
            self._carry_out_rollback(stack)
        elif stack["status"].startswith("UPDATE_"):
            self._carry_out_update(stack)
        if stack["status"] == "DELETE_IN_PROGRESS":
            self._carry_out_delete(stack)

    def _carry_out_create(self, stack: dict) -> None:
        self._forget_interrupted(stack)
        try:
            self._make(stack, stack["template"], {})
        except ResourceFailed as error:
            if stack["on_failure"] == "DO_NOTHING":
                self._advance(stack, "CREATE_FAILED", error.message)
            elif stack["on_failure"] == "DELETE":
                self._advance(stack, "DELETE_IN_PROGRESS", error.message)
            elif self._advance(stack, "ROLLBACK_IN_PROGRESS", error.message):
                self._carry_out_rollback(stack)
            return
        with self._state.transaction():
            self._state.update("resources", {"stack_id": stack["id"]}, stage="current")
            self._advance(stack, "CREATE_COMPLETE")

    def _carry_out_rollback(self, stack: dict) -> None:
        failure = self._remove(stack, self.resources(stack))
        self._advance(stack, "ROLLBACK_FAILED" if failure else "ROLLBACK_COMPLETE", failure)

    def _carry_out_delete(self, stack: dict) -> None:
        failure = self._remove(stack, self.resources(stack))
        if failure:
            self._advance(stack, "DELETE_FAILED", failure)
            return
        with self._state.transaction():
            self._state.update("stacks", {"id": stack["id"]}, deleted=now())
            self._state.delete("change_sets", stack_id=stack["id"])
            self._advance(stack, "DELETE_COMPLETE")

    def _carry_out_update(self, stack: dict) -> None:
        if stack["status"] == "UPDATE_IN_PROGRESS":
            kept = {row["logical_id"]: row for row in self._rows(stack, "current")}
            self._forget_interrupted(stack)
            try:
                made = self._make(stack, stack["target"], kept)
            except ResourceFailed as error:
                self._advance(stack, "UPDATE_ROLLBACK_IN_PROGRESS", error.message)
            else:
                self._take_over(stack, made)
        if stack["status"] == "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS":
            self._remove(stack, self._rows(stack, "old"), and_forget=True)
            self._advance(stack, "UPDATE_COMPLETE")
        elif stack["status"] == "UPDATE_ROLLBACK_IN_PROGRESS":
            self._carry_out_update_rollback(stack)

    def _carry_out_update_rollback(self, stack: dict) -> None:
        try:
            for row in self._rows(stack, "current"):
                # Only what this update has changed in place is to be changed back.
                if row["touched"] == stack["operation"]:
                    back = f"{row['token']}/{stack['operation']}/back"
                    properties = row["properties"]
                    physical_id = self._change(stack, row, properties, properties, back)
                    if physical_id != row["physical_id"]:
                        where = {"id": row["id"]}
                        self._state.update("resources", where, physical_id=physical_id)
                else:
                    self._tag(stack, row)
        except ResourceFailed as error:
            self._advance(stack, "UPDATE_ROLLBACK_FAILED", error.message)
            return
        self._remove(stack, self._rows(stack, "new"), and_forget=True)
        with self._state.transaction():
            nothing = {"target": None, "target_request": None}
            self._state.update("stacks", {"id": stack["id"]}, **nothing)
            self._advance(stack, "UPDATE_ROLLBACK_COMPLETE")

    def _take_over(self, stack: dict, made: dict[str, dict]) -> None:
        """The moment an update becomes the truth: what was made is current, the rest is old."""
        with self._state.transaction():
            if not self._advance(stack, "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"):
                return
            current = {row["id"]: row for row in made.values()}
            for row in self.resources(stack):
                where = {"id": row["id"]}
                if row["id"] in current:
                    properties = current[row["id"]]["properties"]
                    self._state.update("resources", where, stage="current", properties=properties)
                else:
                    self._state.update("resources", where, stage="old")
            where = {"id": stack["id"]}
            self._state.update(
                "stacks", where, template=stack["target"], request=stack["target_request"],
                target=None, target_request=None,
            )  # fmt: skip

    def _advance(self, stack: dict, status: str, reason: str | None = None) -> bool:
        """Go from the state a job began with to the next, unless a delete came between."""
        with self._state.transaction():
            current = self._state.row("stacks", id=stack["id"])["status"]
            if current != stack["status"]:
                stack["status"] = current
                return False
            self._set_status(stack, status, reason)
            return True

    def _rows(self, stack: dict, stage: str) -> list[dict]:
        return self._state.rows("resources", stack_id=stack["id"], stage=stage)

    def _forget_interrupted(self, stack: dict) -> None:
        """Remove what a killed attempt has made. A custom resource that was being asked for, and
        has no name yet, is asked for again: its token is the same."""
        named = [row for row in self._rows(stack, "new") if row["physical_id"] is not None]
        self._remove(stack, named, and_forget=True)

    # -- one resource after the other --------------------------------------------------

    def _make(self, stack: dict, template: dict, kept: dict[str, dict]) -> dict[str, dict]:
        """Make every resource of the template real: its rows, by logical id.

        `kept` are the stack's present resources: what is unchanged is left alone, what can be
        changed in place is, anything else is made anew beside it.
        """
        made: dict[str, dict] = {}
        lookup = self._lookup(made)
        for logical_id in templates.in_order(template):
            resource, old = template["Resources"][logical_id], kept.get(logical_id)
            properties = resolved(resource.get("Properties", {}), lookup)
            type_ = self.type(resource["Type"])
            if old and old["type"] == resource["Type"]:
                name = properties.get(type_.name_property, old["physical_id"])
                if old["properties"] == properties:
                    self._tag(stack, old)
                    made[logical_id] = old
                    continue
                if type_.updates and name in (None, old["physical_id"]):
                    made[logical_id] = self._update(stack, old, properties)
                    continue
            made[logical_id] = self._create(stack, logical_id, resource["Type"], properties)
        return made

    def _create(self, stack: dict, logical_id: str, type_name: str, properties: dict) -> dict:
        type_ = self.type(type_name)
        row = self._state.row("resources", stack_id=stack["id"], logical_id=logical_id, stage="new")
        if row is None:
            row = self._begin_resource(stack, logical_id, type_name, properties)
        context = self._context(stack, row, row["token"])
        # What a custom resource is to be called is for its function to say.
        try:
            physical_id = self._attempt(
                stack, row, "CREATE", lambda: type_.create(context, row["physical_id"], properties)
            )
        except ResourceFailed as error:
            if error.physical_id:
                where = {"id": row["id"]}
                self._state.update("resources", where, physical_id=error.physical_id)
            raise
        self._state.update("resources", {"id": row["id"]}, physical_id=physical_id)
        return row | {"physical_id": physical_id}

    def _begin_resource(
        self, stack: dict, logical_id: str, type_name: str, properties: dict
    ) -> dict:
        """Write down that a resource is about to be made, and under which name."""
        key = self.type(type_name).name_property
        name = (properties.get(key) or _generated_name(stack["name"], logical_id)) if key else None
        with self._state.transaction():
            owner = name and self._state.row("resources", type=type_name, physical_id=name)
            if owner:
                reason = f"{name} already exists in stack {owner['stack_id']}"
                self._event(stack["id"], logical_id, type_name, name, "CREATE_FAILED", reason)
                raise ResourceFailed(reason)
            token = _token()
            self._state.insert(
                "resources", stack_id=stack["id"], logical_id=logical_id, type=type_name,
                physical_id=name, properties=properties, created=now(), stage="new", token=token,
            )  # fmt: skip
            return self._state.row("resources", token=token)

    def _update(self, stack: dict, row: dict, properties: dict) -> dict:
        """Change a resource in place. If it is another one afterwards, that is a row of its own."""
        token = f"{row['token']}/{stack['operation']}"
        self._state.update("resources", {"id": row["id"]}, touched=stack["operation"])
        physical_id = self._change(stack, row, properties, row["properties"], token)
        if physical_id == row["physical_id"]:
            return row | {"properties": properties}
        with self._state.transaction():
            self._state.update("resources", {"id": row["id"]}, touched=None)
            self._state.insert(
                "resources", stack_id=stack["id"], logical_id=row["logical_id"], type=row["type"],
                physical_id=physical_id, properties=properties, created=now(), stage="new",
                token=token,
            )  # fmt: skip
        return self._state.row("resources", token=token)

    def _change(self, stack: dict, row: dict, new: dict, old: dict, token: str) -> str:
        type_, context = self.type(row["type"]), self._context(stack, row, token)
        return self._attempt(
            stack, row, "UPDATE", lambda: type_.update(context, row["physical_id"], new, old)
        )

    def _tag(self, stack: dict, row: dict) -> None:
        """Give a resource that stays as it is the stack's tags, where an update changes those."""
        before, target = ((stack[k] or {}).get("Tags") for k in ("request", "target_request"))
        if before != target:
            context = self._context(stack, row, row["token"])
            self.type(row["type"]).tag(context, row["physical_id"], row["properties"])

    def _attempt(self, stack: dict, row: dict, verb: str, work: Callable[[], str]) -> str:
        """Do the work, with an event before and after; anything that goes wrong is a failure."""

        def event(status: str, physical_id: str | None, reason: str | None = None) -> None:
            what = (row["logical_id"], row["type"], physical_id)
            self._event(stack["id"], *what, f"{verb}_{status}", reason)

        event("IN_PROGRESS", row["physical_id"])
        try:
            if self._is_cancelled(stack):
                raise ResourceFailed("Resource creation cancelled")
            result = work()
        except ResourceFailed as error:
            event("FAILED", row["physical_id"], error.message)
            raise
        except Exception as error:
            log.exception("%s of %s in stack %s", verb, row["logical_id"], stack["name"])
            event("FAILED", row["physical_id"], f"Internal error: {error}")
            raise ResourceFailed(f"Internal error: {error}") from None
        event("COMPLETE", result)
        return result

    def _remove(self, stack: dict, rows: list[dict], and_forget: bool = False) -> str | None:
        """Delete resources, the last first; why one of them could not be, None when all are gone.

        With `and_forget`, one that cannot be deleted is the stack's no longer.
        """
        failure = None
        for row in reversed(rows):
            what = (row["stack_id"], row["logical_id"], row["type"], row["physical_id"])
            self._event(*what, "DELETE_IN_PROGRESS")
            context = self._context(stack, row, row["token"], cancels=False)
            try:
                self.type(row["type"]).delete(context, row["physical_id"], row["properties"])
            except Exception as error:
                if not isinstance(error, ResourceFailed):
                    log.exception("DELETE of %s in stack %s", row["logical_id"], stack["name"])
                failure = f"{row['logical_id']}: {error}"
                self._event(*what, "DELETE_FAILED", str(error))
                if not and_forget:
                    continue
            else:
                self._event(*what, "DELETE_COMPLETE")
            self._state.delete("resources", id=row["id"])
        return failure

    # -- small parts -------------------------------------------------------------------

    def _lookup(self, rows: dict[str, dict]) -> Lookup:
        def lookup(logical_id: str, attribute: str | None) -> str:
            row = rows[logical_id]
            return self.type(row["type"]).value(row["physical_id"], attribute)

        return lookup

    def _context(self, stack: dict, row: dict, token: str, cancels: bool = True) -> Context:
        def is_cancelled() -> bool:
            if self._closing.is_set():
                raise Stopping
            return cancels and self._is_cancelled(stack)

        names = (stack["id"], stack["name"], row["logical_id"], row["type"])
        return Context(*names, tags_of(stack), token, is_cancelled)

    def _is_cancelled(self, stack: dict) -> bool:
        status = self._state.row("stacks", id=stack["id"])["status"]
        return status == "DELETE_IN_PROGRESS"

    def _set_status(self, stack: dict, status: str, reason: str | None = None) -> None:
        stack["status"] = status
        self._state.update("stacks", {"id": stack["id"]}, status=status, reason=reason)
        self._event(stack["id"], stack["name"], STACK_TYPE, stack["id"], status, reason)

    def _event(self, stack_id, logical_id, type_, physical_id, status, reason=None) -> None:
        self._state.insert(
            "events", stack_id=stack_id, time=now(), logical_id=logical_id, type=type_,
            physical_id=physical_id, status=status, reason=reason,
        )  # fmt: skip


def new_id(name: str) -> str:
    """An id for a stack that is yet to be made."""
    return f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{name}/{uuid.uuid4()}"


def checked_name(name: str) -> str:
    """A name for a new stack."""
    if not re.fullmatch("(?=.{1,128}$)[a-zA-Z][-a-zA-Z0-9]*", name):
        raise AwsError(
            "ValidationException",
            f"1 validation error detected: Value '{name[:200]}' at 'stackName' failed to satisfy "
            "constraint: Member must satisfy regular expression pattern: [a-zA-Z][-a-zA-Z0-9]*",
        )
    return name


def is_under_way(stack: dict) -> bool:
    """Whether a stack is on its way somewhere; one that waits for a change set is not."""
    return stack["status"].endswith("_IN_PROGRESS") and stack["status"] != "REVIEW_IN_PROGRESS"


def tags_of(stack: dict) -> list[dict]:
    """What its resources are to have, while it is on its way."""
    key = "target_request" if stack["status"] == "UPDATE_IN_PROGRESS" else "request"
    return (stack[key] or {}).get("Tags", [])


def differs(stack: dict, template: dict, request: dict) -> bool:
    """Whether there is anything to be updated."""
    same = all(stack["request"].get(key) == request.get(key) for key in ("Parameters", "Tags"))
    return not same or template != stack["template"]


def _token() -> str:
    return uuid.uuid4().hex


def _generated_name(stack_name: str, logical_id: str) -> str:
    """As CloudFormation names what the template does not; 63 characters at most."""
    return f"{stack_name[:32].rstrip('-')}-{logical_id[:16]}-{uuid.uuid4().hex[:12]}"
