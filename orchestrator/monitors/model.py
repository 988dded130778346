"""The model that an endpoint runs now: asked for, fetched, unpacked and called in this process.

Neither is the endpoint loaded by the questions of a monitor, nor are they captured. The original keeps
the model of baseline time instead, so that a later one is explained by its predecessor.
"""

import atexit
import gzip
import importlib.util
import io
import shutil
import sys
import tarfile
import tempfile
import warnings
import zlib
from pathlib import Path, PurePosixPath

import boto3
import numpy as np
from botocore.exceptions import BotoCoreError, ClientError

from .frame import Refused, needed

MOST_ARCHIVE_BYTES = 1024**3
MOST_BYTES = 2 * 1024**3  # unpacked
MOST_FILES = 10_000
CHUNK = 1024 * 1024
BLOCK_ROWS = 65_536
CSV, NPY = "text/csv", "application/x-npy"
IMAGE = "/sagemaker-scikit-learn:"
CODE = PurePosixPath("code")


class Model:
    """A model and its answers.

    `about` is what a report says of it: endpoint, model_name, model_data_url.
    """

    def __init__(self, about, functions):
        self.about = about
        self._answer = functions
        self._kind = None

    def __call__(self, rows):
        """What the endpoint would answer to rows (n, features): an array (n, columns of the answer).

        Raises Refused for what the model refuses.
        """
        if self._kind is None:
            self._kind = self._chosen(rows[:1])
        blocks = [
            self._asked(rows[start : start + BLOCK_ROWS], self._kind)
            for start in range(0, len(rows), BLOCK_ROWS)
        ]
        return np.concatenate(blocks)

    def _chosen(self, row):
        """The content type that the model takes: arrays where it can, for they are fast."""
        try:
            self._asked(row, NPY)
        except Refused:
            return CSV
        return NPY

    def _asked(self, rows, kind):
        body = as_npy(rows) if kind == NPY else as_csv(rows)
        try:
            status, answer = answered(self._answer(body, kind))
            if status != 200:
                raise ValueError(f"it answers {status}: {answer[:200].decode('utf-8', 'replace')}")
            found = from_npy(answer) if kind == NPY else from_csv(answer)
            if len(found) != len(rows):
                raise ValueError(f"it answers {len(found)} rows to {len(rows)}")
        except Exception as error:  # it is somebody's code
            name = self.about["model_name"]
            raise Refused(
                f"the model {name} does not answer rows of {rows.shape[1]} numbers as {kind}: "
                f"{type(error).__name__}: {error}"
            ) from None
        return found


def of_endpoint(settings):
    """The Model that sagemaker_endpoint_name runs now; raises Refused."""
    endpoint = needed(settings, "sagemaker_endpoint_name")
    try:
        name, container = described(boto3.client("sagemaker"), endpoint)
        archive = fetched(boto3.client("s3"), container["ModelDataUrl"])
    except (ClientError, BotoCoreError) as error:
        raise Refused(f"the model of the endpoint {endpoint} cannot be had: {error}") from None
    about = {
        "endpoint": endpoint, "model_name": name, "model_data_url": container["ModelDataUrl"],
    }  # fmt: skip
    # It stays as long as the process: a model may read its files late.
    folder = Path(tempfile.mkdtemp(prefix="model-"))
    atexit.register(shutil.rmtree, str(folder), ignore_errors=True)
    try:
        unpack(archive, folder)
    finally:
        archive.close()
    return Model(about, loaded(name, folder, container.get("Environment", {})))


def described(sagemaker, endpoint):
    """Name and primary container of the model behind an endpoint; raises Refused for one whose code
    cannot be called here."""
    config = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    names = sorted({variant.get("ModelName", "") for variant in variants})
    if len(names) != 1 or not names[0]:
        raise Refused(f"the endpoint {endpoint} runs {len(names)} models, of which none is the one")
    found = sagemaker.describe_model(ModelName=names[0])
    container = found.get("PrimaryContainer", {})
    if IMAGE not in container.get("Image", "") or not container.get("ModelDataUrl"):
        raise Refused(
            f"the model {names[0]} runs in {container.get('Image') or 'several containers'}: only a "
            "model.tar.gz for SageMaker's scikit-learn image can be asked here, by its own code"
        )
    return names[0], container


