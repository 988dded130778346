"""The runs of schedules: when each is due, and that it is done once.

A thread looks for what is due. A run is written down before its target is called, under an execution id
that is made of the schedule's ARN and the scheduled time. So a `kill -9` between the call and the note
that it was made leads to a second call by the same id: a job that bears it as its name is there already,
and the run is done. What has no such name may be called twice then, as on AWS.

What was missed while the sandbox was down, or asleep, is made up for by one run, the latest. A clock
that is put back makes none of a schedule's last hundred runs a second time.

A refusal by the target (a 4xx) is told in the log, once. A failure of the sandbox's own is tried again,
later and later, as long as the schedule's RetryPolicy allows.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.places import ACCOUNT, REGION
from orchestrator.sandbox.scheduler import targets
from orchestrator.sandbox.state import State
from orchestrator.schedules import parse

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
END_SECONDS = 2
LONGEST_PAUSE = 300  # between two attempts
KEPT_RUNS = 100  # of a schedule
TICK = timedelta(microseconds=1)
ARN = f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule/default/{{}}"
# That what a run is to make is there.
IS_THERE = ("ResourceInUse", "ConflictException")


class Runs:
    def __init__(
        self, state: State, find: targets.Find, clock: Callable[[], float] = time.time
    ) -> None:
        self._state, self._find, self._clock = state, find, clock
        # Held while a target is called: once a schedule's deletion is answered, nothing comes of it.
        self.lock = threading.RLock()
        self._seen = float("inf")
        self._failures: dict[str, str] = {}  # what has been told already
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(END_SECONDS)  # a run that is under way is looked at after the start

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _run(self) -> None:
        while not self._closing.wait(PAUSE_SECONDS):
            self._try("the scheduler", self.look)

    def _try(self, what: str, work: Callable, *arguments: object) -> None:
        """One that fails keeps no other from its turn. It is told once, and tried again."""
        try:
            work(*arguments)
            self._failures.pop(what, None)
        except Exception as error:
            if not self._closing.is_set() and self._failures.get(what) != str(error):
                log.exception("%s; it is tried again", what)
            self._failures[what] = str(error)

    def look(self) -> None:
        """Begin what is due by the clock, and carry out what has been begun."""
        now = self.now()
        if now.timestamp() < self._seen:  # at the start, or the clock was put back
            for row in self._state.rows("schedules"):
                self._try(f"schedule {row['name']}", self._bring_forward, row, now)
            for run in self._state.rows("schedule_runs", status="due"):
                soon = min(run["due"], now.timestamp() + LONGEST_PAUSE)
                self._state.update("schedule_runs", {"id": run["id"]}, due=soon)
        self._seen = now.timestamp()
        for row in self._state.rows("schedules"):
            self._try(f"schedule {row['name']}", self._look_at, row, now)
        for run in self._state.rows("schedule_runs", status="due"):
            if run["due"] <= self._seen and not self._closing.is_set():
                self._try(f"run {run['id']} of schedule {run['schedule']}", self._carry_out, run)

    def _bring_forward(self, row: dict, now: datetime) -> None:
        """Give a schedule the run that is next by a clock that had been ahead."""
        following = next_run(row, now) if row["request"]["State"] == "ENABLED" else None
        is_sooner = row["scheduled"] is None or now < read(row["scheduled"])
        if following and is_sooner and write(following) != row["scheduled"]:
            self._replace(row, following)

    def _look_at(self, row: dict, now: datetime) -> None:
        if row["due"] is None:
            self._complete(row)
        elif row["due"] <= now.timestamp():
            self._begin(row, now)

    def _complete(self, row: dict) -> None:
        """Delete a schedule that has run for the last time, if it says so."""
        request, name = row["request"], row["name"]
        if (request["State"], request["ActionAfterCompletion"]) != ("ENABLED", "DELETE"):
            return
        with self._state.transaction():
            is_same = self._state.row("schedules", name=name) == row
            if is_same and not self._state.rows("schedule_runs", schedule=name, status="due"):
                self._state.delete("schedules", name=name)
                self._state.delete("schedule_runs", schedule=name)

    def _begin(self, row: dict, now: datetime) -> None:
        scheduled = latest_run(row, now)
        identity, name = execution_id(row["name"], scheduled), row["name"]
        with self._state.transaction():
            if self._state.row("schedules", name=name) != row:
                return  # it was changed or deleted meanwhile
            if self._state.row("schedule_runs", id=identity) is None:
                self._state.insert(
                    "schedule_runs", id=identity, schedule=name, scheduled=write(scheduled),
                    target=row["request"]["Target"], attempts=0, begun=now.timestamp(),
                    due=now.timestamp(), status="due",
                )  # fmt: skip
            self._replace(row, next_run(row, scheduled))
            for old in self._state.rows("schedule_runs", "scheduled", schedule=name)[:-KEPT_RUNS]:
                self._state.delete("schedule_runs", id=old["id"], status="done")
                self._state.delete("schedule_runs", id=old["id"], status="failed")

    def _replace(self, row: dict, following: datetime | None) -> None:
        which = {"name": row["name"], "updated": row["updated"]}
        self._state.update("schedules", which, **planned(row, following))

    # -- one run -----------------------------------------------------------------------

    def _carry_out(self, run: dict) -> None:
        with self.lock:
            run = self._state.row("schedule_runs", id=run["id"])
            if run is None:  # its schedule was deleted
                return
            attempt = run["attempts"] + 1
            self._state.update("schedule_runs", {"id": run["id"]}, attempts=attempt)
            status, reason = self._call(run, attempt)
            changes = {"status": status, "reason": reason}
            if status == "due":
                changes["due"] = self._clock() + min(LONGEST_PAUSE, 2**attempt)
            self._state.update("schedule_runs", {"id": run["id"]}, **changes)

    def _call(self, run: dict, attempt: int) -> tuple[str, str | None]:
        """Call the target of a run: what has become of it, and why."""
        context = {
            "schedule-arn": ARN.format(run["schedule"]),
            "scheduled-time": run["scheduled"],
            "execution-id": run["id"],
            "attempt-number": str(attempt),
        }
        told = "schedule %s: the run of %s %s: %s"
        try:
            targets.call(run["target"], self._find, context)
        except AwsError as error:
            if attempt > 1 and error.code in IS_THERE:
                return "done", None
            reason = f"{error.code}: {error.message}"
            if error.status < 500 and error.status != 429:
                log.warning(told, run["schedule"], run["scheduled"], "was refused", reason)
                return "failed", reason
        except Exception as error:
            log.exception("the target of schedule %s", run["schedule"])
            reason = f"{type(error).__name__}: {error}"
        else:
            return "done", None
        policy = run["target"]["RetryPolicy"]
        age = self._clock() - run["begun"]
        if attempt <= policy["MaximumRetryAttempts"] and age < policy["MaximumEventAgeInSeconds"]:
            return "due", reason
        log.warning(told, run["schedule"], run["scheduled"], "is given up", reason)
        return "failed", reason


# -- when -----------------------------------------------------------------------------


def write(moment: datetime) -> str:
    """As Scheduler tells a scheduled time."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def read(text: str) -> datetime:
    return datetime.fromisoformat(text)


