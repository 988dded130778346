"""EventBridge Scheduler: the API by boto3, stacks, and that what is due is done, once."""

import itertools
import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from orchestrator.sandbox.aws.wire import Service, honours
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.places import NEWS_TOPIC, ROLE
from orchestrator.sandbox.scheduler import runs
from orchestrator.sandbox.scheduler.runs import Runs
from orchestrator.sandbox.scheduler.schedules import Schedules
from orchestrator.sandbox.state import State

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
SAGEMAKER = "arn:aws:scheduler:::aws-sdk:sagemaker:"
JOB = {
    "ProcessingJobName": "check-<aws.scheduler.execution-id>",
    "ProcessingResources": {
        "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
    },
    "AppSpecification": {"ImageUri": "image"},
    "RoleArn": ROLE,
    "Environment": {
        "at": "<aws.scheduler.scheduled-time>",
        "of": "<aws.scheduler.schedule-arn>",
        "attempt": "<aws.scheduler.attempt-number>",
    },
}


class Killed(BaseException):
    """Where a process would have ended."""


class Jobs:
    """What is called: it takes a name once, and does what it is told to first."""

    def __init__(self) -> None:
        self.made, self.calls, self.faults = {}, [], []

    @honours(*JOB)
    def create_processing_job(self, request: dict) -> dict:
        name, fault = request["ProcessingJobName"], self.faults.pop(0) if self.faults else None
        self.calls.append(name)
        if isinstance(fault, Exception):
            raise fault
        if name in self.made:
            raise AwsError("ResourceInUse", f"{name} already exists.")
        self.made[name] = request["Environment"]
        if fault:
            raise fault
        return {
            "ProcessingJobArn": f"arn:aws:sagemaker:us-east-1:000000000000:processing-job/{name}"
        }

    @property
    def times(self) -> list[str]:
        return [environment["at"][11:16] for environment in self.made.values()]


