"""Which captured records belong to a run: every one to exactly one run of a schedule.

A run's window ends at its scheduled time, a whole second, and begins where the schedule's last run
ended; records are chosen by their inferenceTime, half-open: start <= time < end. Captured files come
late: an endpoint collects for a while, and after a breakdown for hours. So

* a run waits until SETTLE seconds after its window's end before it looks,
* it looks at the objects that S3 had LOOKED seconds before then, and writes that moment down
  (`listed_time` in window.json beside its results),
* an object that came after the last run looked gives all its records before the window's end,
  however old; one that the last run has seen gives those of the window alone.

Nothing is missed that arrives within a day, and nothing counted twice. Where offsets are given, as for
labels that come late, the window is [scheduled time - start, scheduled time - end) as in SageMaker,
and successive windows may share records.
"""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from .frame import Refused, needed

# Seconds until what was captured is in S3; AWS collects for a minute.
SETTLE_AT_HOME, SETTLE = 10, 120
LOOKED = 2  # seconds that an object may take to be listed
LATE = timedelta(days=1)
USUAL_MAX_DAYS = 7
FETCHES = 4  # objects at once: they are small, and S3 far away
OFFSET = re.compile(r"-?P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?)?")
HOUR = re.compile(r"/(\d{4}/\d\d/\d\d/\d\d)/[^/]+\.jsonl$")


class Window(NamedTuple):
    """The times of a run; datetimes are UTC."""

    start: datetime
    end: datetime
    scheduled: datetime
    seen: datetime  # what came to S3 from then on is new to this schedule
    listed: datetime  # what came from then on is left to the next run


def text(moment):
    """A moment as captured records have it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(words, name):
    """A moment from ISO text; raises Refused."""
    try:
        found = datetime.fromisoformat(words.replace("Z", "+00:00"))
    except ValueError:
        raise Refused(f"{name} is {words}, not a time in ISO 8601") from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=timezone.utc)
    return found.astimezone(timezone.utc).replace(microsecond=0)


def offset(words, name):
    """`-PT7H`, `-P1D`: how long before the scheduled time; raises Refused."""
    match = OFFSET.fullmatch(words)
    if not match or not any(match.groups()):
        raise Refused(f"{name} is {words}, not a duration such as -PT7H or -P1D")
    days, hours, minutes = (int(part or 0) for part in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes)


def place(settings, name):
    """Bucket and prefix of an s3:// setting, the prefix without a slash at its end; raises Refused."""
    value = needed(settings, name)
    bucket, _, prefix = value.partition("://")[2].partition("/")
    if not value.startswith("s3://") or not bucket:
        raise Refused(f"{name} is {value}, not s3://bucket/prefix")
    return bucket, prefix.strip("/")


def choose(s3, settings):
    """The window of this run; waits until what belongs to it has arrived."""
    now = datetime.now(timezone.utc).replace(microsecond=0)
    given = settings.get("scheduled_time")
    scheduled = min(now, moment(given, "scheduled_time")) if given else now
    settle = SETTLE_AT_HOME if os.environ.get("AWS_ENDPOINT_URL") else SETTLE
    earliest = scheduled - timedelta(days=max_days(settings))
    if settings.get("start_time_offset"):
        start = scheduled - offset(settings["start_time_offset"], "start_time_offset")
        end = scheduled - offset(settings.get("end_time_offset") or "-P0D", "end_time_offset")
        if start >= end:
            raise Refused("start_time_offset is not longer ago than end_time_offset")
        seen = datetime.max.replace(tzinfo=timezone.utc)
    else:
        last = last_run(s3, settings)
        end = scheduled
        start = max(earliest, moment(last["end_time"], "end_time")) if last else earliest
        seen = moment(last["listed_time"], "listed_time") if last else earliest
        if start >= end:
            raise Refused("Job inputs had no data")
    time.sleep(max(0, (end - datetime.now(timezone.utc)).total_seconds() + settle))
    listed = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(seconds=LOOKED)
    return Window(start, end, scheduled, seen, listed)


def max_days(settings):
    value = settings.get("max_window_days") or str(USUAL_MAX_DAYS)
    try:
        days = float(value)
    except ValueError:
        days = 0
    if not 0 < days <= 3650:
        raise Refused(f"max_window_days is {value}, not a number of days")
    return days


# -- what lies in S3 ------------------------------------------------------------------


def last_run(s3, settings):
    """The newest window.json of this schedule, None before its first run."""
    bucket, prefix = place(settings, "results")
    key = newest(s3, bucket, prefix + "/" if prefix else "", 4)
    return json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) if key else None


def newest(s3, bucket, prefix, levels):
    """The key of the newest window.json, `levels` folders (yyyy/mm/dd/hh) below a prefix, or None."""
    if levels == 0:
        found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix + "window.json")
        return prefix + "window.json" if found["KeyCount"] else None
    dates = [found for found in folders(s3, bucket, prefix) if found[len(prefix) : -1].isdigit()]
    for folder in sorted(dates, reverse=True):
        key = newest(s3, bucket, folder, levels - 1)
        if key:
            return key
    return None


def folders(s3, bucket, prefix):
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=prefix, Delimiter="/"
    )
    return [found["Prefix"] for page in pages for found in page.get("CommonPrefixes", ())]


def captures(s3, settings, window):
    """What was captured, an object at a time: its name, its bytes, and from which inferenceTime on
    its records belong to the window."""
    bucket, prefix = place(settings, "dataset_source")
    endpoint = "/".join(filter(None, [prefix, needed(settings, "sagemaker_endpoint_name")])) + "/"
    found = [
        item
        for variant in folders(s3, bucket, endpoint)
        for item in listed(s3, bucket, variant, window)
    ]
    with ThreadPoolExecutor(FETCHES) as pool:
        for start in range(0, len(found), FETCHES):
            batch = found[start : start + FETCHES]
            bodies = pool.map(lambda item: fetched(s3, bucket, item[0]), batch)
            for (key, since), body in zip(batch, bodies):
                yield f"s3://{bucket}/{key}", body, since


def fetched(s3, bucket, key):
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def listed(s3, bucket, variant, window):
    """Key and first inferenceTime of each object of a variant that may hold records of the window."""
    first = variant + (window.start - LATE).strftime("%Y/%m/%d/%H")
    last = window.end.strftime("%Y/%m/%d/%H")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=variant, StartAfter=first
    )
    for item in (item for page in pages for item in page.get("Contents", ())):
        hour = HOUR.search(item["Key"])
        if not hour:
            continue
        if hour.group(1) > last:
            return
        since = taken_since(item["LastModified"], window)
        if since is not None:
            yield item["Key"], since


def taken_since(came, window):
    """From which inferenceTime on the records of an object that came to S3 then are the window's.

    None where none of them is. S3 tells whole seconds.
    """
    if came >= window.listed:
        return None
    if came >= window.seen:
        return ""
    if came + timedelta(seconds=1) < window.start:
        return None  # captured before it came, so before the window
    return text(window.start)