def next_run(row: dict, moment: datetime) -> datetime | None:
    """The first run of a schedule later than a moment, between its StartDate and EndDate."""
    request = row["request"]
    start = read(request.get("StartDate", row["since"]))
    zone = request["ScheduleExpressionTimezone"]
    found = parse(request["ScheduleExpression"], zone, start).next_after(max(moment, start - TICK))
    is_over = found and "EndDate" in request and found > read(request["EndDate"])
    return None if is_over else found


def latest_run(row: dict, now: datetime) -> datetime:
    """The run that stands for all that were missed: the last whose time, and window, has passed; the
    one that is due where none was missed."""
    found = read(row["scheduled"])
    horizon = now - window(row["request"])
    back = timedelta(minutes=1)
    while found < horizon - back:  # there may be a million between
        later = next_run(row, horizon - back)
        if later and later <= horizon:
            found = later
            break
        back *= 2
    while (later := next_run(row, found)) and later <= horizon:
        found = later
    return found


def planned(row: dict, following: datetime | None) -> dict:
    """The columns of a schedule that say when it runs next. Where in its window is a matter of
    chance, and of the execution id, so that it is the same after a restart."""
    if following is None:
        return {"scheduled": None, "due": None}
    seconds = int(window(row["request"]).total_seconds())
    offset = int(execution_id(row["name"], following), 16) % seconds if seconds else 0
    return {"scheduled": write(following), "due": following.timestamp() + offset}


def window(request: dict) -> timedelta:
    return timedelta(minutes=request["FlexibleTimeWindow"].get("MaximumWindowInMinutes", 0))


def execution_id(name: str, scheduled: datetime) -> str:
    return hashlib.sha256(f"{ARN.format(name)} {write(scheduled)}".encode()).hexdigest()[:16]