class House:
    """A scheduler whose clock is turned by hand."""

    def __init__(self, folder) -> None:
        self.folder, self.jobs, self.time = folder, Jobs(), NOON
        self.state = State(folder / "state.db")
        self.start()

    def start(self) -> None:
        service = Service("sagemaker", self.jobs)
        find = lambda name, operation: service.operation(operation)  # noqa: E731
        self.runs = Runs(self.state, find, lambda: self.time.timestamp())
        self.api = Service("scheduler", Schedules(self.state, self.runs, find))
        self.runs.look()

    def kill(self) -> None:
        self.state.close()
        self.state = State(self.folder / "state.db")

    def call(self, operation: str = "CreateSchedule", **request) -> dict:
        """A schedule of the given request, but for what is usual."""
        usual = {
            "Name": "check",
            "ScheduleExpression": "cron(0/10 * * * ? *)",
            "FlexibleTimeWindow": {"Mode": "OFF"},
        }
        target = {"Arn": f"{SAGEMAKER}createProcessingJob", "RoleArn": ROLE}
        target |= {"Input": json.dumps(JOB)} | request.pop("Target", {})
        return self.api.call(operation, usual | {"Target": target} | request)

    def wait(self, **delta: float) -> None:
        self.time += timedelta(**delta)
        self.runs.look()


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    house = House(tmp_path)
    yield house
    house.state.close()


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """One that has a schedule, for tests that change nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        house = House(tmp_path_factory.mktemp("settled"))
        house.call(Name="there")
    yield house
    house.state.close()


# -- what is due ----------------------------------------------------------------------


def test_a_run_is_a_call_of_its_target_that_knows_of_itself(house):
    house.call()
    house.wait(minutes=9, seconds=59)
    assert house.jobs.times == ["12:00"]
    house.wait(seconds=1)
    house.wait(seconds=1)
    assert house.jobs.times == ["12:00", "12:10"]
    first, second = house.jobs.made
    assert first != second
    assert house.jobs.made[second] == {
        "at": "2026-11-27T12:10:00Z",
        "of": "arn:aws:scheduler:us-east-1:000000000000:schedule/default/check",
        "attempt": "1",
    }


def test_a_rate_begins_at_once_and_an_update_that_does_not_touch_it_lets_it_go_on(house):
    house.call(ScheduleExpression="rate(1 minutes)")
    house.wait(seconds=0.5)
    assert house.jobs.times == ["12:00"]
    house.call("UpdateSchedule", ScheduleExpression="rate(1 minutes)", Description="other")
    house.wait(seconds=59)
    assert house.jobs.times == ["12:00"]
    house.wait(seconds=1)
    assert house.jobs.times == ["12:00", "12:01"]
    house.time += timedelta(minutes=0.5)
    house.call("UpdateSchedule", ScheduleExpression="rate(2 hours)")
    house.wait(hours=1)
    assert len(house.jobs.calls) == 3


def test_what_was_missed_is_done_once_and_that_is_the_latest(house):
    house.call(
        ScheduleExpression="rate(1 minute)", StartDate=(NOON + timedelta(hours=1)).isoformat()
    )
    house.wait(minutes=59)
    assert house.jobs.calls == []
    house.kill()
    house.time += timedelta(days=400)
    began = time.monotonic()
    house.start()
    assert time.monotonic() - began < 1
    assert house.jobs.times == [f"{house.time:%H:%M}"]
    house.wait(minutes=1)
    assert len(house.jobs.calls) == 2


@pytest.mark.parametrize("is_told", [False, True])
def test_a_run_that_a_kill_interrupts_is_not_made_twice(house, is_told):
    """Before the call, and between the call and the note of it."""
    if is_told:
        house.jobs.faults = [Killed()]
    else:
        house.runs._call = lambda *run: (_ for _ in ()).throw(Killed)
    with pytest.raises(Killed):
        house.call()
        house.runs.look()
    house.kill()
    house.time += timedelta(minutes=3)
    house.start()
    house.wait(minutes=1)
    assert house.jobs.times == ["12:00"]
    assert len(house.jobs.calls) == 1 + is_told
    [run] = house.state.rows("schedule_runs")
    assert (run["status"], run["reason"]) == ("done", None)


def test_a_failure_of_the_sandbox_is_tried_again_later_and_later(house):
    house.jobs.faults = [AwsError("InternalFailure", "no", 500), OSError("disk"), None]
    house.call()
    house.runs.look()
    for seconds, calls in ((1.9, 1), (0.2, 2), (3.5, 2), (0.6, 3), (60, 3)):
        house.wait(seconds=seconds)
        assert len(house.jobs.calls) == calls
    [environment] = house.jobs.made.values()
    assert (environment["at"], environment["attempt"]) == ("2026-11-27T12:00:00Z", "3")


@pytest.mark.parametrize("policy", [{"MaximumRetryAttempts": 1}, {"MaximumEventAgeInSeconds": 60}])
def test_the_retry_policy_ends_it(house, policy, caplog):
    house.jobs.faults = [AwsError("Throttled", "later", 429), *[OSError("disk")] * 100]
    house.call(ScheduleExpression="cron(0 12 * * ? *)", Target={"RetryPolicy": policy})
    for _ in range(100):
        house.wait(seconds=5)
    expected = 2 if "MaximumRetryAttempts" in policy else 6  # after 0, 2, 6, 14, 30 and 62 seconds
    assert abs(len(house.jobs.calls) - expected) <= ("MaximumEventAgeInSeconds" in policy)
    assert caplog.text.count("is given up") == 1


def test_a_refusal_is_told_once_and_the_next_run_comes(house, caplog):
    house.jobs.faults = [AwsError("ValidationException", "There is no such image.")]
    house.call()
    for _ in range(20):
        house.wait(seconds=1)
    assert len(house.jobs.calls) == 1
    assert caplog.text.count("was refused: ValidationException: There is no such image.") == 1
    house.wait(minutes=10)
    assert house.jobs.times == ["12:10"]


def test_a_fixed_name_is_refused_the_second_time_and_that_is_told(house, caplog):
    fixed = JOB | {"ProcessingJobName": "fixed"}
    house.call(ScheduleExpression="rate(1 minute)", Target={"Input": json.dumps(fixed)})
    house.runs.look()
    house.wait(minutes=1)
    assert caplog.text.count("was refused: ResourceInUse") == 1


def test_a_clock_that_is_put_back_does_nothing_twice_and_puts_nothing_off(house, caplog):
    house.call()
    house.wait(days=365)
    house.wait(days=-365)
    assert house.jobs.times == ["12:00"]
    house.wait(minutes=11)
    assert house.jobs.times == ["12:00", "12:10"]
    house.wait(minutes=-5)
    house.wait(minutes=5)
    house.wait(minutes=10)
    assert house.jobs.times == ["12:00", "12:10", "12:20"]
    assert len(house.jobs.calls) == 3
    assert caplog.text == ""


def test_an_attempt_is_not_put_off_by_a_clock_that_was_ahead(house):
    house.jobs.faults = [OSError("disk")]
    house.call()
    house.wait(days=365)
    house.wait(days=-365)
    house.wait(minutes=5)
    assert len(house.jobs.calls) == 2


def test_a_flexible_window_is_kept_and_its_chance_outlives_a_restart(house):
    window = {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 15}
    house.call(ScheduleExpression="cron(30 * * * ? *)", FlexibleTimeWindow=window)
    moments = []
    for minute in range(6 * 60):
        house.wait(minutes=1)
        if len(house.jobs.calls) > len(moments):
            moments.append(house.time)
        if minute == 40:
            house.kill()
            house.start()
    assert len(moments) == 6
    assert all(30 <= moment.minute <= 46 for moment in moments)
    assert len({moment.minute for moment in moments}) > 1
    house.wait(hours=10)
    assert len(house.jobs.calls) == 7


def test_a_rate_shorter_than_its_window_still_has_all_its_runs(house):
    window = {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 15}
    house.call(ScheduleExpression="rate(1 minute)", FlexibleTimeWindow=window)
    for _ in range(60 * 2):
        house.wait(seconds=30)
    minutes = [int(text[3:]) for text in house.jobs.times]
    assert minutes == list(range(len(minutes)))
    assert len(minutes) > 44


def test_start_and_end_bound_it_and_it_may_delete_itself_then(house):
    start, end = (NOON + timedelta(minutes=m) for m in (15, 30))
    dates = {"StartDate": start.isoformat(), "EndDate": end.isoformat()}
    house.call(ActionAfterCompletion="DELETE", **dates)
    house.call(Name="stays", **dates)
    for _ in range(60):
        house.wait(minutes=1)
    assert sorted(house.jobs.times) == ["12:20", "12:20", "12:30", "12:30"]
    [left] = house.api.call("ListSchedules", {})["Schedules"]
    assert left["Name"] == "stays"
    assert [run["schedule"] for run in house.state.rows("schedule_runs")] == ["stays"] * 2


def test_a_schedule_does_not_delete_itself_before_its_last_run_is_made(house):
    house.jobs.faults = [OSError("disk")]
    house.call(ScheduleExpression="at(2026-11-27T12:00:01)", ActionAfterCompletion="DELETE")
    for seconds, left in ((1, 1), (1, 1), (1, 1), (1, 0)):
        house.wait(seconds=seconds)
        assert len(house.state.rows("schedules")) == left
    assert house.jobs.times == ["12:00"]
    assert len(house.jobs.calls) == 2


def test_a_schedule_that_is_disabled_makes_nothing_up_when_it_is_enabled(house):
    house.call(State="DISABLED")
    house.wait(minutes=25)
    house.call("UpdateSchedule", State="ENABLED")
    house.wait(minutes=4)
    assert house.jobs.calls == []
    house.wait(minutes=1)
    assert house.jobs.times == ["12:30"]


def test_nothing_comes_of_a_schedule_that_was_deleted(house):
    house.jobs.faults = [OSError("disk")]
    house.call()
    house.runs.look()
    house.call(Name="other", ScheduleExpression="rate(1 day)")
    # While it is being called: by the target itself.
    house.jobs.faults = []
    made = house.jobs.create_processing_job

    @honours(*JOB)
    def create_processing_job(request: dict) -> dict:
        house.api.call("DeleteSchedule", {"Name": "other"})
        return made(request)

    house.jobs.create_processing_job = create_processing_job
    house.start()
    assert house.api.call("DeleteSchedule", {"Name": "check"}) == {}
    house.wait(hours=1)
    assert len(house.jobs.calls) == 2
    assert house.state.rows("schedules") == house.state.rows("schedule_runs") == []


def test_garbage_in_the_state_keeps_no_other_from_its_turn(house, caplog):
    for name in ("bad-expression", "bad-input", "good", "no-request"):
        house.call(Name=name)
    for name, change in (
        ("bad-expression", {"ScheduleExpression": "cron(x)"}),
        ("bad-input", {"Target": {"Arn": "x", "Input": "{", "RetryPolicy": {}}}),
    ):
        row = house.state.row("schedules", name=name)
        house.state.update("schedules", {"name": name}, request=row["request"] | change)
    house.state.update("schedules", {"name": "no-request"}, request=None)
    for _ in range(30):
        house.wait(seconds=20)
    assert house.jobs.times == ["12:00", "12:10"]
    assert caplog.text.count("schedule bad-expression; it is tried again") == 1


def test_the_runs_of_long_ago_are_forgotten(house, monkeypatch):
    monkeypatch.setattr(runs, "KEPT_RUNS", 10)
    house.call(ScheduleExpression="rate(1 minute)")
    for _ in range(20):
        house.wait(minutes=1)
    assert len(house.jobs.calls) == 20
    assert len(house.state.rows("schedule_runs")) == 10


def test_a_repeated_request_makes_one_schedule(house):
    first = house.call(ClientToken="token")
    assert house.call(ClientToken="token") == first
    for token in ({}, {"ClientToken": "other"}):
        with pytest.raises(AwsError) as raised:
            house.call(**token)
        assert (raised.value.code, raised.value.status) == ("ConflictException", 409)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"ScheduleExpression": "cron(0 8 30 2 ? *)"}, "never runs"),
        ({"ScheduleExpression": "at(2020-01-01T00:00:00)"}, "never runs"),
        ({"ScheduleExpression": "rate(1 second)"}, "positive number and minutes"),
        ({"ScheduleExpressionTimezone": "Mars/Crater"}, "no time zone 'Mars/Crater'"),
        ({"EndDate": "2026-11-27T11:59:00Z"}, "never runs"),
        ({"StartDate": "2026-11-28T00:00:00Z", "EndDate": "2026-11-27T23:00:00Z"}, "never runs"),
        ({"StartDate": "0001-01-01T00:00:00Z"}, "StartDate"),
        ({"ScheduleExpression": "at(2027-01-01T00:00:00)", "EndDate": "2028-01-01T00:00:00Z"},
         "mean nothing for at"),
        ({"FlexibleTimeWindow": {"Mode": "FLEXIBLE"}}, "MaximumWindowInMinutes"),
        ({"FlexibleTimeWindow": {"Mode": "OFF", "MaximumWindowInMinutes": 1}}, "FLEXIBLE alone"),
        ({"FlexibleTimeWindow": {"Mode": "SOMETIMES"}}, "enum value set"),
        ({"KmsKeyArn": "arn:aws:kms:us-east-1:000000000000:key/1"}, "honour KmsKeyArn"),
        ({"Target": {"DeadLetterConfig": {}}}, "honour Target.DeadLetterConfig"),
        ({"Target": {"EcsParameters": {}}}, "honour Target.EcsParameters"),
        ({"Target": {"Arn": "arn:aws:lambda:us-east-1:000000000000:function:f"}}, "universal"),
        ({"Target": {"Arn": f"{SAGEMAKER}listModels"}}, "only reads"),
        ({"Target": {"Arn": f"{SAGEMAKER}createCluster"}}, "not answer sagemaker:CreateCluster"),
        ({"Target": {"Arn": f"{SAGEMAKER}makeTea"}}, "no operation sagemaker:MakeTea"),
        ({"Target": {"Input": "{"}}, "no JSON object"),
        ({"Target": {"Input": "[" * 9999}}, "no JSON object"),
        ({"Target": {"Input": "[]"}}, "no JSON object"),
        ({"Target": {"Input": "{}"}}, "at 'processingJobName'"),
        ({"Target": {"Input": json.dumps(JOB | {"NetworkConfig": {}})}}, "honour NetworkConfig"),
        ({"Target": {"Input": json.dumps(JOB | {"RoleArn": "<aws.scheduler.role>"})}},
         "no <aws.scheduler.role>"),
    ],
)  # fmt: skip
def test_what_could_never_be_done_is_refused_when_it_is_asked_for(settled, request_, words):
    for operation, name in (("CreateSchedule", "new"), ("UpdateSchedule", "there")):
        with pytest.raises(AwsError) as raised:
            settled.call(operation, Name=name, **request_)
        assert raised.value.code == "ValidationException"
        assert words in raised.value.message
    [left] = settled.state.rows("schedules")
    assert left["request"]["ScheduleExpression"] == "cron(0/10 * * * ? *)"


# -- over HTTP ------------------------------------------------------------------------

NAMES = (f"schedule-{number}" for number in itertools.count())


def topics(sandbox, prefix: str) -> list[str]:
    pages = sandbox.client("sns").get_paginator("list_topics").paginate()
    names = [t["TopicArn"].rpartition(":")[2] for page in pages for t in page["Topics"]]
    return [name for name in names if name.startswith(prefix)]


def schedule(name: str, expression: str, **target: str) -> dict:
    """The request of a schedule that makes a topic of its own name and the run's."""
    called = {"Name": f"{name}-<aws.scheduler.execution-id>"}
    return {
        "Name": name,
        "ScheduleExpression": expression,
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {
            "Arn": "arn:aws:scheduler:::aws-sdk:sns:createTopic",
            "RoleArn": ROLE,
            "Input": json.dumps(called),
        }
        | target,
    }


