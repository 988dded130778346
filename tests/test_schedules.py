"""Schedule expressions: what each means, against a scan of every minute, and what is refused."""

import calendar
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.schedules import BEGINNING, parse

NOW = datetime(2026, 11, 27, 7, 40, tzinfo=UTC)  # a Friday


def runs(expression: str, count: int, zone: str = "UTC", after: datetime = NOW) -> list[str]:
    schedule, found = parse(expression, zone), []
    while len(found) < count and (after := schedule.next_after(after)) is not None:
        found.append(f"{after:%Y-%m-%dT%H:%M}")
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("cron(15 10 * * ? *)", ["2026-11-27T10:15", "2026-11-28T10:15"]),
        ("cron(0/15 8-9 ? * MON-FRI *)", ["2026-11-27T08:00", "2026-11-27T08:15"]),
        ("cron(*/40 * * * ? *)", ["2026-11-27T08:00", "2026-11-27T08:40"]),
        ("cron(0 8 1 * ? *)", ["2026-12-01T08:00", "2027-01-01T08:00"]),
        ("cron(0 0 L 1-3 ? *)", ["2027-01-31T00:00", "2027-02-28T00:00"]),
        ("cron(0 0 1,L * ? *)", ["2026-11-30T00:00", "2026-12-01T00:00"]),
        ("cron(0 0 28W * ? *)", ["2026-12-28T00:00", "2027-01-28T00:00"]),  # 27 Nov was the nearest
        ("cron(0 0 1W * ? 2027)", ["2027-01-01T00:00", "2027-02-01T00:00"]),
        ("cron(0 0 1W MAY ? 2027)", ["2027-05-03T00:00"]),  # the 1st is a Saturday
        ("cron(0 0 31W JAN,FEB ? 2027)", ["2027-01-29T00:00"]),  # the 31st is a Sunday
        ("cron(0 0 ? * L *)", ["2026-11-28T00:00", "2026-12-05T00:00"]),  # Saturdays
        ("cron(15 10 ? * 6L 2026-2027)", ["2026-11-27T10:15", "2026-12-25T10:15"]),
        ("cron(0 0 ? * friL *)", ["2026-12-25T00:00", "2027-01-29T00:00"]),
        ("cron(0 0 ? * 3#5 *)", ["2026-12-29T00:00", "2027-03-30T00:00"]),
        ("cron(0 0 ? * TUE#2 *)", ["2026-12-08T00:00", "2027-01-12T00:00"]),
        ("cron(0 0 29 2 ? *)", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        ("cron(0 0 1 1 ? 2020,2199)", ["2199-01-01T00:00"]),
        ("cron(0 0 1 1 ? 2020)", []),
        ("at(2026-11-27T07:41:00)", ["2026-11-27T07:41"]),
        ("at(2026-11-27T07:40:00)", []),
        ("rate(1 minute)", ["2026-11-27T07:41", "2026-11-27T07:42"]),
        ("rate(2 days)", ["2026-11-29T00:00", "2026-12-01T00:00"]),
    ],
)  # fmt: skip
def test_what_an_expression_means(expression, expected):
    assert runs(expression, 2) == expected


