"""SageMaker's scikit-learn container, its Python half: how it finds, loads and asks a model.

It imports the module that SAGEMAKER_PROGRAM names from SAGEMAKER_SUBMIT_DIRECTORY, calls
its `model_fn(model_dir)`, and for every request `input_fn`, `predict_fn` and `output_fn`
(or `transform_fn`), its own versions standing in for those the module has not. The rules
were recorded from the real serving stack (sagemaker-scikit-learn-container 1.2-1 on
sagemaker-containers 2.8.6); docs/orchestrator.md says where this one is stricter.
"""

import contextlib
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path, PurePath

import numpy as np
from werkzeug.wrappers import Response

from orchestrator.images import SKLEARN_IMAGES, sklearn_version_of
from orchestrator.sandbox.hosting import advice, requirements, toolkit
from orchestrator.sandbox.hosting.toolkit import CSV, JSON
from orchestrator.sandbox.web import Answer

MODEL_ROOT = "/opt/ml/model"
TEXT_LENGTH = 500  # of what a user's code or file says; a reason has 1024 in all
REQUIREMENTS = "requirements.txt"


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

    def __init__(
        self, model_dir: Path, image: str, environment: dict[str, str],
        doing: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Import the user's module and load the model; ContainerFailed says why not.

        `doing` is told, before anything that may take its time, what that is.
        """
        _check_image(image)
        self._default_accept = environment.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", JSON)
        path = _user_module(model_dir, environment)
        _check_requirements(model_dir, path.parent)
        toolkit.provide()
        doing(f"importing {path.relative_to(model_dir)}")
        module = _import(path, model_dir)
        model_fn = getattr(module, "model_fn", None)
        if model_fn is None:
            raise ContainerFailed(f"{module.__name__}.py has no model_fn(model_dir).")
        doing("in model_fn")
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
        self._parameters = getattr(module, "execution_parameters_fn", None)

    @property
    def tells_parameters(self) -> bool:
        """Whether it answers /execution-parameters."""
        return self._parameters is not None

    def execution_parameters(self) -> Answer:
        """How it wants a transform job to ask, in the user's words."""
        return to_answer(self._parameters())

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
    data = toolkit.decode(content, content_type)
    return data.astype(np.float64).astype(np.float32) if content_type in (CSV, JSON) else data


def default_predict_fn(data: np.ndarray, model: object) -> np.ndarray:
    return model.predict(data)


def default_output_fn(prediction: np.ndarray, accept: str) -> Response:
    return Response(toolkit.encode(np.asarray(prediction), accept), mimetype=accept)


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


def _user_module(model_dir: Path, environment: dict[str, str]) -> Path:
    program = environment.get("SAGEMAKER_PROGRAM")
    submit = environment.get("SAGEMAKER_SUBMIT_DIRECTORY")
    if not program or not submit:
        raise ContainerFailed(
            "SAGEMAKER_PROGRAM and SAGEMAKER_SUBMIT_DIRECTORY must both be set: the container "
            "does not look for a module elsewhere."
        )
    wanted = PurePath(submit.removeprefix(MODEL_ROOT).lstrip("/"), program)
    wanted = wanted.with_name(f"{wanted.name.removesuffix('.py')}.py")
    if not (model_dir / wanted).is_file():
        raise ContainerFailed(
            f"The archive holds no {wanted} to import. {advice.without_module(model_dir, wanted)}"
        )
    return model_dir / wanted


def _check_requirements(model_dir: Path, code: Path) -> None:
    """Look into the requirements.txt that the container reads, and into one at the top, which it does
    not: whoever packs one there means it."""
    for path in sorted({model_dir / REQUIREMENTS, code / REQUIREMENTS}):
        unmet = requirements.unmet(path) if path.is_file() else []
        if unmet:
            raise ContainerFailed(
                f"{path.relative_to(model_dir)} asks for {', '.join(unmet)[:TEXT_LENGTH]}. Nothing is "
                f"installed for a model, which has no network: {advice.ELSEWHERE}."
            )


def _import(path: Path, model_dir: Path):
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    with _explained(f"{path.name} cannot be imported", model_dir):
        spec.loader.exec_module(module)
    return module


def _load(model_fn: Callable, model_dir: Path) -> object:
    with _explained("model_fn failed", model_dir):
        return model_fn(str(model_dir))


@contextlib.contextmanager
def _explained(failure: str, model_dir: Path):
    """Run a user's code; ContainerFailed says what it raised, and what can be done about it.

    A model written by another scikit-learn is refused, wherever it is loaded: the real container only
    warns, and some models then fail at the first request, or answer wrongly.
    """
    warnings.filterwarnings("error", message="Trying to unpickle estimator")
    try:
        yield
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())[:TEXT_LENGTH].rstrip(".")
        said = f"{failure}: {type(error).__name__}: {text}. {advice.about(error, model_dir)}"
        raise ContainerFailed(said.rstrip()) from error