def at(seconds: float) -> str:
    return f"at({datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S})"


def wait_until(condition, seconds: float = 15):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def refusal_of(operation, **request) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as raised:
        operation(**request)
    error = raised.value.response["Error"]
    status = raised.value.response["ResponseMetadata"]["HTTPStatusCode"]
    return status, error["Code"], error["Message"]


def test_schedules_by_boto3(sandbox):
    client, name = sandbox.client("scheduler"), f".{next(NAMES)}"
    request = schedule(name, "cron(0 8 ? * MON-FRI *)", RetryPolicy={"MaximumRetryAttempts": 3})
    request |= {"ScheduleExpressionTimezone": "Europe/Berlin", "Description": "Each morning"}
    request |= {"StartDate": datetime(2030, 1, 1, tzinfo=UTC)}
    arn = client.create_schedule(**request)["ScheduleArn"]
    found = client.get_schedule(Name=name, GroupName="default")
    request["Target"]["RetryPolicy"]["MaximumEventAgeInSeconds"] = 86400
    assert request.items() <= found.items()
    assert (found["Arn"], found["State"]) == (arn, "ENABLED")
    assert found["CreationDate"] <= found["LastModificationDate"] <= datetime.now(UTC)
    assert "EndDate" not in found
    request["State"] = "DISABLED"
    del request["Description"]
    assert client.update_schedule(**request)["ScheduleArn"] == arn
    found = client.get_schedule(Name=name)
    assert found["State"] == "DISABLED" and "Description" not in found
    assert refusal_of(client.create_schedule, **request)[:2] == (409, "ConflictException")
    client.delete_schedule(Name=name)
    gone = (404, "ResourceNotFoundException", f"Schedule {name} does not exist.")
    for operation in (client.get_schedule, client.delete_schedule):
        assert refusal_of(operation, Name=name) == gone
    assert refusal_of(client.update_schedule, **request) == gone
    other = refusal_of(client.create_schedule, **request, GroupName="mine")
    assert other == (404, "ResourceNotFoundException", "Schedule group mine does not exist.")


