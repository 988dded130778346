"""What in a table lies outside of what a model was trained on, and which model its candidates are for.

There are two. `eight` knows all features. `six` does without the mean and the deviation of the DM
curve, which have the unit of whoever made the curve: HTRU's is S/N of 8 bits over DM 0 to 1000, that
of a .pfd file a reduced chi^2 over a few DM. Skewness and kurtosis have no unit.
"""

import numpy as np

from candidates.tables.names import FEATURES

EIGHT, SIX = "eight", "six"
SCALED = slice(4, 6)  # dm_mean, dm_std
COLUMNS = {EIGHT: list(range(8)), SIX: [0, 1, 2, 3, 6, 7]}
MARGIN = 2.0  # how many times beyond the trained range is another scale


def ranges_of(values):
    """The least and the most of each feature in values (n, 8): {name: [least, most]}."""
    ends = np.column_stack([values.min(axis=0), values.max(axis=0)])
    return dict(zip(FEATURES, ends.tolist()))


def ends_of(ranges):
    """The same as an array (2, 8): the least of each feature, and the most."""
    return np.array([ranges[name] for name in FEATURES]).T


def choose(values, ends):
    """EIGHT or SIX: the model for all of the values (n, 8), by the trained ranges, an array (2, 8).

    SIX where more than half of the rows have a mean or a deviation of the DM curve below half of the
    least, or above twice the most, that EIGHT was trained on. It is one answer for a whole table, read
    off its opening rows, or for a request: a bright pulsar's curve may well deviate by as much as
    HTRU's do, and by its own row nobody could tell that the unit is another.
    """
    least, most = ends[:, SCALED]
    scaled = values[:, SCALED]
    foreign = ((scaled < least / MARGIN) | (scaled > most * MARGIN)).any(axis=1)
    return SIX if 2 * np.count_nonzero(foreign) > len(values) else EIGHT


class Outside:
    """How many of the rows seen lie outside of the trained ranges, in which feature, and how far."""

    def __init__(self, ends):
        self._ends, self._rows = ends, 0
        self._beyond = np.zeros((2, 8), int)  # below the least, above the most
        self._farthest = ends.copy()

    def see(self, values):
        """Count values (n, 8)."""
        self._rows += len(values)
        if len(values):
            farthest = np.array([values.min(axis=0), values.max(axis=0)])
            least, most = self._ends
            if (farthest[0] < least).any() or (farthest[1] > most).any():
                self._beyond += [(values < least).sum(axis=0), (values > most).sum(axis=0)]
                self._farthest[0] = np.minimum(self._farthest[0], farthest[0])
                self._farthest[1] = np.maximum(self._farthest[1], farthest[1])
        return self

    def found(self):
        """A dict for each feature and side with rows outside, in the order of the features."""
        return [
            {
                "feature": FEATURES[column],
                "candidates": int(self._beyond[side, column]),
                "of": self._rows,
                "side": ("below", "above")[side],
                "trained": float(self._ends[side, column]),
                "farthest": float(self._farthest[side, column]),
            }
            for column in range(8)
            for side in (0, 1)
            if self._beyond[side, column]
        ]

    def told(self):
        return told(self.found())


def together(found, rows):
    """What several Outsides have found, as one that has seen all of their rows."""
    sums = {}
    for each in found:
        key = FEATURES.index(each["feature"]), each["side"] == "above"
        one = sums.setdefault(key, {**each, "of": rows, "candidates": 0})
        one["candidates"] += each["candidates"]
        farther = max if each["side"] == "above" else min
        one["farthest"] = farther(one["farthest"], each["farthest"])
    return [sums[key] for key in sorted(sums)]


def told(found):
    """What an Outside has found, as sentences."""
    return [
        "{feature}: {candidates} of {of} {side} what the model was trained on, {trained:.4g}; the farthest "
        "is {farthest:.4g}".format(**each)
        for each in found
    ]
