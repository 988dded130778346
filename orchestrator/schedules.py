"""When a schedule runs: the expressions of EventBridge Scheduler, as its user guide has them.

    rate(5 minutes)                    every so many minutes, hours or days of 24 hours
    at(2026-12-24T18:00:00)            once
    cron(0/15 8-17 ? * MON-FRI *)      minutes hours day-of-month month day-of-week year

In cron, `,` lists, `-` is a range and `/` a step in it; `*` is every value. Exactly one of the two day
fields is `?`. A day of the month may be `L` (the last) or `15W` (the weekday nearest to the 15th, in
the same month); a day of the week `L` (Saturday), `6L` (the last Friday of the month) or `3#2` (the
second Tuesday). A range that runs backwards is refused: the guide knows none.

**Daylight saving.** cron and at mean the clock on the wall of their time zone. A time that the clock
leaves out in spring is left out, and one that comes twice in autumn counts once, the first time.
So `cron(* * * * ? *)` pauses for the hour that comes again. A rate knows no clock on any wall.
"""

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo

YEARS = range(1970, 2200)
BEGINNING = datetime(1969, 12, 30, tzinfo=UTC)  # before 1970 in every time zone
MONTHS = {name.upper(): number for number, name in enumerate(calendar.month_abbr) if name}
WEEKDAYS = {name: n for n, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"), 1)}
FORM = re.compile(r"(rate|at|cron)\((.*)\)", re.ASCII)
RATE = re.compile(r"([1-9][0-9]{0,8}) +(minute|hour|day)s?")
AT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}")
ITEM = re.compile(r"(?:\*|([0-9A-Z]+)(?:-([0-9A-Z]+))?)(?:/([0-9]{1,4}))?")


class Schedule(Protocol):
    def next_after(self, moment: datetime) -> datetime | None:
        """The first run later than a moment, in UTC; None when there is none."""


def parse(expression: str, zone: str = "UTC", since: datetime = BEGINNING) -> Schedule:
    """What an expression means in a time zone, a rate counted from `since`, which is its first run.

    Raises ValueError, whose message is a sentence, for what cannot be read or can never run.
    """
    clock = _zone(zone)
    form = FORM.fullmatch(expression.strip())
    if form is None:
        raise ValueError(f"{expression[:100]!r} is none of rate(…), at(…) and cron(…).")
    kind, content = form.groups()
    read = {"rate": _rate, "at": _at, "cron": _cron}[kind]
    try:
        return read(content.strip(), clock, since)
    except ValueError as error:
        raise ValueError(f"{expression[:100]}: {error}.") from None


def _zone(name: str) -> tzinfo:
    if name == "UTC":  # there is one even where no zones are installed
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # a folder of zones is no zone
        raise ValueError(f"There is no time zone {name[:50]!r}.") from None


