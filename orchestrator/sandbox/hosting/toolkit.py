"""How bodies become arrays and arrays become answers, and the toolkits that SageMaker's container has
for it, under the names by which a user's module imports them.

The container carries `sagemaker_containers` and `sagemaker_inference`, and AWS's examples take media
types, encoders and `worker.Response` from there. What else they hold can be imported, as those examples
do, but not used: it runs the container, which is not here.
"""

import csv
import io
import json
import sys
from types import ModuleType

import numpy as np
from werkzeug.wrappers import Response

JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"
CONTENT_TYPES = {
    "JSON": JSON, "CSV": CSV, "NPY": NPY, "OCTET_STREAM": "application/octet-stream", "ANY": "*/*",
    "UTF8_TYPES": [JSON, CSV],
}  # fmt: skip
NOT_HERE = ("env", "files", "functions", "mapping", "modules", "server", "transformer")


class UnsupportedFormatError(Exception):
    """A media type that the toolkits have no encoder for."""

    def __init__(self, content_type: str, **_: object) -> None:
        super().__init__(f"Content type {content_type} is not supported by this framework.")


class ToolkitResponse(Response):
    """worker.Response: JSON unless it says otherwise; `accept` has long been without effect."""

    default_mimetype = JSON

    def __init__(
        self, response=None, accept=None, status=200, headers=None, mimetype=None, **more
    ) -> None:
        super().__init__(response, status, headers, mimetype, **more)


def csv_to_numpy(text: str, dtype=None) -> np.ndarray:
    """Numbers, or text where it holds any; a single row or column has one dimension."""
    cells = np.array(list(csv.reader(io.StringIO(text), strict=True))).squeeze()
    try:
        return cells.astype(dtype or np.float64)
    except ValueError:
        if dtype is not None:
            raise
        return cells


def json_to_numpy(text: str, dtype=None) -> np.ndarray:
    return np.array(json.loads(text), dtype=dtype)


def npy_to_numpy(content: bytes) -> np.ndarray:
    """Nothing in it is unpickled."""
    return np.load(io.BytesIO(content), allow_pickle=False)


def array_to_csv(array) -> str:
    lines = io.StringIO()
    array = np.array(array)
    csv.writer(lines, lineterminator="\n").writerows(array.reshape(len(array), -1).tolist())
    return lines.getvalue()


def array_to_json(array) -> str:
    return json.dumps(array, default=lambda value: value.tolist())


def array_to_npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


DECODERS = {CSV: csv_to_numpy, JSON: json_to_numpy, NPY: npy_to_numpy}
ENCODERS = {CSV: array_to_csv, JSON: array_to_json, NPY: array_to_npy}


def decode(content: str | bytes, content_type: str) -> np.ndarray:
    if content_type not in DECODERS:
        raise UnsupportedFormatError(content_type)
    return DECODERS[content_type](content)


def encode(array, content_type: str) -> str | bytes:
    if content_type not in ENCODERS:
        raise UnsupportedFormatError(content_type)
    return ENCODERS[content_type](array)


def provide() -> None:
    """Make the toolkits importable in this process."""
    codecs = {f.__name__: f for f in (*DECODERS.values(), *ENCODERS.values(), decode, encode)}
    errors = {"UnsupportedFormatError": UnsupportedFormatError}
    framework = {
        "content_types": CONTENT_TYPES, "encoders": codecs, "errors": errors,
        "worker": {"Response": ToolkitResponse}, **dict.fromkeys(NOT_HERE, {}),
    }  # fmt: skip
    inference = {
        "content_types": CONTENT_TYPES, "encoder": codecs, "decoder": codecs, "errors": errors,
    }  # fmt: skip
    _provide("sagemaker_containers", {})
    _provide("sagemaker_containers.beta", {})
    for package, modules in (
        ("sagemaker_containers.beta.framework", framework), ("sagemaker_inference", inference),
    ):  # fmt: skip
        _provide(package, {})
        for name, members in modules.items():
            _provide(f"{package}.{name}", members)


def _provide(name: str, members: dict[str, object]) -> None:
    module = sys.modules[name] = ModuleType(name)
    module.__path__ = []  # a package
    vars(module).update(members)

    def missing(attribute: str):
        raise AttributeError(f"the sandbox's {name} has no {attribute}")

    module.__getattr__ = missing
    package, _, own = name.rpartition(".")
    if package:
        setattr(sys.modules[package], own, module)
