"""Train the two classifiers and choose their decision thresholds, on the training split alone.

    python scripts/train.py            # or: dvc exp run -S train.estimator=random_forest

Writes models/model_pulsar.joblib, a plain scikit-learn estimator with predict_proba of the eight
features; models/model_six.joblib, the same without the DM curve's mean and deviation, for curves of
another scale; and models/model.json: their thresholds, from out-of-fold probabilities, the range of each
feature in training, and what made the models.
"""

import argparse
import io
import platform

import joblib
import numpy as np
import sklearn

from candidates.htru2 import load
from candidates.tables import COLUMNS, EIGHT, FEATURES, SIX, ranges_of
from common import files
from common.errors import run
from common.files import CARD, JOBLIB, PREPARED, SOURCE, read_json, write_atomically, write_json
from common.output import say
from common.params import load_params
from learning.estimators import build, choose_threshold, fit, lean, out_of_fold

PLACES = {EIGHT: JOBLIB, SIX: files.SIX}


def learn(name: str, params: dict, features: np.ndarray, classes: np.ndarray) -> dict:
    """Train one of the models and write it; its features and its threshold."""
    columns, estimator = COLUMNS[name], build(params)
    model = lean(fit(estimator, features[:, columns], classes))
    probability = out_of_fold(
        estimator, features[:, columns], classes, params["threshold_folds"], params["seed"]
    )
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    write_atomically(PLACES[name], buffer.getvalue())
    return {
        "features": [FEATURES[column] for column in columns],
        "threshold": choose_threshold(classes, probability, params["threshold"], params["max_fpr"]),
    }


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    params = load_params()["train"]
    features, classes = load(PREPARED / "train.csv")
    say(f"train: {params['estimator']} on {len(classes)} candidates, of eight features and of six")
    learned = {name: learn(name, params, features, classes) for name in PLACES}
    source = read_json(SOURCE, "make train")
    write_json(
        CARD,
        {"estimator": params["estimator"]}
        | learned[EIGHT]
        | {
            "six": learned[SIX],
            "ranges": ranges_of(features),
            "data": source,
            "versions": {
                "python": platform.python_version(),
                "scikit-learn": sklearn.__version__,
                "numpy": np.__version__,
                "joblib": joblib.__version__,
            },
        },
    )
    kind = "SIMULATED data" if source["simulated"] else source["source"]
    eight, six = (learned[name]["threshold"] for name in (EIGHT, SIX))
    say(
        f"train: thresholds {eight:.4f} and {six:.4f} by {params['threshold']} on out-of-fold {kind}"
    )
    return 0


if __name__ == "__main__":
    run(main)