def test_a_rate_is_counted_from_its_first_run():
    since = datetime(2026, 11, 27, 7, 42, 30, tzinfo=UTC)
    schedule = parse("rate(5 minutes)", since=since)
    assert schedule.next_after(NOW) == since
    assert schedule.next_after(since) == since + timedelta(minutes=5)
    assert schedule.next_after(since + timedelta(hours=1, seconds=1)) == since + timedelta(
        minutes=65
    )


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [  # in Berlin the clock goes from 2 to 3 on 29 March 2026, and from 3 to 2 on 25 October
        ("cron(30 2 * * ? *)", "2026-03-27T12:00", ["2026-03-28T01:30", "2026-03-30T00:30"]),
        ("cron(0 * * * ? *)", "2026-03-29T00:30", ["2026-03-29T01:00", "2026-03-29T02:00"]),
        ("cron(30 2 * * ? *)", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        ("cron(0 * * * ? *)", "2026-10-24T23:30", ["2026-10-25T00:00", "2026-10-25T02:00"]),
        ("rate(1 day)", "2026-10-25T12:00", ["2026-10-26T00:00", "2026-10-27T00:00"]),
        ("at(2026-10-25T02:30:00)", "2026-10-24T12:00", ["2026-10-25T00:30"]),
    ],
)
def test_what_the_clock_leaves_out_is_left_out_and_what_comes_twice_counts_once(
    expression, after, expected
):
    moment = datetime.fromisoformat(f"{after}+00:00")
    assert runs(expression, 2, "Europe/Berlin", moment) == expected


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("", "none of rate"),
        ("every day", "none of rate"),
        ("cron(0 8 * * ? *) ; x", "none of rate"),
        ("cron(0 8 * *\n? *)", "none of rate"),
        ("rate(0 minutes)", "positive number"),
        ("rate(-1 minutes)", "positive number"),
        ("rate(5 seconds)", "positive number"),
        ("at(2026-11-31T00:00:00)", "yyyy-mm-ddThh:mm:ss"),
        ("at(2026-11-30 00:00:00)", "yyyy-mm-ddThh:mm:ss"),
        ("at(0001-01-01T00:00:00)", "1970 to 2199"),
        ("cron(0 8 * * *)", "six fields"),
        ("cron(0 8 * * * *)", "must be ?"),
        ("cron(0 8 ? * ? *)", "must be ?"),
        ("cron(60 8 * * ? *)", "minutes '60' is not from 0 to 59"),
        ("cron(0 8 0 * ? *)", "day-of-month '0' is not from 1 to 31"),
        ("cron(0 8 * FOO ? *)", "month 'FOO' is not from 1 to 12 or JAN-DEC"),
        ("cron(0 8 ? * 0 *)", "day-of-week '0' is not from 1 to 7 or SUN-SAT"),
        ("cron(0 22-4 * * ? *)", "runs backwards"),
        ("cron(0/0 8 * * ? *)", "step of 0"),
        ("cron(0, 8 * * ? *)", "cannot be read"),
        ("cron(? 8 * * ? *)", "cannot be read"),
        ("cron(\N{ARABIC-INDIC DIGIT ONE} 8 * * ? *)", "cannot be read"),
        ("cron(0 8 LW * ? *)", "'L' is not from 1 to 31"),
        ("cron(0 8 ? * MON/2 *)", "no steps"),
        ("cron(0 8 ? * 2#6 *)", "from 1 to 5"),
        ("cron(0 8 ? * 2#1,3#1 *)", "from 1 to 5"),
        ("cron(0 8 * * ? 2200)", "year '2200'"),
        ("cron(0 8 30 2 ? *)", "never runs"),
        ("cron(0 8 31 4,6,9,11 ? *)", "never runs"),
        ("cron(0 8 29 2 ? 2026,2027)", "never runs"),
    ],
)
def test_what_cannot_be_read_or_never_runs_is_refused_with_a_sentence(expression, words):
    with pytest.raises(ValueError) as raised:
        parse(expression)
    assert words in str(raised.value)
    assert str(raised.value).endswith(".")


def test_a_time_that_the_clock_leaves_out_never_comes():
    for expression in ("at(2026-03-29T02:30:00)", "cron(30 2 29 3 ? 2026)"):
        with pytest.raises(ValueError, match="never runs"):
            parse(expression, "Europe/Berlin")
        assert parse(expression).next_after(BEGINNING)


@pytest.mark.parametrize("zone", ["", "Mars", "America", "../UTC", "/etc/passwd", "a\0b", "é"])
def test_a_time_zone_that_there_is_not_is_refused(zone):
    with pytest.raises(ValueError, match="no time zone"):
        parse("rate(1 day)", zone)


@pytest.mark.parametrize("moment", [datetime.min, datetime.max])
@pytest.mark.parametrize("expression", ["rate(999999999 days)", "cron(0 0 * * ? *)"])
def test_no_moment_is_too_far_away(moment, expression):
    for zone in ("Pacific/Kiritimati", "Pacific/Niue"):
        found = parse(expression, zone).next_after(moment.replace(tzinfo=UTC))
        assert found is None or found.year >= 1969


# -- against a scan of every minute ---------------------------------------------------


