"""What the numbers of a table give away: names exchanged, features standardised, another kurtosis.

The proof is a bound that no sample can break: excess kurtosis >= skewness^2 - 2 (Pearson 1916).
"""

import numpy as np

from candidates.tables import names
from candidates.tables.dialect import BadTable

MOMENTS = [("profile", 2, 3), ("dm", 6, 7)]  # where skewness and excess kurtosis are
EXCHANGED = [0, 1, 3, 2, 4, 5, 7, 6]
BOUND_SLACK = 1e-6  # files round to some ten digits
HANDFUL = 5  # rows that may be impossible without the table being misread
TELLING = 10  # rows from which on Pearson's kurtosis shows
EXCESS, PEARSON = "excess", "pearson"


def bound_excess(values, skewness, kurtosis):
    """How far excess kurtosis (n,) is above its bound, relative to the size of the numbers."""
    bound = values[:, skewness] ** 2 - 2
    return (values[:, kurtosis] - bound) / (1 + np.abs(bound))


def below_bound(values, skewness, kurtosis):
    """The number of rows that no sample can be."""
    return int((bound_excess(values, skewness, kurtosis) < -BOUND_SLACK).sum())


def allowed(rows):
    """How many of so many rows may be impossible before the table is taken for misread."""
    return min(HANDFUL, rows / 10)


def orient(found, values):
    """The values (n, 8) with skewness and kurtosis exchanged where the columns' names have them the
    wrong way round; `found` is changed accordingly.

    The published names do, unless the numbers say that somebody has put them right. Others mean what
    they say, unless the numbers say that they were made from the published ones; ours always do.
    """
    titles = [found.title(column) for column in found.features]
    if not found.names or names.are_ours(titles):
        return values
    most = allowed(len(values))
    fits_as_named = sum(below_bound(values, s, k) for _, s, k in MOMENTS) <= most
    fits_exchanged = sum(below_bound(values, k, s) for _, s, k in MOMENTS) <= most
    if names.are_published(titles):
        keep = fits_as_named and not fits_exchanged
    else:
        keep = fits_as_named or not fits_exchanged
    if keep:
        return values
    found.features = [found.features[place] for place in EXCHANGED]
    found.notes.append(
        "skewness and kurtosis are named the wrong way round, as in the published table"
    )
    return values[:, EXCHANGED]


def judge(found, values, kurtosis=None):
    """Refuse values (n, 8) that are not the raw features of candidates; BadTable says what they are.

    `kurtosis` says which one the table has, where somebody knows: EXCESS, or PEARSON, 3 more, which
    `found` then remembers.
    """
    most = allowed(len(values))
    if (values[:, [0, 1, 4, 5]] < 0).any(axis=1).sum() > most:
        raise BadTable(
            "means or standard deviations below 0: these are standardised features; give the raw ones, "
            "the model scales them itself"
        )
    if len(values) > HANDFUL and (values[:, :2] <= 1).all():
        raise BadTable(
            "no profile has a mean or a standard deviation above 1: these are scaled features; give the "
            "raw ones, the model scales them itself"
        )
    for what, s, k in MOMENTS:
        count = below_bound(values, s, k)
        if count > most:
            hint = "" if below_bound(values, k, s) > most else ": kurtosis and skewness swapped?"
            raise BadTable(
                f"{what}_kurtosis is below {what}_skewness^2 - 2, which no sample can be, in {count} of "
                f"{len(values)} rows{hint}"
            )
    _judge_kurtosis(found, values, kurtosis)


def _judge_kurtosis(found, values, kurtosis):
    """Pearson's is never below skewness^2 + 1; of excess kurtoses most are."""
    below = sum(below_bound(values - np.eye(8)[k] * 3, s, k) for _, s, k in MOMENTS)
    if kurtosis == PEARSON:
        if below > allowed(len(values)):
            raise BadTable(
                f"kurtosis is below skewness^2 + 1 in {below} places, which Pearson's cannot be"
            )
        found.excess = 3.0
        found.notes.append("kurtosis is Pearson's, as was said: 3 is taken from it")
    elif kurtosis is None and len(values) >= TELLING and not below:
        raise BadTable(
            "kurtosis is nowhere below skewness^2 + 1: this looks like Pearson's kurtosis, 3 more than "
            "the excess kurtosis that the model knows; say which it is: --kurtosis pearson or excess"
        )