def test_schedules_are_listed_in_pages_by_name_and_state(sandbox):
    client, prefix = sandbox.client("scheduler"), next(NAMES)
    names = [f"{prefix}-{letter}" for letter in "abcde"]
    for name in reversed(names):
        state = "DISABLED" if name.endswith("c") else "ENABLED"
        client.create_schedule(**schedule(name, "cron(0 8 1 1 ? *)"), State=state)

    def listed(**request) -> list[str]:
        pages = client.get_paginator("list_schedules").paginate(
            NamePrefix=f"{prefix}-", PaginationConfig={"PageSize": 2}, **request
        )
        return [each["Name"] for page in pages for each in page["Schedules"]]

    assert listed() == listed(GroupName="default") == names
    assert listed(State="DISABLED") == [names[2]]
    first = client.list_schedules(NamePrefix=names[0], MaxResults=1)["Schedules"][0]
    assert first["Target"] == {"Arn": "arn:aws:scheduler:::aws-sdk:sns:createTopic"}
    assert refusal_of(client.list_schedules, NextToken="!")[1] == "ValidationException"
    assert "integer" in sandbox.send("scheduler", "GET", "/schedules?MaxResults=x", b"")[1]
    assert "no member Nme" in sandbox.send("scheduler", "GET", "/schedules?Nme=x", b"")[1]
    status, text = sandbox.send("scheduler", "PATCH", "/schedules/x", b"")
    assert (status, json.loads(text)["__type"]) == (404, "UnknownOperationException")
    assert client.get_schedule_group(Name="default")["State"] == "ACTIVE"
    [group] = client.list_schedule_groups()["ScheduleGroups"]
    assert group["Name"] == "default"
    for name in names:
        client.delete_schedule(Name=name)


