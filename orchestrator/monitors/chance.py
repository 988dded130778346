"""How far a metric strays by chance in a window: what a baseline leaves room for.

SageMaker's own baselines leave none, so that of a dozen metrics one is worse than its limit in nearly
every window in which nothing has happened. Ours draw windows from the baseline's rows and see.
"""

import numpy as np

WINDOW_ROWS = 1000  # of the windows that a baseline's limits are made for
DRAWN = 100
DEVIATIONS = 3.0  # one metric in 700 is beyond that by chance
SEED = 7


def margins(measure, rows):
    """By metric its room: DEVIATIONS times what it varies by between windows of WINDOW_ROWS rows.

    `measure` maps places in a baseline of `rows` rows to a dict of numbers. The baseline is one draw,
    too, and counts with its own size. A metric that is infinite in some windows, or undefined in most,
    has infinite room: nothing follows from it.
    """
    random = np.random.RandomState(SEED)
    drawn = [measure(random.randint(0, rows, WINDOW_ROWS)) for _ in range(DRAWN)]
    scale = DEVIATIONS * (1 + WINDOW_ROWS / rows) ** 0.5
    names = dict.fromkeys(name for each in drawn for name in each)
    return {
        name: scale * spread(np.array([each.get(name, np.nan) for each in drawn], dtype=float))
        for name in names
    }


def widened(rows):
    """How many times the room a window has that is smaller than the limits are made for."""
    return max(1.0, (WINDOW_ROWS / rows) ** 0.5)


def words(rows):
    """What a reader has to know of limits with room, in a window of so many rows."""
    told = f"The limits leave room for what chance does in windows of {WINDOW_ROWS} candidates or more."
    if rows < WINDOW_ROWS:
        told += f" This one has {rows}, and so {widened(rows):.1f} times the room."
    return told


def spread(values):
    """The standard deviation of numbers of which some are undefined."""
    known = values[~np.isnan(values)]
    if 2 * len(known) < len(values) or not np.isfinite(known).all():
        return float("inf")
    return float(known.std())