# -- rate and at ----------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    period: timedelta
    since: datetime

    def next_after(self, moment: datetime) -> datetime | None:
        periods = max(0, (moment - self.since) // self.period + 1)
        try:
            return self.since + periods * self.period
        except OverflowError:
            return None


@dataclass(frozen=True)
class At:
    moment: datetime

    def next_after(self, moment: datetime) -> datetime | None:
        return self.moment if self.moment > moment else None


def _rate(content: str, clock: tzinfo, since: datetime) -> Rate:
    found = RATE.fullmatch(content)
    if found is None:
        raise ValueError("a rate is a positive number and minutes, hours or days")
    return Rate(timedelta(**{f"{found[2]}s": int(found[1])}), since.astimezone(UTC))


def _at(content: str, clock: tzinfo, since: datetime) -> At:
    try:
        wall = datetime.fromisoformat(content) if AT.fullmatch(content) else None
    except ValueError:
        wall = None
    if wall is None or wall.year not in YEARS:
        raise ValueError("a time is yyyy-mm-ddThh:mm:ss, from 1970 to 2199")
    moment = _moment(wall, clock)
    if moment is None:
        raise ValueError(f"it never runs: the clock of {clock} leaves that time out")
    return At(moment)


def _moment(wall: datetime, clock: tzinfo) -> datetime | None:
    """When a clock shows a time first; None when it leaves it out."""
    moment = wall.replace(tzinfo=clock).astimezone(UTC)
    return moment if moment.astimezone(clock).replace(tzinfo=None) == wall else None


# -- cron -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cron:
    minutes: list[int]
    hours: list[int]
    days: "Days"
    months: list[int]
    years: list[int]
    clock: tzinfo

    def next_after(self, moment: datetime) -> datetime | None:
        moment = max(moment, BEGINNING)
        if moment.year > YEARS[-1]:
            return None
        wall = moment.astimezone(self.clock).replace(tzinfo=None, second=0, microsecond=0)
        for day in self._days_from(wall.date()):
            for hour in self.hours:
                for minute in self.minutes:
                    found = datetime.combine(day, time(hour, minute))
                    run = _moment(found, self.clock) if found >= wall else None
                    if run is not None and run > moment:
                        return run
        return None

    def _days_from(self, first: date) -> Iterator[date]:
        for year in self.years:
            for month in self.months:
                if (year, month) >= (first.year, first.month):
                    days = (date(year, month, day) for day in self.days.of(year, month))
                    yield from (day for day in days if day >= first)


@dataclass(frozen=True)
class Days:
    """Which days of a month: by their number, or by the day of the week, 1 for Sunday."""

    numbers: frozenset[int] = frozenset()
    nearest: frozenset[int] = frozenset()  # their nearest weekdays
    has_last: bool = False
    weekdays: frozenset[int] = frozenset()
    last_weekdays: frozenset[int] = frozenset()  # the last such day of the month
    nth_weekday: tuple[int, int] | None = None  # which day of the week, and the how manyth

    def of(self, year: int, month: int) -> list[int]:
        length = calendar.monthrange(year, month)[1]
        all_days = range(1, length + 1)
        found = self.numbers & set(all_days)
        found |= {_nearest(year, month, day, length) for day in self.nearest if day <= length}
        if self.has_last:
            found |= {length}
        for day in all_days:
            weekday = (calendar.weekday(year, month, day) + 1) % 7 + 1
            is_last = day + 7 > length and weekday in self.last_weekdays
            is_nth = (weekday, (day + 6) // 7) == self.nth_weekday
            if weekday in self.weekdays or is_last or is_nth:
                found |= {day}
        return sorted(found)


def _nearest(year: int, month: int, day: int, length: int) -> int:
    """The weekday nearest to a day, in the same month."""
    weekday = calendar.weekday(year, month, day)
    if weekday == calendar.SATURDAY:
        return day - 1 if day > 1 else day + 2
    if weekday == calendar.SUNDAY:
        return day + 1 if day < length else day - 2
    return day


def _cron(content: str, clock: tzinfo, since: datetime) -> Cron:
    fields = content.upper().split()
    if len(fields) != 6:
        names = "minutes hours day-of-month month day-of-week year"
        raise ValueError(f"cron has the six fields {names}, not {len(fields)}")
    minutes, hours, month_days, months, week_days, years = fields
    if (month_days == "?") == (week_days == "?"):
        raise ValueError("one of day-of-month and day-of-week must be ?, the other not")
    found = Cron(
        _values(minutes, "minutes", range(60)),
        _values(hours, "hours", range(24)),
        _week_days(week_days) if month_days == "?" else _month_days(month_days),
        _values(months, "month", range(1, 13), MONTHS),
        _values(years, "year", YEARS),
        clock,
    )
    if found.next_after(BEGINNING) is None:
        raise ValueError("it never runs: no such day, or time of day, comes")
    return found


def _month_days(text: str) -> Days:
    numbers, nearest, has_last = set(), set(), False
    for item in text.split(","):
        if item == "L":
            has_last = True
        elif item.endswith("W"):
            nearest.add(_number(item[:-1], "day-of-month", range(1, 32)))
        else:
            numbers |= set(_values(item, "day-of-month", range(1, 32)))
    return Days(numbers=frozenset(numbers), nearest=frozenset(nearest), has_last=has_last)


def _week_days(text: str) -> Days:
    which = ("day-of-week", range(1, 8), WEEKDAYS)
    if "/" in text:
        raise ValueError("day-of-week takes no steps; write a list")
    if "#" in text:
        day, _, number = text.partition("#")
        if number not in ("1", "2", "3", "4", "5"):
            raise ValueError(f"day-of-week {text} is not one day, # and a number from 1 to 5")
        return Days(nth_weekday=(_number(day, *which), int(number)))
    weekdays, last = set(), set()
    for item in text.split(","):
        if len(item) > 1 and item.endswith("L"):
            last.add(_number(item[:-1], *which))
        else:
            weekdays |= {7} if item == "L" else set(_values(item, *which))
    return Days(weekdays=frozenset(weekdays), last_weekdays=frozenset(last))


def _values(text: str, field: str, bounds: range, names: dict[str, int] | None = None) -> list[int]:
    """The values of a field of numbers, names, lists, ranges and steps."""
    found: set[int] = set()
    for item in text.split(","):
        parts = ITEM.fullmatch(item)
        if parts is None:
            raise ValueError(f"{field} {item!r} cannot be read")
        first, last, step = parts.groups()
        begin = _number(first, field, bounds, names) if first else bounds[0]
        end = bounds[-1] if not first or step else begin
        end = _number(last, field, bounds, names) if last else end
        if begin > end:
            raise ValueError(f"{field} {item} runs backwards; write two ranges")
        if step and int(step) == 0:
            raise ValueError(f"{field} {item} has a step of 0")
        found |= set(range(begin, end + 1, int(step or 1)))
    return sorted(found)


def _number(text: str, field: str, bounds: range, names: dict[str, int] | None = None) -> int:
    value = (names or {}).get(text, int(text) if re.fullmatch("[0-9]{1,4}", text) else None)
    if value not in bounds:
        known = f" or {'-'.join((list(names)[0], list(names)[-1]))}" if names else ""
        raise ValueError(f"{field} {text!r} is not from {bounds[0]} to {bounds[-1]}{known}")
    return value
