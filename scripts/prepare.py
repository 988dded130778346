"""Split the candidates: a stratified, seeded hold-out that training never sees.

    python scripts/prepare.py

Writes below data/prepared: train.csv and test.csv, the baseline that the monitors will
compare live traffic with (with the class, and the features alone), and examples.csv, one
pulsar and one piece of noise from the hold-out, each the most typical of its class.
The file is not shuffled, so an unshuffled split would be wrong.
"""

import argparse

import numpy as np
from sklearn.model_selection import train_test_split

from candidates.htru2 import load, to_csv
from candidates.tables import FEATURES, LABEL
from common.errors import run
from common.files import CANDIDATES, PREPARED, write_atomically
from common.output import say
from common.params import load_params


def most_typical(features: np.ndarray, classes: np.ndarray) -> list[int]:
    """The row of a pulsar and of another candidate nearest to the median of its class."""
    chosen = []
    for label in (1, 0):
        rows = np.flatnonzero(classes == label)
        ranks = features[rows].argsort(axis=0).argsort(axis=0) / len(rows)
        chosen.append(int(rows[np.abs(ranks - 0.5).sum(axis=1).argmin()]))
    return chosen


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    params = load_params()["prepare"]
    features, classes = load(CANDIDATES)
    data = np.column_stack([features, classes])
    train, test = train_test_split(
        data, test_size=params["test_share"], random_state=params["seed"], stratify=classes
    )
    write_atomically(PREPARED / "train.csv", to_csv(train))
    write_atomically(PREPARED / "test.csv", to_csv(test))
    # SageMaker's baselining wants the label first, or the features alone; both with a header.
    labelled = np.column_stack([train[:, 8], train[:, :8]])
    lines = [",".join([LABEL, *FEATURES])]
    lines += [",".join([f"{row[0]:.0f}", *map(repr, map(float, row[1:]))]) for row in labelled]
    write_atomically(PREPARED / "baseline.csv", "\n".join(lines) + "\n")
    examples = test[most_typical(test[:, :8], test[:, 8])]
    write_atomically(PREPARED / "examples.csv", to_csv(examples))
    say(
        f"prepare: {len(train)} candidates to train on ({int(train[:, 8].sum())} pulsars), "
        f"{len(test)} held out ({int(test[:, 8].sum())} pulsars)"
    )
    return 0


if __name__ == "__main__":
    run(main)
