"""EventBridge Scheduler: schedules, in the one group `default`.

Stricter than AWS in that a schedule that can never run, or whose target the sandbox would not call, is
refused when it is made.
"""

import base64
from datetime import datetime

from orchestrator.sandbox.aws.wire import honours
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.places import ACCOUNT, REGION
from orchestrator.sandbox.scheduler import targets
from orchestrator.sandbox.scheduler.runs import ARN, TICK, Runs, next_run, planned, read, write
from orchestrator.sandbox.state import State
from orchestrator.schedules import YEARS, parse

GROUP = {
    "Arn": f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule-group/default",
    "Name": "default",
    "State": "ACTIVE",
}
USUAL_PAGE = 100
TIMES = ("ScheduleExpression", "ScheduleExpressionTimezone", "StartDate", "EndDate")
USUAL = {
    "GroupName": "default", "ScheduleExpressionTimezone": "UTC", "State": "ENABLED",
    "ActionAfterCompletion": "NONE",
}  # fmt: skip
USUAL_RETRIES = {"MaximumEventAgeInSeconds": 86400, "MaximumRetryAttempts": 185}
HONOURED = (
    "Name", "GroupName", *TIMES, "State", "Description", "ActionAfterCompletion", "ClientToken",
    "FlexibleTimeWindow", "Target.Arn", "Target.RoleArn", "Target.Input", "Target.RetryPolicy",
)  # fmt: skip


