"""Stacks end where the next good request works, whatever happens on the way.

The engine and its memory are the sandbox's own; the resources here are made for the purpose, but for
the jobs: those go through the orchestrator's handler, to moto.
"""

import contextlib
import logging
import sqlite3
import threading
import time

import boto3
import pytest
from test_handler_on_moto import aws, custom_event, jobs_there, told  # noqa: F401

from orchestrator import environment
from orchestrator.handler import handler
from orchestrator.sandbox import server
from orchestrator.sandbox.cloudformation.resources import Answers, CustomResource
from orchestrator.sandbox.cloudformation.stacks import CUSTOM, Stacks, new_id
from orchestrator.sandbox.errors import ResourceFailed
from orchestrator.sandbox.state import State

ENDS = ("_COMPLETE", "_FAILED")
FUNCTION = "arn:aws:lambda:us-east-1:1:function:handler"


class Things:
    """A type of resource; `trouble` is called before anything is done, with the verb and the name."""

    name_property = "Name"
    attributes = ()

    def __init__(self, updates: bool = False) -> None:
        self.updates = updates
        self.there: dict[str, dict] = {}
        self.tags: dict[str, list] = {}
        self.trouble = lambda verb, name: None

    def create(self, context, physical_id, properties):
        self.trouble("create", physical_id)
        assert physical_id not in self.there
        self.there[physical_id] = properties
        return physical_id

    def update(self, context, physical_id, properties, old):
        self.trouble("update", physical_id)
        self.there[physical_id] = properties
        return physical_id

    def delete(self, context, physical_id, properties):
        self.trouble("delete", physical_id)
        self.there.pop(physical_id, None)

    def tag(self, context, physical_id, properties):
        self.tags[physical_id] = context.tags

    def value(self, physical_id, attribute):
        return physical_id


