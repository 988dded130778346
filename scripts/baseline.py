"""What monitors compare with: the model's answers to the held-out candidates.

    python scripts/baseline.py

    evaluation/baselines/data-quality.csv    label,probability and the features, as they are captured
    evaluation/baselines/model-quality.csv   label,probability and what is true

Held-out candidates, for of those that it was trained on the model is surer than it will ever be of new
ones. The monitors of bias and explainability ask the model themselves: theirs is
data/prepared/baseline.csv.
"""

import argparse

import pandas as pd

from candidates.tables import FEATURES, LABEL
from common.errors import run
from common.files import BASELINES, HOLDOUT, write_atomically
from common.output import say

ANSWER = ["label", "probability"]
COLUMNS = {
    "data-quality": [*ANSWER, *FEATURES],
    "model-quality": [*ANSWER, LABEL],
}


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    held_out = pd.read_csv(HOLDOUT).rename(columns={"prediction": "label"})
    for name, columns in COLUMNS.items():
        text = held_out[columns].to_csv(index=False, lineterminator="\n")
        write_atomically(BASELINES / f"{name}.csv", text)
    say(
        f"baseline: {len(held_out)} held-out candidates, for the monitors of data and model quality"
    )
    return 0


if __name__ == "__main__":
    run(main)