class Schedules:
    def __init__(self, state: State, runs: Runs, find: targets.Find) -> None:
        self._state, self._runs, self._find = state, runs, find

    @honours(*HONOURED)
    def create_schedule(self, request: dict) -> dict:
        name, token = request["Name"], request.get("ClientToken")
        wanted = self._wanted(request)
        with self._state.transaction():
            there = self._state.row("schedules", name=name)
            if there and not (token and there["token"] == token):
                raise AwsError("ConflictException", f"Schedule {name} already exists.", 409)
            if there is None:
                moment = write(self._runs.now())
                row = {"name": name, "request": wanted, "since": moment}
                row |= planned(row, self._first_run(row))
                self._state.insert("schedules", created=moment, updated=moment, token=token, **row)
        return {"ScheduleArn": ARN.format(name)}

    @honours(*HONOURED)
    def update_schedule(self, request: dict) -> dict:
        """Everything is as the request has it afterwards, as on AWS. A schedule that goes on as it
        was timed keeps its next run, and the count of its rate."""
        wanted = self._wanted(request)
        with self._runs.lock, self._state.transaction():
            row = self._found(request)
            before, moment = row["request"], self._runs.now()
            is_retimed = any(before.get(key) != wanted.get(key) for key in TIMES)
            row |= {"request": wanted, "since": write(moment) if is_retimed else row["since"]}
            if is_retimed:
                following = self._first_run(row)
            elif wanted["State"] == "DISABLED":
                following = None
            elif before["State"] == "DISABLED":
                following = next_run(row, moment)
            else:
                following = read(row["scheduled"]) if row["scheduled"] else None
            row |= planned(row, following) | {"updated": moment.isoformat()}
            self._state.update("schedules", {"name": row.pop("name")}, **row)
        return {"ScheduleArn": ARN.format(request["Name"])}

    @honours("Name", "GroupName", "ClientToken")
    def delete_schedule(self, request: dict) -> dict:
        with self._runs.lock, self._state.transaction():
            self._found(request)
            self._state.delete("schedules", name=request["Name"])
            self._state.delete("schedule_runs", schedule=request["Name"])
        return {}

    @honours("Name", "GroupName")
    def get_schedule(self, request: dict) -> dict:
        row = self._found(request)
        return row["request"] | _dates(row) | {"Arn": ARN.format(row["name"])}

    @honours("GroupName", "NamePrefix", "State", "MaxResults", "NextToken")
    def list_schedules(self, request: dict) -> dict:
        _must_be_default(request)
        last = _read_token(request["NextToken"]) if "NextToken" in request else ""
        rows = [
            row
            for row in self._state.rows("schedules", "name")
            if row["name"] > last
            and row["name"].startswith(request.get("NamePrefix", ""))
            and request.get("State", row["request"]["State"]) == row["request"]["State"]
        ]
        size = request.get("MaxResults", USUAL_PAGE)
        answer = {"Schedules": [_summary(row) for row in rows[:size]]}
        if size < len(rows):
            # The name of the last one, not its number: what is made meanwhile moves no page.
            answer["NextToken"] = base64.b64encode(rows[size - 1]["name"].encode()).decode()
        return answer

    @honours("Name")
    def get_schedule_group(self, request: dict) -> dict:
        _must_be_default({"GroupName": request["Name"]})
        return GROUP

    @honours("NamePrefix", "MaxResults")
    def list_schedule_groups(self, request: dict) -> dict:
        is_asked_for = GROUP["Name"].startswith(request.get("NamePrefix", ""))
        return {"ScheduleGroups": [GROUP] if is_asked_for else []}

    # -- small parts -------------------------------------------------------------------

    def _found(self, request: dict) -> dict:
        _must_be_default(request)
        row = self._state.row("schedules", name=request["Name"])
        if row is None:
            message = f"Schedule {request['Name']} does not exist."
            raise AwsError("ResourceNotFoundException", message, 404)
        return row

    def _wanted(self, request: dict) -> dict:
        """A request with everything that it leaves to the service, dates as text; AwsError for one
        that could never be carried out."""
        _must_be_default(request)
        wanted = USUAL | {key: value for key, value in request.items() if key != "ClientToken"}
        target = wanted["Target"]
        retries = USUAL_RETRIES | target.get("RetryPolicy", {})
        wanted["Target"] = target | {"RetryPolicy": retries}
        for key in ("StartDate", "EndDate"):
            if key in wanted:
                wanted[key] = _date(key, wanted[key])
        flexible = wanted["FlexibleTimeWindow"]
        if (flexible["Mode"] == "FLEXIBLE") != ("MaximumWindowInMinutes" in flexible):
            raise _invalid(
                "MaximumWindowInMinutes goes with the FlexibleTimeWindow FLEXIBLE alone."
            )
        try:
            parse(wanted["ScheduleExpression"], wanted["ScheduleExpressionTimezone"])
        except ValueError as error:
            raise _invalid(f"Invalid Schedule Expression {error}") from None
        if wanted["ScheduleExpression"].strip().startswith("at") and wanted.keys() & TIMES[2:]:
            raise _invalid("StartDate and EndDate mean nothing for at(…): leave them out.")
        targets.check(target, self._find)
        return wanted

    def _first_run(self, row: dict) -> datetime | None:
        """The first run of a schedule that is timed anew; AwsError if it would never come."""
        first = next_run(row, read(row["since"]) - TICK)
        if first is None:
            expression = row["request"]["ScheduleExpression"]
            raise _invalid(f"{expression} never runs: there is no such time from now to EndDate.")
        return first if row["request"]["State"] == "ENABLED" else None


def _must_be_default(request: dict) -> None:
    """AwsError for any other group: they cannot be made here."""
    name = request.get("GroupName", "default")
    if name != "default":
        message = f"Schedule group {name} does not exist."
        raise AwsError("ResourceNotFoundException", message, 404)


def _date(key: str, moment: datetime) -> str:
    if moment.year not in YEARS:
        raise _invalid(f"{key} is not from {YEARS[0]} to {YEARS[-1]}.")
    return write(moment)


def _dates(row: dict) -> dict:
    return {"CreationDate": row["created"], "LastModificationDate": row["updated"]}


def _summary(row: dict) -> dict:
    request = row["request"]
    return _dates(row) | {
        "Arn": ARN.format(row["name"]),
        "Name": row["name"],
        "GroupName": request["GroupName"],
        "State": request["State"],
        "Target": {"Arn": request["Target"]["Arn"]},
    }


def _read_token(token: str) -> str:
    try:
        return base64.b64decode(token, validate=True).decode()
    except ValueError:
        raise _invalid("The NextToken is none of ours.") from None


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationException", message)