def test_a_run_is_made_at_its_time(sandbox):
    client, name = sandbox.client("scheduler"), next(NAMES)
    client.create_schedule(**schedule(name, at(2)), ActionAfterCompletion="DELETE")
    assert topics(sandbox, name) == []
    assert len(wait_until(lambda: topics(sandbox, name))) == 1
    wait_until(lambda: not client.list_schedules(NamePrefix=name)["Schedules"])


def test_what_a_target_refuses_is_in_the_log(sandbox):
    client, name = sandbox.client("scheduler"), next(NAMES)
    request = schedule(name, at(2), Arn="arn:aws:scheduler:::aws-sdk:sns:publish")
    request["Target"]["Input"] = json.dumps({"TopicArn": f"{NEWS_TOPIC}x", "Message": name})
    client.create_schedule(**request)
    told = wait_until(lambda: [line for line in sandbox.log().splitlines() if name in line])
    assert "NotFound: Topic does not exist" in told[0]
    client.delete_schedule(Name=name)


@pytest.mark.slow
def test_what_was_due_while_the_sandbox_was_killed_is_done_at_its_next_start(own_sandbox):
    client = own_sandbox.client("scheduler")
    client.create_schedule(**schedule("once", "rate(1 day)"))
    done = wait_until(lambda: topics(own_sandbox, "once"))
    client.create_schedule(**schedule("missed", at(3)))
    assert topics(own_sandbox, "missed") == []
    os.kill(own_sandbox.pid, signal.SIGKILL)
    time.sleep(3)
    own_sandbox.start()
    assert len(wait_until(lambda: topics(own_sandbox, "missed"))) == 1
    time.sleep(1)
    assert topics(own_sandbox, "once") == done


