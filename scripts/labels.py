"""Make a training table of what people said of candidates in CandyJar.

    python scripts/labels.py vetted_full.csv ranked.csv -o labelled.csv
    HTRU2=labelled.csv make train

The first file is what CandyJar saved (either of its two), the second the list that the sheets were drawn
from: it has the features. T1_CAND, KNOWN_PSR and NB_PSR become pulsars, RFI and NOISE others; T2_CAND and
UNCAT are undecided, and left out.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from candidates import candyjar, htru2
from common.errors import run
from common.files import write_atomically
from common.output import say
from sheets import wanted


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    expanded = os.path.expanduser
    parser.add_argument("labels", type=expanded, help="what CandyJar saved")
    parser.add_argument("list", type=expanded, help="the ranked list that was drawn")
    parser.add_argument("-o", "--output", type=expanded, required=True, help="a table")
    arguments = parser.parse_args()
    said = candyjar.labels(Path(arguments.labels))
    drawn = {one.name: one.row for one in wanted([arguments.list], None)}
    rows = np.array(candyjar.training(said, drawn))
    write_atomically(Path(arguments.output), htru2.to_csv(rows))
    say(
        f"labels: {len(rows)} candidates, {int(rows[:, 8].sum())} pulsars, in {arguments.output}; "
        f"{len(said) - len(rows)} undecided ones were left out"
    )


if __name__ == "__main__":
    run(main)
