"""How far metrics stray by chance in a window: what a baseline leaves room for.

SageMaker's own baselines leave none, so that of a dozen metrics one is worse than its limit in nearly
every window in which nothing has happened. Ours draw windows from the baseline's rows and see.

The rooms of all metrics are found together, for one of them is enough for a false alarm. Each is so many
times what its metric strays by, and the factor, the same for all, is the least with which none of DRAWN windows
alarms: so the next window does in about one case of DRAWN + 1, however many metrics there are, however they hang
together, and be they far from normal (the max-T of Westfall and Young). What rare events do to a metric does
not shrink by the square root of the rows, so windows of several sizes are drawn.
"""

import numpy as np

WINDOWS = (30, 300, 3000)  # rows
DRAWN = 100  # of each
UNSEEN = 1.0  # row more of each class, shared by the answers to it: of two, Jeffreys' prior
SEED = 7


def rooms(populations):
    """By metric its room, a dict of numbers by how many rows (as text, for JSON) a window has.

    `populations`: pairs of what measures a window, and the weights (n,) of the rows that it is drawn from. The
    first maps places in those rows to how far beyond the baseline each metric is, by name: above 0 where it is
    worse. A metric that is infinite in some windows, or undefined in most, has the room "Infinity": nothing
    follows from it.
    """
    random = np.random.RandomState(SEED)
    found = {}
    for rows in WINDOWS:
        drawn = [{} for _ in range(DRAWN)]
        for measure, weights in populations:
            for strayed in drawn:
                strayed.update(measure(window(random, weights, rows)))
        for name, room in together(drawn).items():
            found.setdefault(name, {})[str(rows)] = room if np.isfinite(room) else "Infinity"
    return found


def window(random, weights, rows):
    """Places of a window's rows. The baseline is a sample, too: so a window is of a sky of its own, whose shares
    are drawn from those that the baseline leaves possible (the Bayesian bootstrap)."""
    shares = random.standard_gamma(weights)  # Dirichlet's, but for the sum
    return random.choice(len(weights), rows, p=shares / shares.sum())


def together(drawn):
    """By metric the room with which none of the drawn windows alarms."""
    names = list(dict.fromkeys(name for each in drawn for name in each))
    strayed = np.array([[each.get(name, np.nan) for name in names] for each in drawn], dtype=float)
    known = ~np.isnan(strayed)
    judged = (2 * known.sum(axis=0) >= len(drawn)) & ~np.isinf(strayed).any(axis=0)
    worse = np.where(known & judged, np.maximum(strayed, 0), 0)
    scale = np.sqrt((worse**2).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
    factor = (worse / np.where(scale > 0, scale, 1)).max(initial=0)
    return {
        name: float(room) for name, room in zip(names, np.where(judged, factor * scale, np.inf))
    }


def in_window(room, rows):
    """The room that a window of so many rows has, of the rooms by size: between two of them by 1 / sqrt(rows),
    above the largest no less than that has, below the smallest no end of it."""
    if rows < WINDOWS[0]:
        return float("inf")
    sizes = sorted(map(int, room), reverse=True)
    places = [size**-0.5 for size in sizes]
    return float(np.interp(rows**-0.5, places, [float(room[str(size)]) for size in sizes]))


def words(rows):
    """What a reader has to know of limits with room, in a window of so many rows."""
    if rows < WINDOWS[0]:
        return (
            f"Nothing is compared: {WINDOWS[0]} candidates are the fewest that a limit is made for."
        )
    return (
        f"The limits leave room for what chance does in a window of {rows}: about one of {DRAWN} in which "
        "nothing has happened is beyond any of them."
    )
