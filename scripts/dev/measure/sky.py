"""A sky that is known: simulated candidates, what befalls them, and what an endpoint captures of them.

The model is of params.yaml, but trained on simulated candidates, so that the numbers are the same on
every machine. It reads the mean of its training set where a feature is missing: our own package refuses
such a candidate, but not everybody's does.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from candidates.htru2 import PULSARS, ROWS
from candidates.simulator import ACCIDENTS, SURVEY, simulate
from candidates.tables import FEATURES, LABEL
from learning import estimators
from orchestrator.monitors import captured, merge
from orchestrator.monitors.model import Model, as_npy, from_npy
from scoring.inference import evaluator

SHARE = PULSARS / ROWS
HELD_OUT, CHOSEN_ON = 3580, 8950  # candidates; the first is HTRU2's hold-out in size
MISSING, CONTRADICTED, MORE_PULSARS = 0.05, 0.10, 0.20
SIDE = '"observedContentType":"text/csv","mode":"{}","data":"{}","encoding":"CSV"'
RECORD = (
    '{{"captureData":{{"endpointInput":{{{}}},"endpointOutput":{{{}}}}},"eventMetadata":'
    '{{"eventId":"{}","inferenceTime":"2026-01-01T00:00:00Z"}},"eventVersion":"0"}}\n'
)
LATER = "2026-01-01T01:00:00Z"


def drawn(count: int, seed: int, survey=SURVEY, share: float = SHARE):
    """Features (count, 8) and classes (count,) of a survey in which `share` are pulsars."""
    pulsars = round(share * count)
    return simulate(pulsars, count - pulsars, seed, survey)


# -- accidents: (features, classes, seed) -> (features, labels) that are captured and told -------


def missing(features, classes, seed):
    """One feature is empty in some of the candidates."""
    features = features.copy()
    gone = np.random.default_rng(seed).random(len(features)) < MISSING
    features[gone, FEATURES.index("dm_skewness")] = np.nan
    return features, classes


def swapped(features, classes, seed):
    """Two columns of like size are exchanged."""
    one, two = FEATURES.index("dm_mean"), FEATURES.index("dm_std")
    features = features.copy()
    features[:, [one, two]] = features[:, [two, one]]
    return features, classes


def contradicted(features, classes, seed):
    """Some of the labels say the opposite."""
    wrong = np.random.default_rng(seed).random(len(classes)) < CONTRADICTED
    return features, np.where(wrong, 1 - classes, classes)


@dataclass(frozen=True)
class Accident:
    """What befalls: the survey, the sky, or the table on its way."""

    words: str
    survey: object = SURVEY
    share: float = SHARE
    happens: object = None


HAPPENS = {
    "gain_loss": Accident("receiver at half its gain", ACCIDENTS["gain_loss"]),
    "rfi_storm": Accident("RFI storm, 60 % of what is no pulsar", ACCIDENTS["rfi_storm"]),
    "missing": Accident("dm_skewness missing in 5 %", happens=missing),
    "swapped": Accident("dm_mean and dm_std exchanged", happens=swapped),
    "pulsar_share": Accident("20 % pulsars instead of 9 %", share=MORE_PULSARS),
    "labels": Accident("10 % of the labels contradict", happens=contradicted),
    "new_receiver": Accident("another receiver, 436 MHz", ACCIDENTS["new_receiver"]),
}


# -- the endpoint ---------------------------------------------------------------------


class Endpoint:
    """A model trained on `size` simulated candidates, and the files that its monitors begin with."""

    def __init__(self, params: dict, size: int, estimator: str | None = None, seed: int = 1):
        features, classes = drawn(size, seed)
        fitted = estimators.fit(estimators.build(params, estimator), features, classes)
        self._probability = evaluator(fitted, len(FEATURES))
        self._mean = features.mean(axis=0)
        chosen_on, known = drawn(min(size, CHOSEN_ON), seed + 1)
        self._threshold = estimators.choose_threshold(
            known, self._probability(chosen_on), params["threshold"], params["max_fpr"]
        )
        labelled = pd.DataFrame(features, columns=FEATURES)
        labelled.insert(0, LABEL, classes)
        held_out, known = drawn(min(size, HELD_OUT), seed + 2)
        answers = pd.DataFrame(self.answer(held_out), columns=["label", "probability"])
        answers["label"] = answers["label"].astype(int)
        self.files = {  # as scripts/prepare.py and scripts/baseline.py write them
            "baseline.csv": labelled,
            "data-quality.csv": answers.join(pd.DataFrame(held_out, columns=FEATURES)),
            "model-quality.csv": answers.assign(**{LABEL: known}),
        }

    def answer(self, features: np.ndarray) -> np.ndarray:
        """Label and probability, (n, 2)."""
        probability = self._probability(np.where(np.isnan(features), self._mean, features))
        return np.column_stack([probability >= self._threshold, probability])

    def model(self, settings: dict) -> Model:
        """What the monitors get for the endpoint's model."""
        about = {"endpoint": "pulsar", "model_name": "simulated", "model_data_url": ""}
        return Model(about, lambda body, kind: as_npy(self.answer(from_npy(body))))


class Captured:
    """What an endpoint has captured of a survey, and the labels that came for it."""

    def __init__(self, endpoint: Endpoint, features: np.ndarray, labels: np.ndarray):
        answers = endpoint.answer(features)
        self._records = [
            RECORD.format(
                SIDE.format("INPUT", ",".join("" if v != v else repr(v) for v in row)),
                SIDE.format("OUTPUT", f"{label:.0f},{probability!r}"), place,
            )
            for place, (row, (label, probability)) in enumerate(
                zip(features.tolist(), answers.tolist(), strict=True)
            )
        ]  # fmt: skip
        self._labels = {
            str(place): {"data": str(int(label)), "encoding": "CSV"}
            for place, label in enumerate(labels)
        }

    def __len__(self):
        return len(self._records)

    def window(self, places: np.ndarray) -> tuple[pd.DataFrame, int]:
        """Some of the records as a monitor reads them, labels merged, and the answer's columns."""
        reader = captured.Reader(LATER)
        reader.add("captured.jsonl", "".join(self._records[place] for place in places).encode())
        return merge.labelled(reader.table(), self._labels), reader.answers


def disturbed(endpoint: Endpoint, accident: Accident, count: int, seed: int) -> Captured:
    """What is captured while an accident lasts."""
    features, labels = drawn(count, seed, accident.survey, accident.share)
    if accident.happens:
        features, labels = accident.happens(features, labels, seed)
    return Captured(endpoint, features, labels)
