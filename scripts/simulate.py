"""Simulate pulsar-survey candidates: HTRU2's eight numbers from the physics of a candidate.

    python scripts/simulate.py --pulsars 1639 --others 16259 -o candidates.csv
    python scripts/simulate.py --accident rfi_storm --others 5000 -o storm.csv

The survey is that of params.yaml.
What a classifier learns here it can use on real candidates: `--score-on HTRU_2.csv` trains on
simulated candidates alone and scores the real ones.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from candidates import files, htru2
from candidates.simulator import CHANGES, Survey, befallen, simulate
from common.errors import UserError, run
from common.files import write_atomically
from common.output import print_json, say
from common.params import load_params
from learning import estimators


def score_on(path: Path) -> dict:
    """Train the default estimator on simulated candidates alone and score a real file."""
    params = load_params()
    features, classes = simulate(
        htru2.PULSARS,
        htru2.ROWS - htru2.PULSARS,
        params["data"]["seed"],
        Survey(**params["survey"]),
    )
    classifier = estimators.fit(estimators.build(params["train"]), features, classes)
    data = files.labelled(*files.read(path), path.name)
    probability = classifier.predict_proba(data[:, :8])[:, 1]
    return {
        "roc_auc": float(roc_auc_score(data[:, 8], probability)),
        "average_precision": float(average_precision_score(data[:, 8], probability)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pulsars", type=int, default=htru2.PULSARS)
    parser.add_argument("--others", type=int, default=htru2.ROWS - htru2.PULSARS)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--accident", choices=sorted(CHANGES), help="what befell the survey")
    parser.add_argument("-o", "--output", type=Path, help="a CSV file; default: standard output")
    parser.add_argument(
        "--score-on", type=Path, metavar="FILE",
        help="instead: train on simulated candidates alone, score the real ones in FILE",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="with --score-on: as JSON")
    arguments = parser.parse_args()
    if arguments.score_on:
        if not arguments.score_on.is_file():
            raise UserError(f"{arguments.score_on} does not exist", "make train")
        score = score_on(arguments.score_on)
        if arguments.json:
            print_json(score)
        else:
            print("trained on simulated candidates alone, scored on", arguments.score_on)
            print(f"  ROC-AUC            {score['roc_auc']:.3f}")
            print(f"  average precision  {score['average_precision']:.3f}")
        return 0
    if min(arguments.pulsars, arguments.others) < 0 or arguments.pulsars + arguments.others == 0:
        raise UserError("at least one candidate is needed", "--pulsars and --others are counts")
    survey = Survey(**load_params()["survey"])
    if arguments.accident:
        survey = befallen(survey, arguments.accident)
    features, classes = simulate(arguments.pulsars, arguments.others, arguments.seed, survey)
    text = htru2.to_csv(np.column_stack([features, classes]))
    if arguments.output:
        write_atomically(arguments.output, text)
        say(f"simulate: {len(classes)} candidates in {arguments.output}")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    run(main)
