"""SageMaker's scikit-learn container, its Python half: how it finds, loads and asks a model.

It imports the module that SAGEMAKER_PROGRAM names from SAGEMAKER_SUBMIT_DIRECTORY, calls
its `model_fn(model_dir)`, and for every request `input_fn`, `predict_fn` and `output_fn`
(or `transform_fn`), its own versions standing in for those the module has not. The rules
were recorded from the real serving stack (sagemaker-scikit-learn-container 1.2-1 on
sagemaker-containers 2.8.6); docs/orchestrator.md says where this one is stricter.
"""

import csv
import importlib.util
import io
import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from werkzeug.wrappers import Response

from orchestrator.images import SKLEARN_IMAGES, sklearn_version_of
from orchestrator.sandbox.web import Answer

MODEL_ROOT = "/opt/ml/model"
JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"


class ContainerFailed(Exception):
    """The container cannot start; the text is the endpoint's FailureReason."""


def page(status: int, name: str, text: str) -> Answer:
    """An error page of the container's web framework, to the letter."""
    body = (
        '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">\n'
        f"<title>{status} {name}</title>\n<h1>{name}</h1>\n<p>{text}</p>\n"
    )
    return Answer(status, "text/html; charset=utf-8", body.encode())


INTERNAL_ERROR = page(
    500,
    "Internal Server Error",
    "The server encountered an internal error and was unable to complete your request. "
    "Either the server is overloaded or there is an error in the application.",
)


class Container:
    """A loaded model and the functions that serve it."""

    def __init__(self, model_dir: Path, image: str, environment: dict[str, str]) -> None:
        """Import the user's module and load the model; ContainerFailed says why not."""
        _check_image(image)
        self._default_accept = environment.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", JSON)
        module = _import_user_module(model_dir, environment)
        model_fn = getattr(module, "model_fn", None)
        if model_fn is None:
            raise ContainerFailed(f"{module.__name__}.py has no model_fn(model_dir).")
        self.model = _load(model_fn, model_dir)
        self._input = getattr(module, "input_fn", default_input_fn)
        self._predict = getattr(module, "predict_fn", default_predict_fn)
        self._output = getattr(module, "output_fn", default_output_fn)
        self._transform = getattr(module, "transform_fn", None)
        own = [name for name in ("input_fn", "predict_fn", "output_fn") if hasattr(module, name)]
        if self._transform and own:
            raise ContainerFailed(
                f"{module.__name__}.py has transform_fn and {own[0]}: choose one."
            )
        self.execution_parameters: Callable | None = getattr(
            module, "execution_parameters_fn", None
        )

    def invoke(self, body: bytes, content_type: str, accept: str) -> Answer:
        """One request's answer; raises whatever the user's functions raise."""
        content_type = content_type or JSON
        accept = self._default_accept if accept in ("", "*/*") else accept
        content = body.decode() if content_type in (CSV, JSON) else body
        if self._transform:
            result = self._transform(self.model, content, content_type, accept)
        else:
            prediction = self._predict(self._input(content, content_type), self.model)
            result = self._output(prediction, accept)
        return to_answer(result)


def to_answer(result: object) -> Answer:
    """What a user function may return: a Response, (body, media type), text, bytes, a dict."""
    if isinstance(result, tuple):
        result = Response(result[0], mimetype=result[1])
    elif isinstance(result, dict):
        result = Response(json.dumps(result), mimetype=JSON)
    elif isinstance(result, str | bytes):
        result = Response(result, mimetype="text/html")
    elif not isinstance(result, Response):
        raise TypeError(f"the output is a {type(result).__name__}, not a response")
    headers = {
        key: value
        for key, value in result.headers.items()
        if key.lower() not in ("content-type", "content-length")
    }
    return Answer(result.status_code, result.content_type, result.get_data(), headers)


def default_input_fn(content: str | bytes, content_type: str) -> np.ndarray:
    if content_type == CSV:
        rows = list(csv.reader(io.StringIO(content), strict=True))
        return np.array(rows).squeeze().astype(np.float64).astype(np.float32)
    if content_type == JSON:
        return np.array(json.loads(content)).astype(np.float64).astype(np.float32)
    if content_type == NPY:
        return np.load(io.BytesIO(content), allow_pickle=False)
    raise ValueError(f"unsupported content type {content_type}")


def default_predict_fn(data: np.ndarray, model: object) -> np.ndarray:
    return model.predict(data)


def default_output_fn(prediction: np.ndarray, accept: str) -> Response:
    prediction = np.asarray(prediction)
    if accept == JSON:
        return Response(json.dumps(prediction.tolist()), mimetype=JSON)
    if accept == CSV:
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerows(prediction.reshape(len(prediction), -1).tolist())
        return Response(lines.getvalue(), mimetype=CSV)
    if accept == NPY:
        buffer = io.BytesIO()
        np.save(buffer, prediction)
        return Response(buffer.getvalue(), mimetype=NPY)
    raise ValueError(f"unsupported accept type {accept}")


def _check_image(image: str) -> None:
    wanted = sklearn_version_of(image)
    if wanted is None:
        raise ContainerFailed(
            f"The sandbox has nothing to run in place of the image {image}. Name a command "
            "for it under sandbox.commands in params.yaml, and start the sandbox again."
        )
    installed = version("scikit-learn")
    carried = SKLEARN_IMAGES[wanted].scikit_learn if wanted in SKLEARN_IMAGES else None
    if carried != installed:
        fitting = [tag for tag, known in SKLEARN_IMAGES.items() if known.scikit_learn == installed]
        raise ContainerFailed(
            f"The image {wanted} carries scikit-learn {carried or wanted}, but this environment has "
            f"{installed} (image {', '.join(fitting) or 'none'}). Set image: {wanted} in "
            "params.yaml and type: make setup sandbox-down deploy"
        )


def _import_user_module(model_dir: Path, environment: dict[str, str]):
    program = environment.get("SAGEMAKER_PROGRAM")
    submit = environment.get("SAGEMAKER_SUBMIT_DIRECTORY")
    if not program or not submit:
        raise ContainerFailed(
            "SAGEMAKER_PROGRAM and SAGEMAKER_SUBMIT_DIRECTORY must both be set: the container "
            "does not look for a module elsewhere."
        )
    folder = model_dir / submit.removeprefix(MODEL_ROOT).lstrip("/")
    name = program.removesuffix(".py")
    path = folder / f"{name}.py"
    if not path.is_file():
        shown = f"{folder.relative_to(model_dir)}/{name}.py"
        raise ContainerFailed(f"The archive holds no {shown} to import.")
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ContainerFailed(f"{name}.py cannot be imported: {_described(error)}") from error
    return module


def _load(model_fn: Callable, model_dir: Path) -> object:
    """Call the user's model_fn; a model written by another scikit-learn is refused.

    The real container only warns, and some models then fail at the first request, or
    answer wrongly.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Trying to unpickle estimator")
        try:
            return model_fn(str(model_dir))
        except Exception as error:
            raise ContainerFailed(f"model_fn failed: {_described(error)}") from error


def _described(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:900]
