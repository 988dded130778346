"""The functions for SageMaker's container as its documentation writes them: the baseline."""

import io
import os

import joblib
import numpy as np
from sagemaker_containers.beta.framework import worker


def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "model_pulsar.joblib"))


def input_fn(body, content_type):
    return np.loadtxt(io.StringIO(body), delimiter=",", ndmin=2)


def predict_fn(data, model):
    return model.predict_proba(data)


def output_fn(prediction, accept):
    text = "\n".join(",".join(map(repr, row)) for row in prediction.tolist())
    return worker.Response(response=text, mimetype=accept)