class House:
    """Stacks over a state, with a type that is made anew and one that is changed in place."""

    def __init__(self, folder, **types) -> None:
        self.things, self.changeable = Things(), Things(updates=True)
        self._types = {"Test::Thing": self.things, "Test::Changeable": self.changeable} | types
        self._path = folder / "state.db"
        self.open()

    def open(self) -> None:
        self.state = State(self._path)
        self.stacks = Stacks(self.state, self._types)
        self.stacks.resume()

    def close(self) -> None:
        self.stacks.close()
        self.state.close()

    def create(self, template: dict, on_failure: str = "ROLLBACK") -> str:
        stack_id = new_id("stack")
        self.stacks.create(stack_id, template, {}, on_failure)
        return stack_id

    def update(self, stack_id: str, template: dict) -> None:
        self.stacks.update(stack_id, template, {})

    def ends(self, stack_id: str) -> str:
        """The state in which a stack comes to rest."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            status = self.stacks.find(stack_id)["status"]
            if status.endswith(ENDS):
                return status
            time.sleep(0.01)
        raise AssertionError(f"the stack is still {status}")

    def reason(self, stack_id: str) -> str:
        """Of the resource that failed first."""
        events = self.state.rows("events", stack_id=stack_id, status="CREATE_FAILED")
        return events[0]["reason"]

    def names(self) -> set[str]:
        return self.things.there.keys() | self.changeable.there.keys()


@pytest.fixture(autouse=True)
def quiet(caplog):
    """What is logged of the troubles below cannot be passed on: there is text in it that is none."""
    caplog.set_level(logging.CRITICAL, logger="orchestrator")


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path)
    yield house
    house.close()


def thing(name: str, type_: str = "Test::Thing", **more) -> dict:
    return {"Type": type_, "Properties": {"Name": name} | more}


def stack_of(**resources: dict) -> dict:
    return {"Resources": resources}


TROUBLES = [
    ResourceFailed("as it may be"),
    RecursionError("maximum recursion depth exceeded"),
    OSError(28, "No space left on device"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ValueError("a text with \x00, \x01 and \ud800"),
    MemoryError(),
]


@pytest.mark.parametrize("error", TROUBLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("on_failure", "end", "left"),
    [
        ("ROLLBACK", "ROLLBACK_COMPLETE", set()),
        ("DO_NOTHING", "CREATE_FAILED", {"one"}),
        ("DELETE", "DELETE_COMPLETE", set()),
    ],
)
def test_a_stack_that_cannot_be_made_ends_as_on_failure_says(house, error, on_failure, end, left):
    def trouble(verb, name):
        if (verb, name) == ("create", "two"):
            raise error

    house.things.trouble = trouble
    template = stack_of(One=thing("one"), Two=thing("two") | {"DependsOn": "One"})
    stack_id = house.create(template, on_failure)
    assert house.ends(stack_id) == end
    assert house.names() == left
    house.things.trouble = lambda verb, name: None
    house.stacks.delete(stack_id)
    assert house.ends(stack_id) == "DELETE_COMPLETE"
    assert house.names() == set()
    assert house.ends(house.create(template)) == "CREATE_COMPLETE"


@pytest.mark.parametrize("error", TROUBLES, ids=lambda error: type(error).__name__)
def test_a_failed_update_leaves_everything_as_it_was(house, error):
    before = stack_of(
        One=thing("one"), Same=thing("same", "Test::Changeable", size=1), Gone=thing("gone")
    )
    stack_id = house.create(before)
    assert house.ends(stack_id) == "CREATE_COMPLETE"

    def trouble(verb, name):
        if (verb, name) == ("create", "three"):
            raise error

    house.things.trouble = trouble
    after = stack_of(
        One=thing("other"),
        Same=thing("same", "Test::Changeable", size=2),
        Three=thing("three") | {"DependsOn": ["One", "Same"]},
    )
    house.update(stack_id, after)
    assert house.ends(stack_id) == "UPDATE_ROLLBACK_COMPLETE"
    assert house.names() == {"one", "same", "gone"}
    assert house.changeable.there["same"]["size"] == 1
    house.things.trouble = lambda verb, name: None
    house.update(stack_id, after)
    assert house.ends(stack_id) == "UPDATE_COMPLETE"
    assert house.names() == {"other", "same", "three"}
    assert house.changeable.there["same"]["size"] == 2


def test_an_update_of_the_tags_alone_reaches_the_resources_and_a_roll_back_takes_it_back(house):
    old, new = [{"Key": "of", "Value": "day"}], [{"Key": "of", "Value": "night"}]
    template = stack_of(One=thing("one"))
    stack_id = new_id("stack")
    house.stacks.create(stack_id, template, {"Tags": old}, "ROLLBACK")
    assert house.ends(stack_id) == "CREATE_COMPLETE"

    def trouble(verb, name):
        raise ResourceFailed("no")

    house.changeable.trouble = trouble
    more = stack_of(One=thing("one"), Two=thing("two", "Test::Changeable") | {"DependsOn": "One"})
    house.stacks.update(stack_id, more, {"Tags": new})
    assert house.ends(stack_id) == "UPDATE_ROLLBACK_COMPLETE"
    assert house.things.tags == {"one": old}
    house.stacks.update(stack_id, template, {"Tags": new})
    assert house.ends(stack_id) == "UPDATE_COMPLETE"
    assert house.things.tags == {"one": new}


def test_what_cannot_be_deleted_can_be_deleted_later(house):
    stack_id = house.create(stack_of(One=thing("one"), Two=thing("two")))
    assert house.ends(stack_id) == "CREATE_COMPLETE"

    def trouble(verb, name):
        if name == "one":
            raise PermissionError(13, "Permission denied")

    house.things.trouble = trouble
    house.stacks.delete(stack_id)
    assert house.ends(stack_id) == "DELETE_FAILED"
    assert house.names() == {"one"}
    house.things.trouble = lambda verb, name: None
    house.stacks.delete(stack_id)
    assert house.ends(stack_id) == "DELETE_COMPLETE"
    assert house.names() == set()


def test_an_update_that_cannot_be_changed_back_can_still_be_deleted(house):
    stack_id = house.create(stack_of(Same=thing("same", "Test::Changeable", size=1)))
    assert house.ends(stack_id) == "CREATE_COMPLETE"
    tries = []

    def trouble(verb, name):
        if verb == "update":
            tries.append(name)
            raise ResourceFailed("no")

    house.changeable.trouble = trouble
    house.update(stack_id, stack_of(Same=thing("same", "Test::Changeable", size=2)))
    assert house.ends(stack_id) == "UPDATE_ROLLBACK_FAILED"
    assert len(tries) == 2
    house.stacks.delete(stack_id)
    assert house.ends(stack_id) == "DELETE_COMPLETE"


def test_a_state_that_cannot_be_written_for_a_while_is_written_later(house, monkeypatch):
    """As on a disk that is full for a moment."""
    real, failing = house.state.insert, threading.Event()

    def insert(*arguments, **columns):
        if failing.is_set():
            raise OSError(28, "No space left on device")
        return real(*arguments, **columns)

    monkeypatch.setattr(house.state, "insert", insert)
    house.things.trouble = lambda verb, name: failing.set()
    stack_id = house.create(stack_of(One=thing("one"), Two=thing("two")))
    time.sleep(0.3)
    assert house.stacks.find(stack_id)["status"] == "CREATE_IN_PROGRESS"
    house.things.trouble = lambda verb, name: None
    failing.clear()
    assert house.ends(stack_id).endswith("_COMPLETE")


def test_deleting_does_not_wait_for_what_is_being_made(house):
    begun = threading.Event()

    class Slow(Things):
        def create(self, context, physical_id, properties):
            super().create(context, physical_id, properties)
            begun.set()
            while not context.is_cancelled():
                time.sleep(0.01)
            raise ResourceFailed("Resource creation cancelled")

    house.stacks._types["Test::Slow"] = slow = Slow()
    stack_id = house.create(stack_of(One=thing("one"), Slow=thing("slow", "Test::Slow")))
    assert begun.wait(5)
    house.stacks.delete(stack_id)
    began = time.monotonic()
    assert house.ends(stack_id) == "DELETE_COMPLETE"
    assert time.monotonic() - began < 2
    assert house.names() | slow.there.keys() == set()


@pytest.mark.parametrize("verb", ["create", "update", "delete"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_what_a_stop_interrupts_is_taken_up_and_nothing_is_there_twice(house, verb, after):
    """The resources wait where the stop finds them; the next start finds the same rows."""
    count = {"calls": 0}
    held = threading.Event()

    class Stopped(BaseException):
        pass

    def trouble(what, name):
        if what == verb:
            count["calls"] += 1
            if count["calls"] == after + 1:
                held.set()
                raise Stopped  # as a kill: nothing further is written down

    first = stack_of(**{f"R{n}": thing(f"r{n}", "Test::Changeable", size=1) for n in range(3)})
    second = stack_of(**{f"R{n}": thing(f"r{n}", "Test::Changeable", size=2) for n in range(3)})
    if verb == "create":
        house.changeable.trouble = trouble
    stack_id = house.create(first)
    if verb != "create":
        assert house.ends(stack_id) == "CREATE_COMPLETE"
        house.changeable.trouble = trouble
        house.update(stack_id, second) if verb == "update" else house.stacks.delete(stack_id)
    assert held.wait(5)
    house.close()
    house.changeable.trouble = lambda verb, name: None
    house.open()
    assert house.ends(stack_id) == f"{verb.upper()}_COMPLETE"
    wanted = {"create": ({"r0", "r1", "r2"}, 1), "update": ({"r0", "r1", "r2"}, 2)}
    names, size = wanted.get(verb, (set(), 0))
    assert house.names() == names
    assert {item["size"] for item in house.changeable.there.values()} <= {size}


# -- jobs, through the orchestrator's handler -----------------------------------------


@pytest.fixture
def jobs(aws, custom_event, tmp_path, monkeypatch):  # noqa: F811
    """A house with custom resources, whose function is the handler; moto runs the jobs."""
    answers = Answers()
    stopped: list[str] = []
    # moto has no StopTransformJob.
    monkeypatch.setattr(
        environment.client("sagemaker"), "stop_transform_job",
        lambda TransformJobName: stopped.append(TransformJobName),
    )  # fmt: skip

    def invoke(event: dict) -> None:
        token = event["ResponseURL"].rpartition("/")[2]
        event |= {"ResponseURL": custom_event("Create")["ResponseURL"]}

        def work():
            handler(event, None)
            answers.give(token, custom_event.answers[-1])

        threading.Thread(target=work).start()

    house = House(
        tmp_path, **{CUSTOM: CustomResource(FUNCTION, invoke, answers, "http://answers/")}
    )
    house.stopped = stopped
    house.request = custom_event("Create")["ResourceProperties"]["Request"]
    yield house
    house.close()


def job(request: dict, **changes) -> dict:
    properties = {"ServiceToken": FUNCTION, "Name": "night", "Request": request | changes}
    return stack_of(Job={"Type": "Custom::TransformJob", "Properties": properties})


def test_a_stack_starts_a_job_replaces_it_when_it_changes_and_stops_it(jobs):
    stack_id = jobs.create(job(jobs.request, MaxConcurrentTransforms=1))
    assert jobs.ends(stack_id) == "CREATE_COMPLETE"
    first = jobs_there()[0]["TransformJobName"]
    assert first.startswith("night-")
    jobs.update(stack_id, job(jobs.request, MaxConcurrentTransforms=2))
    assert jobs.ends(stack_id) == "UPDATE_COMPLETE"
    assert jobs.stopped == [first]
    second = next(
        found["TransformJobName"] for found in jobs_there() if found["TransformJobName"] != first
    )
    described = boto3.client("sagemaker").describe_transform_job(TransformJobName=second)
    assert described["MaxConcurrentTransforms"] == 2
    jobs.stacks.delete(stack_id)
    assert jobs.ends(stack_id) == "DELETE_COMPLETE"
    assert jobs.stopped == [first, second]


def test_a_job_that_sagemaker_refuses_fails_its_stack_with_sagemakers_reason(jobs):
    stack_id = jobs.create({
        "Resources": job({"ModelName": "model"})["Resources"] | {"One": thing("one")}
    })  # fmt: skip
    assert jobs.ends(stack_id) == "ROLLBACK_COMPLETE"
    assert "TransformInput" in jobs.reason(stack_id)
    assert jobs.names() == set()
    assert jobs_there() == []


def test_a_function_that_is_not_the_orchestrators_is_not_called(jobs):
    template = job(jobs.request)
    template["Resources"]["Job"]["Properties"]["ServiceToken"] = "arn:aws:lambda:else"
    stack_id = jobs.create(template)
    assert jobs.ends(stack_id) == "ROLLBACK_COMPLETE"
    assert "ServiceToken" in jobs.reason(stack_id)
    assert jobs_there() == []


def test_a_full_disk_is_no_fault_of_the_sandbox_and_may_be_tried_again(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as db:
        db.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as full:
            db.execute("CREATE TABLE t AS SELECT randomblob(100000)")
        with pytest.raises(sqlite3.OperationalError) as other:
            db.execute("SELECT * FROM nowhere")
    assert server._failure(full.value).status == 503
    assert server._failure(other.value).status == 500
