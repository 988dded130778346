"""What a front counts of the predictions that it hands on, for CloudWatch's metrics.

Counting is a few additions in memory. Every `WRITE_SECONDS` what was counted since becomes a file in
`metrics/`, there whole or not at all, which the journal adds to what it has. So a front that is
killed takes along what it has counted in these seconds, and no more; one that is stopped, nothing.

The counts of an endpoint's variant in a minute:

    answers, errors4, errors5      how many
    model, overhead                microseconds: {"sum": …, "least": …, "most": …, "by": {bucket: count}}

Bucket b holds values in (STEP^(b-1), STEP^b], so that a percentile is right to one per cent.
"""

import contextlib
import json
import math
import os
import time
import uuid
from pathlib import Path

WRITE_SECONDS = 2
STEP = 1.02
PER_STEP = 1 / math.log(STEP)
NUMBERS = ("answers", "errors4", "errors5")
TIMES = ("model", "overhead")


class Tally:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: dict[tuple[str, str, int], dict] = {}

    def count(
        self, endpoint: str, variant: str, status: int, came: float, asked: float
    ) -> None:  # fmt: skip
        """One answer, just now: `status` is the model's, 0 for none. The request `came` and the model
        was `asked` at these times of time.perf_counter."""
        now = time.perf_counter()
        key = (endpoint, variant, int(time.time()) // 60 * 60)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = _nothing()
        counts["answers"] += 1
        if not 200 <= status < 400:
            counts["errors4" if 400 <= status < 500 else "errors5"] += 1
        _add(counts["model"], (now - asked) * 1e6)
        _add(counts["overhead"], (asked - came) * 1e6)

    def write(self) -> None:
        """Hand over what was counted; on a full disk it is kept until the next time."""
        if not self._counts:
            return
        counted = [[*key, counts] for key, counts in self._counts.items()]
        path = self._folder / f"{uuid.uuid4().hex}.new"
        try:
            path.write_text(json.dumps(counted))
            os.rename(path, path.with_suffix(".json"))
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
            return
        self._counts = {}


def _nothing() -> dict:
    times = {name: {"sum": 0.0, "least": math.inf, "most": 0.0, "by": {}} for name in TIMES}
    return dict.fromkeys(NUMBERS, 0) | times


def _add(times: dict, value: float) -> None:
    times["sum"] += value
    if value < times["least"]:
        times["least"] = value
    if value > times["most"]:
        times["most"] = value
    by, bucket = times["by"], math.ceil(math.log(value) * PER_STEP) if value > 1 else 0
    by[bucket] = by.get(bucket, 0) + 1


def merged(all_counts: list[dict]) -> dict:
    """Counts of several minutes, or from several fronts, as one; buckets may be text, as JSON has them."""
    total = _nothing()
    for counts in all_counts:
        for name in NUMBERS:
            total[name] += counts[name]
        for name in TIMES:
            into, times = total[name], counts[name]
            into["sum"] += times["sum"]
            into["least"] = min(into["least"], times["least"])
            into["most"] = max(into["most"], times["most"])
            for bucket, number in times["by"].items():
                into["by"][int(bucket)] = into["by"].get(int(bucket), 0) + number
    return total


def percentile(times: dict, share: float) -> float:
    """The value that this share (0 to 1) of them does not exceed."""
    buckets = sorted((int(bucket), number) for bucket, number in times["by"].items())
    left = share * sum(number for _, number in buckets)
    for bucket, number in buckets:
        left -= number
        if left <= 0:
            return min(max(STEP ** (bucket - 0.5), times["least"]), times["most"])
    return times["most"]