def fetched(s3, url):
    """A model.tar.gz as a file that is open; raises Refused when it is too large."""
    bucket, _, key = url.replace("s3://", "", 1).partition("/")
    size = s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
    if size > MOST_ARCHIVE_BYTES:
        raise Refused(f"{url} has {size} bytes, more than {MOST_ARCHIVE_BYTES}")
    file = tempfile.TemporaryFile()
    s3.download_fileobj(bucket, key, file)
    file.seek(0)
    return file


def unpack(archive, folder):
    """Unpack an open model.tar.gz, without trusting it: files and folders, within limits.

    Raises Refused for a path that leaves the folder, a link, a device, and more than the limits.
    """
    left, files = MOST_BYTES, 0
    try:
        with tarfile.open(fileobj=gzip.open(archive), mode="r|") as tar:
            for member in tar:
                files += 1
                if files > MOST_FILES:
                    raise Refused(f"model.tar.gz holds more than {MOST_FILES} files")
                target = inside(folder, member.name)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                if not member.isreg():
                    raise Refused(
                        f"model.tar.gz: {member.name!r} is a link or a device, not a file"
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                with open(target, "wb") as file:
                    chunk = source.read(CHUNK)
                    while chunk:
                        left -= len(chunk)
                        if left < 0:
                            raise Refused(f"model.tar.gz unpacks to more than {MOST_BYTES} bytes")
                        file.write(chunk)
                        chunk = source.read(CHUNK)
                tar.members = []  # tarfile keeps them all
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        raise Refused(f"model.tar.gz cannot be unpacked: {error}") from None


def inside(folder, name):
    """The path of a member below a folder; raises Refused when it would be elsewhere."""
    parts = PurePosixPath(name).parts
    if not name or "\0" in name or "\\" in name or name.startswith("/") or ".." in parts:
        raise Refused(f"model.tar.gz: the path {name!r} leaves the archive")
    return folder.joinpath(*parts)


# -- the container's manners ----------------------------------------------------------


def loaded(name, folder, environment):
    """What answers (body, content type) as the container would, from an unpacked model.

    Raises Refused for a model without code, and for code that cannot be loaded.
    """
    program = environment.get("SAGEMAKER_PROGRAM", "inference.py")
    path = inside(folder, str(CODE / program))
    if not path.is_file():
        raise Refused(
            f"the model {name} holds no {CODE / program}: without the code that answers for it, it "
            "cannot be asked here"
        )
    sys.path.insert(0, str(path.parent))
    warnings.filterwarnings("error", message="Trying to unpickle estimator")
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return functions(module, module.model_fn(str(folder)))
    except (Exception, SystemExit) as error:  # it is somebody's code
        raise Refused(
            f"the model {name} cannot be loaded: {type(error).__name__}: {error}"
        ) from None


def functions(module, model):
    """One function of the container's four, or of its transform_fn."""
    if hasattr(module, "transform_fn"):
        return lambda body, kind: module.transform_fn(model, body, kind, kind)
    read = getattr(module, "input_fn", default_input)
    predict = getattr(module, "predict_fn", default_predict)
    write = getattr(module, "output_fn", default_output)
    return lambda body, kind: write(predict(read(body, kind), model), kind)


def default_input(body, kind):
    return from_npy(body) if kind == NPY else from_csv(body.encode()).astype(np.float32)


def default_predict(data, model):
    return model.predict(data)


def default_output(prediction, kind):
    rows = np.asarray(prediction)
    return (as_npy(rows) if kind == NPY else as_csv(rows)), kind


def answered(result):
    """Status and bytes of what output_fn may return: a Response, (body, type), text, bytes."""
    if hasattr(result, "get_data"):
        return result.status_code, result.get_data()
    body = result[0] if isinstance(result, tuple) else result
    return 200, body.encode() if isinstance(body, str) else bytes(body)


def as_csv(rows):
    return "".join(
        ",".join(map(repr, row)) + "\n" for row in np.asarray(rows).reshape(len(rows), -1).tolist()
    )


def as_npy(rows):
    buffer = io.BytesIO()
    np.save(buffer, rows)
    return buffer.getvalue()


def from_csv(body):
    lines = body.decode().split()
    return np.array([line.split(",") for line in lines], dtype=float)


def from_npy(body):
    found = np.load(io.BytesIO(body), allow_pickle=False).astype(float)
    return found.reshape(len(found), -1)
