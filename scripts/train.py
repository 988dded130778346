"""Train the classifier and choose its decision threshold, both on the training split alone.

    python scripts/train.py            # or: dvc exp run -S train.estimator=random_forest

Writes models/model_pulsar.joblib, a plain scikit-learn estimator with predict_proba, and
models/model.json: the threshold, from out-of-fold probabilities, and what made the model.
"""

import argparse
import io
import platform

import joblib
import numpy as np
import sklearn

from candidates.htru2 import load
from candidates.tables import FEATURES
from common.errors import run
from common.files import CARD, JOBLIB, PREPARED, SOURCE, read_json, write_atomically, write_json
from common.output import say
from common.params import load_params
from learning.estimators import build, choose_threshold, fit, out_of_fold


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    params = load_params()["train"]
    features, classes = load(PREPARED / "train.csv")
    estimator = build(params)
    say(f"train: {params['estimator']} on {len(classes)} candidates")
    model = fit(estimator, features, classes)
    probability = out_of_fold(
        estimator, features, classes, params["threshold_folds"], params["seed"]
    )
    threshold = choose_threshold(classes, probability, params["threshold"], params["max_fpr"])
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    write_atomically(JOBLIB, buffer.getvalue())
    source = read_json(SOURCE, "make train")
    write_json(
        CARD,
        {
            "estimator": params["estimator"],
            "features": FEATURES,
            "threshold": threshold,
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
    say(f"train: threshold {threshold:.4f} by {params['threshold']} on out-of-fold {kind}")
    return 0


if __name__ == "__main__":
    run(main)