# -- in a stack -----------------------------------------------------------------------


def template(expression: str, name: str | None = None, **more) -> str:
    properties = schedule(name or "unnamed", expression) | more
    if name is None:
        del properties["Name"]
    outputs = {
        "Name": {"Value": {"Ref": "Check"}},
        "Arn": {"Value": {"Fn::GetAtt": ["Check", "Arn"]}},
    }
    check = {"Type": "AWS::Scheduler::Schedule", "Properties": properties}
    return json.dumps({"Resources": {"Check": check}, "Outputs": outputs})


def test_a_stack_makes_changes_and_deletes_its_schedule(sandbox):
    stacks, client, stack = (*map(sandbox.client, ("cloudformation", "scheduler")), next(NAMES))
    window = {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": "5"}  # a parameter's value is a text
    stacks.create_stack(
        StackName=stack, TemplateBody=template("cron(0 8 * * ? *)", FlexibleTimeWindow=window)
    )
    stacks.get_waiter("stack_create_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})
    [shown] = stacks.describe_stacks(StackName=stack)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in shown["Outputs"]}
    found = client.get_schedule(Name=outputs["Name"])
    assert found["Arn"] == outputs["Arn"]
    assert found["FlexibleTimeWindow"]["MaximumWindowInMinutes"] == 5
    stacks.update_stack(StackName=stack, TemplateBody=template("cron(0 9 * * ? *)"))
    stacks.get_waiter("stack_update_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})
    changed = client.get_schedule(Name=outputs["Name"])
    assert changed["ScheduleExpression"] == "cron(0 9 * * ? *)"
    assert changed["CreationDate"] == found["CreationDate"]
    stacks.delete_stack(StackName=stack)
    stacks.get_waiter("stack_delete_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})
    assert refusal_of(client.get_schedule, Name=outputs["Name"])[0] == 404


@pytest.mark.parametrize(
    ("expression", "more", "words"),
    [
        ("cron(0 8 30 2 ? *)", {}, "never runs"),
        ("cron(0 8 1 1 ? *)", {"ActionAfterCompletion": "DELETE"}, "unsupported property"),
        ("cron(0 8 1 1 ? *)", {"GroupName": "mine"}, "Schedule group mine does not exist."),
    ],
)
def test_a_stack_whose_schedule_cannot_be_fails_and_says_why(sandbox, expression, more, words):
    stacks, stack = sandbox.client("cloudformation"), next(NAMES)
    stacks.create_stack(StackName=stack, TemplateBody=template(expression, name=stack, **more))
    wait_until(
        lambda: (
            stacks.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
            == "ROLLBACK_COMPLETE"
        )
    )
    events = stacks.describe_stack_events(StackName=stack)["StackEvents"]
    assert any(words in event.get("ResourceStatusReason", "") for event in events)
    stacks.delete_stack(StackName=stack)