def field(low: int, high: int, steps: bool = True):
    """A field of numbers: its text, and the values that it stands for, said another way."""
    number = st.integers(low, high)
    item = st.one_of(
        number.map(lambda n: (str(n), {n})),
        st.tuples(number, number).map(sorted).map(
            lambda p: (f"{p[0]}-{p[1]}", {n for n in range(low, high + 1) if p[0] <= n <= p[1]})
        ),
        *[st.tuples(number, st.integers(1, 20)).map(
            lambda p: (f"{p[0]}/{p[1]}",
                       {n for n in range(low, high + 1) if n >= p[0] and (n - p[0]) % p[1] == 0})
        )] * steps,
    )  # fmt: skip
    several = st.lists(item, min_size=1, max_size=3).map(
        lambda items: (",".join(text for text, _ in items), set().union(*(v for _, v in items)))
    )
    return st.one_of(st.just(("*", set(range(low, high + 1)))), several)


def of_the_month(rule: str, day: datetime) -> bool:
    """L, and the nearest weekday, by looking at the whole month."""
    length = calendar.monthrange(day.year, day.month)[1]
    if rule == "L":
        return day.day == length
    wanted = int(rule[:-1])
    work = [d for d in range(1, length + 1) if calendar.weekday(day.year, day.month, d) < 5]
    return wanted <= length and day.day == min(work, key=lambda d: abs(d - wanted))


def of_the_week(rule: str, day: datetime) -> bool:
    number = day.isoweekday() % 7 + 1
    same = range((day.day - 1) % 7 + 1, calendar.monthrange(day.year, day.month)[1] + 1, 7)
    if rule == "L":
        return number == 7
    if rule.endswith("L"):
        return number == int(rule[:-1]) and day.day == same[-1]
    wanted, nth = map(int, rule.split("#"))
    return number == wanted and len(same) >= nth and day.day == same[nth - 1]


NUMBERED = st.one_of(
    field(1, 31).map(lambda f: (f[0], "?", lambda day: day.day in f[1])),
    field(1, 7, steps=False).map(lambda f: ("?", f[0], lambda d: d.isoweekday() % 7 + 1 in f[1])),
)
NAMED = st.one_of(
    st.one_of(st.just("L"), st.integers(1, 31).map("{}W".format)).map(
        lambda rule: (rule, "?", lambda day: of_the_month(rule, day))
    ),
    st.one_of(
        st.just("L"),
        st.integers(1, 7).map("{}L".format),
        st.tuples(st.integers(1, 7), st.integers(1, 5)).map(lambda p: f"{p[0]}#{p[1]}"),
    ).map(lambda rule: ("?", rule, lambda day: of_the_week(rule, day))),
)
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]


@settings(max_examples=40)
@given(
    minutes=field(0, 59), hours=field(0, 23), days=st.one_of(NUMBERED, NAMED), months=field(1, 12),
    zone=st.sampled_from(ZONES), start=st.integers(0, 366 * 1440), seconds=st.integers(0, 59),
)  # fmt: skip
def test_cron_is_what_a_scan_of_every_minute_finds(
    minutes, hours, days, months, zone, start, seconds
):
    after = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=start, seconds=seconds)
    month_days, week_days, fits = days
    text = f"cron({minutes[0]} {hours[0]} {month_days} {months[0]} {week_days} *)"
    try:
        found = parse(text, zone).next_after(after)
    except ValueError as error:
        assert "never runs" in str(error)
        found = None
    clock, moment = ZoneInfo(zone), after.replace(second=0)
    for _ in range(2 * 1440):
        moment += timedelta(minutes=1)
        wall = moment.astimezone(clock)
        if (
            wall.minute in minutes[1] and wall.hour in hours[1] and wall.month in months[1]
            and not wall.fold and fits(wall)
        ):  # fmt: skip
            assert found == moment
            return
    assert found is None or found > moment


@settings(max_examples=100)
@given(days=NAMED, start=st.integers(0, 400 * 366))
def test_named_days_are_what_a_scan_of_every_day_finds(days, start):
    day = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=min(start, 229 * 365))
    month_days, week_days, fits = days
    found = parse(f"cron(0 0 {month_days} * {week_days} *)").next_after(day)
    day += timedelta(days=1)
    while not fits(day):
        day += timedelta(days=1)
    assert found == day or (found is None and day.year > 2199)
