"""The estimators that params.yaml can name, and how a decision threshold is chosen.

networks            a soft vote of small neural networks on two scalings (the default)
gradient_boosting   histogram gradient boosting
logistic            logistic regression on power-transformed features
random_forest       the original project's model: 10 trees
"""

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve, roc_curve
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler


def _networks(params: dict, seed: int):
    kinds = {"power": PowerTransformer, "standard": StandardScaler}
    members = []
    for kind, scaler in kinds.items():
        settings = params[kind]
        for number in range(params["seeds"]):
            network = MLPClassifier(
                (settings["hidden"],),
                activation=settings["activation"],
                alpha=settings["alpha"],
                max_iter=settings["epochs"],
                batch_size=settings["batch"],
                learning_rate_init=settings["learning_rate"],
                random_state=seed + number,
            )
            members.append((f"{kind}_{number}", make_pipeline(scaler(), network)))
    return VotingClassifier(members, voting="soft")


def _gradient_boosting(params: dict, seed: int):
    return HistGradientBoostingClassifier(
        learning_rate=params["learning_rate"],
        max_iter=params["iterations"],
        max_leaf_nodes=params["leaves"],
        l2_regularization=params["l2"],
        random_state=seed,
    )


def _logistic(params: dict, seed: int):
    return make_pipeline(PowerTransformer(), LogisticRegression(C=params["C"], max_iter=2000))


def _random_forest(params: dict, seed: int):
    return RandomForestClassifier(params["n_estimators"], random_state=seed)


ESTIMATORS: dict[str, Callable] = {
    "networks": _networks,
    "gradient_boosting": _gradient_boosting,
    "logistic": _logistic,
    "random_forest": _random_forest,
}


def build(params: dict, name: str | None = None):
    """The unfitted estimator of the `train` section, or another of its estimators by name."""
    name = name or params["estimator"]
    return ESTIMATORS[name](params[name], params["seed"])


def fit(estimator, features: np.ndarray, classes: np.ndarray):
    """Fit a fresh copy; the networks train for a fixed number of epochs, on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return clone(estimator).fit(features, classes)


def lean(model):
    """A fitted estimator without what its networks keep to be trained further: two thirds of them."""
    for pipeline in getattr(model, "estimators_", ()):
        network = getattr(pipeline, "steps", [(None, None)])[-1][1]
        if isinstance(network, MLPClassifier):
            for kept in ("_optimizer", "_random_state", "_best_coefs", "_best_intercepts"):
                vars(network).pop(kept, None)
    return model


def out_of_fold(estimator, features, classes, folds: int, seed: int) -> np.ndarray:
    """The probability of each row from a model that did not see it."""
    probability = np.empty(len(classes))
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(
        features, classes
    ):
        model = fit(estimator, features[train], classes[train])
        probability[test] = model.predict_proba(features[test])[:, 1]
    return probability


def choose_threshold(
    classes: np.ndarray, probability: np.ndarray, rule: str, max_fpr: float
) -> float:
    """The probability from which a candidate is called a pulsar.

    fpr     the lowest threshold whose false-positive rate is at most `max_fpr`
    g_mean  the largest sqrt(recall x specificity)
    f1      the largest F1
    """
    if rule == "f1":
        precision, recall, thresholds = precision_recall_curve(classes, probability)
        score = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        return float(thresholds[np.argmax(score[:-1])])
    fpr, recall, thresholds = roc_curve(classes, probability, drop_intermediate=False)
    # The first of them is infinite: nothing is called a pulsar. JSON has no such number.
    thresholds = np.minimum(thresholds, np.nextafter(probability.max(), np.inf))
    if rule == "g_mean":
        return float(thresholds[np.argmax(recall * (1 - fpr))])
    if rule == "fpr":
        return float(thresholds[np.searchsorted(fpr, max_fpr, side="right") - 1])
    raise ValueError(f"there is no rule {rule!r}")
