"""Serve the pulsar classifier: the code that travels inside model.tar.gz.

SageMaker's scikit-learn container and the sandbox both import this file and call its four
functions. Needs only what that container has: numpy, scikit-learn with scipy, joblib and
threadpoolctl, werkzeug; and what travels with it: candidates/tables, which reads CSV, and
candidates/folds, which reads candidate files.

    in    text/csv                   a table of candidates in any dialect: columns by name, or eight
                                     numbers a line in the order of the data set
          application/json           a row, rows, or {"instances": rows}
          application/x-npy          an array (8,) or (n, 8)
          application/octet-stream   one candidate file, PHCX or PFD, packed by gzip or not
    out   text/csv                   label,probability a line
          application/json           {"predictions": [{"label": 1, "probability": 0.98}, ...]}
          application/x-npy          an array (n, 2): label, probability

A request is answered by one of two models (candidates/tables/scales.py): by that of eight features,
or by that of six where its DM curves are of another scale, which a candidate file's kind says. Which one is said in the answer's custom
attributes, `model=six`, for in its body it would be one more column of what monitors capture; what lies
outside of what the model was trained on is said on standard output.

A bad row is answered with a 4xx that names row and column, counted from 1. In the real
container only a Response returned by output_fn can say so (anything raised becomes a bare
500), hence an error travels through predict_fn as a value.
"""

import os

# Before anything loads OpenMP: the server's workers are the parallelism, and threads of
# their own would fight them for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import io
import json
import math

import joblib
import numpy as np
from scipy.special import expit
from threadpoolctl import threadpool_limits
from werkzeug.wrappers import Response

from candidates import tables

CSV, JSON, NPY = "text/csv", "application/json", "application/x-npy"
FILE = "application/octet-stream"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
LARGE = 65536  # characters from which it pays to import pyarrow
MANY = 1024  # rows, likewise
PROBE_ROWS = 64
BATCH_MEGABYTES, MOST_MEGABYTES = 6, 100  # of a transform job's request; of all at once
BLOCK_ROWS = 1024  # what lies between the layers stays in the processor's cache


class BadInput:
    """A request that cannot be scored: an HTTP status and a sentence."""

    def __init__(self, status, message):
        self.status, self.message = status, message


class Folded:
    """What is known of a candidate file: its row of features, an array (1, 8), and the name of the model
    that is for its kind."""

    def __init__(self, row, model):
        self.row, self.model = row, model


class Classifier:
    """A fitted estimator with its threshold and the fastest exact way to evaluate it.

    `six` is the Classifier for DM curves of another scale, and `ends` are the ranges of the features in
    training, an array (2, 8); None where a package has but one model.
    """

    six = ends = None

    def __init__(self, estimator, card):
        self.features = card["features"]
        self.threshold = card["threshold"]
        self.probability = evaluator(estimator, len(self.features))


class Prediction(np.ndarray):
    """Labels and probabilities, an array (n, 2), and the name of the model that they are of."""

    model = tables.EIGHT


# -- the four functions of the container ----------------------------------------------


def model_fn(model_dir):
    # OpenBLAS has read its environment already: tell it, or its threads wait busily.
    threadpool_limits(1, user_api="blas")
    with open(os.path.join(model_dir, "model.json")) as file:
        card = json.load(file)
    model = Classifier(joblib.load(os.path.join(model_dir, "model_pulsar.joblib")), card)
    place = os.path.join(model_dir, "model_six.joblib")
    if os.path.exists(place):
        model.six = Classifier(joblib.load(place), card["six"])
        model.ends = tables.ends_of(card["ranges"])
    return model


def execution_parameters_fn():
    """What a transform job is told that does not say how to ask: as many at once as there are cores."""
    told = {
        "MaxConcurrentTransforms": min(os.cpu_count() or 1, MOST_MEGABYTES // BATCH_MEGABYTES),
        "BatchStrategy": "MULTI_RECORD",
        "MaxPayloadInMB": BATCH_MEGABYTES,
    }
    return Response(json.dumps(told), mimetype=JSON)


def input_fn(body, content_type):
    """The rows of a request as an array (n, 8), a candidate file as a Folded, or a BadInput."""
    parsers = {CSV: parse_csv, JSON: parse_json, NPY: parse_npy, FILE: parse_file}
    parse = parsers.get(media_type(content_type))
    if parse is None:
        known = ", ".join(parsers)
        return BadInput(415, f"Content-Type {content_type} is not one of {known}")
    try:
        return parse(body)
    except ValueError as error:
        return BadInput(400, str(error))


def predict_fn(data, model):
    """The Prediction for rows (n, 8) or a Folded, or the BadInput it was given."""
    if isinstance(data, BadInput):
        return data
    if isinstance(data, Folded):
        return predict_folded(data, model)
    if data.shape[1] != len(model.features):
        return BadInput(400, wrong_width(1, data.shape[1], len(model.features)))
    which = tables.EIGHT
    if model.ends is not None and is_outside(data, *model.ends):
        which = choose(data, model)
        tell_outside(which, data, model)
    return predict_by(which, data, model)


def predict_folded(folded, model):
    """The Prediction for a Folded by the model of its kind, or a BadInput where the package has none."""
    if folded.model == tables.SIX and model.six is None:
        return BadInput(422, "the package has no model of six features, which a PFD is scored by")
    if model.ends is not None and is_outside(folded.row, *model.ends):
        tell_outside(folded.model, folded.row, model)
    return predict_by(folded.model, folded.row, model)


def tell_outside(which, data, model):
    """Say on standard output what in rows (n, 8) lies outside of what the package was trained on."""
    for line in tables.Outside(model.ends).see(data).told():
        print(f"scored by {which}: {line}", flush=True)


def is_outside(data, least, most):
    """Whether anything lies outside of the trained ranges; counting takes a third of any()'s time."""
    return np.count_nonzero(data < least) or np.count_nonzero(data > most)


def choose(data, model):
    """Which of a package's models rows (n, 8) are for, by its name."""
    return tables.EIGHT if model.six is None else tables.choose(data, model.ends)


def predict_by(which, data, model):
    """The Prediction of the named model for rows (n, 8), with that model's own threshold; or a
    BadInput, where a row's numbers cannot be a candidate's."""
    chosen, known = model, data
    if which == tables.SIX:
        chosen, known = model.six, np.ascontiguousarray(data[:, tables.COLUMNS[which]])
    with np.errstate(all="ignore"):
        probability = chosen.probability(known)
        # A sum is finite only if all of it is, and takes a fraction of the time.
        if not math.isfinite(data.sum() + probability.sum()):
            finite = np.isfinite(data)
            if not finite.all():
                row, column = np.argwhere(~finite)[0]
                name = model.features[column]
                return BadInput(400, f"row {row + 1}, column {column + 1} ({name}) is not finite")
            if not np.isfinite(probability).all():
                row = int(np.argmin(np.isfinite(probability)))
                return BadInput(400, f"row {row + 1} holds numbers too large to be a candidate's")
    prediction = Prediction((len(data), 2))
    prediction.model = which
    prediction[:, 0] = probability >= chosen.threshold
    prediction[:, 1] = probability
    return prediction


def output_fn(prediction, accept):
    if isinstance(prediction, BadInput):
        return refusal(prediction)
    chosen = negotiate(accept)
    said = {ATTRIBUTES: f"model={getattr(prediction, 'model', tables.EIGHT)}"}
    if chosen == CSV:
        return Response(csv_of(prediction), mimetype=CSV, headers=said)
    if chosen == JSON:
        rows = [{"label": int(label), "probability": p} for label, p in prediction.tolist()]
        return Response(json.dumps({"predictions": rows}), mimetype=JSON, headers=said)
    if chosen == NPY:
        buffer = io.BytesIO()
        np.save(buffer, prediction)
        return Response(buffer.getvalue(), mimetype=NPY, headers=said)
    return refusal(BadInput(406, f"Accept {accept} allows none of {CSV}, {JSON}, {NPY}"))


def csv_of(prediction):
    """Lines of label and probability; many of them by pyarrow, where it is there."""
    if len(prediction) >= MANY:
        try:
            import pyarrow
            from pyarrow import csv
        except ImportError:
            pass
        else:
            columns = [prediction[:, 0].astype(np.int8), prediction[:, 1]]
            buffer = io.BytesIO()
            options = csv.WriteOptions(include_header=False)
            csv.write_csv(pyarrow.table(columns, names=["label", "probability"]), buffer, options)
            return buffer.getvalue()
    lines = [f"{label:.0f},{probability!r}\n" for label, probability in prediction.tolist()]
    return "".join(lines)


def refusal(bad):
    return Response(json.dumps({"error": bad.message}), status=bad.status, mimetype=JSON)


# -- reading requests -----------------------------------------------------------------


def media_type(header):
    """The media type of a header, without its parameters."""
    return header.partition(";")[0].strip().lower()


def negotiate(accept):
    """The type to answer in: the best of an Accept header, None when it allows none of ours."""
    best, best_quality = None, 0.0
    for part in accept.split(","):
        kind = media_type(part)
        fits = {"*/*": JSON, "application/*": JSON, "text/*": CSV, CSV: CSV, JSON: JSON, NPY: NPY}
        quality = 1.0
        for parameter in part.split(";")[1:]:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if kind in fits and quality > best_quality:
            best, best_quality = fits[kind], quality
    return best


def wrong_width(row, found, wanted=8):
    return f"row {row} has {found} columns, not {wanted}"


def parse_csv(body):
    """Rows of a CSV body, in any dialect. Raises ValueError with row and column of what is wrong."""
    text = body if isinstance(body, str) else decoded(body)
    data = parse_plain(text) if len(text) >= LARGE else None
    if data is not None:
        return data
    try:  # what nearly every request looks like
        if not is_plain(text):
            raise ValueError
        lines = text.rstrip().split("\n") if text else []
        data = np.array([[float(cell) for cell in line.split(",")] for line in lines], ndmin=2)
        # A profile's mean is neither 0 nor 1, the numbers of a header that counts begin so.
        if data.shape[1] == len(tables.FEATURES) and data[0, 0] not in (0, 1):
            return data
    except ValueError:
        pass
    found = tables.layout(text)
    if found.header is not None and os.environ.get("SAGEMAKER_BATCH") == "true":
        raise ValueError(
            "row 1: it is a header, but a batch comes in pieces, of which only the first has it: send the "
            "eight features alone, in the order of the data set"
        )
    rows = tables.rows_in(text, found)
    if rows.bad:
        raise ValueError(tables.complaint(rows.bad))
    return tables.orient(found, rows.values)


def parse_plain(text):
    """Lines of eight plain numbers as an array, by pyarrow; None for anything else, or without it.

    It reads numbers to the same bit as Python's float().
    """
    try:
        import pyarrow
        from pyarrow import csv
    except ImportError:
        return None
    names = [str(column) for column in range(len(tables.FEATURES))]
    encoded = text.encode()
    try:
        table = csv.read_csv(
            pyarrow.BufferReader(encoded),
            csv.ReadOptions(use_threads=False, block_size=len(encoded) + 1, column_names=names),
            csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(
                column_types=dict.fromkeys(names, pyarrow.float64()), null_values=[]
            ),
        )
    except pyarrow.ArrowInvalid:
        return None
    data = np.column_stack([column.to_numpy() for column in table.columns])
    return None if data[0, 0] in (0, 1) else data  # a header that counts begins so


def decoded(body):
    try:
        return bytes(body).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the body is not UTF-8 text: {error.reason}") from None


def is_plain(text):
    """Whether it holds none of what Python's float() reads beside plain numbers: 1_0 and digits of
    other scripts."""
    return "_" not in text and text.isascii()


def is_number(cell):
    try:
        float(cell)
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(cell, str) or is_plain(cell)


def checked_rows(rows):
    """An array of rows of cells, each of which must be a finite number."""
    if not rows:
        raise ValueError("there are no rows in the body")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise ValueError(wrong_width(number, len(row), len(rows[0])))
        for column, cell in enumerate(row, start=1):
            if isinstance(cell, bool) or not is_number(cell):
                raise ValueError(f"row {number}, column {column} is no number: {shown(cell)}")
            if not math.isfinite(float(cell)):
                raise ValueError(f"row {number}, column {column} is not finite: {shown(cell)}")
    return np.array([[float(cell) for cell in row] for row in rows], ndmin=2)


def shown(cell):
    return repr(cell)[:40]


def parse_json(body):
    """Rows of a JSON body: a row, rows, or an object with either under "instances"."""
    try:
        value = json.loads(body if isinstance(body, str) else decoded(body))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from None
    if isinstance(value, dict):
        if "instances" not in value:
            raise ValueError('a JSON object must hold its rows under "instances"')
        value = value["instances"]
    if not isinstance(value, list):
        raise ValueError('the JSON body must be a row, a list of rows, or {"instances": rows}')
    if value and not any(isinstance(item, list) for item in value):
        value = [value]
    for number, row in enumerate(value, start=1):
        if not isinstance(row, list):
            raise ValueError(f"row {number} is not a list: {shown(row)}")
    return checked_rows(value)


def bytes_of(body):
    return body.encode() if isinstance(body, str) else bytes(body)


def parse_npy(body):
    """Rows of a .npy body; nothing in it is ever unpickled."""
    stream = io.BytesIO(bytes_of(body))
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(stream)
        announced = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or announced != len(stream.getvalue()) - stream.tell():
            raise ValueError("it does not hold the plain numbers that its header announces")
        stream.seek(0)
        data = np.load(stream, allow_pickle=False)
        if data.dtype.kind not in "biufSU":
            raise ValueError(f"its numbers are {data.dtype}")
        data = data.astype(np.float64)
    except Exception as error:  # numpy lets through whatever its parsers raise
        raise ValueError(f"the body is not a .npy array of numbers: {error}") from None
    data = np.atleast_2d(data)
    if data.ndim != 2 or not len(data):
        raise ValueError(f"the array has the shape {data.shape}, not (n, 8)")
    return data


def parse_file(body):
    """The Folded of a candidate file; nothing in it is believed."""
    from candidates import folds  # takes a while, which nearly no request needs

    try:
        found = folds.read(bytes_of(body))
        return Folded(folds.features(found)[None], folds.MODELS[found.kind])
    except folds.Unreadable as error:
        raise ValueError(f"no candidate can be scored from this body of {FILE}: {error}") from None


# -- scoring --------------------------------------------------------------------------


def evaluator(estimator, width):
    """A function from rows to probabilities, the same as `predict_proba` to 1e-9.

    scikit-learn spends a millisecond of bookkeeping per call on a vote of networks, or on a
    forest, whose arithmetic takes microseconds. Where this module can do that arithmetic itself,
    and gets the same answers, it does.
    """

    def reference(data):
        return estimator.predict_proba(data)[:, 1]

    scales = np.tile([[0.3], [3.0], [30.0], [300.0]], (PROBE_ROWS // 4, 1))
    rows = np.random.default_rng(0).normal(0, scales, (PROBE_ROWS, width))
    for fuse in (fuse_networks, fuse_forest):
        try:
            fused = fuse(estimator)
            if np.abs(fused(rows) - reference(rows)).max() < 1e-9:
                return fused
        except (AttributeError, TypeError, ValueError, KeyError):
            pass  # another kind of estimator
    return reference


def fuse_networks(estimator):
    """Evaluate a soft vote of (scaler, one-hidden-layer network) pipelines as matrices.

    Networks that share a scaling become one hidden layer side by side. Raises
    AttributeError, TypeError, ValueError or KeyError for any other estimator.
    """
    groups = {}
    for pipeline in estimator.estimators_:
        (_, scaler), (_, network) = pipeline.steps
        first, second = network.coefs_  # one hidden layer
        if network.out_activation_ != "logistic":
            raise ValueError("not a binary network")
        lambdas = getattr(scaler, "lambdas_", None)
        standard = scaler if lambdas is None else scaler._scaler
        key = (None if lambdas is None else tuple(lambdas), network.activation)
        weights = first / standard.scale_[:, None]
        bias = network.intercepts_[0] - standard.mean_ @ weights
        groups.setdefault(key, []).append((weights, bias, second[:, 0], network.intercepts_[1][0]))
    layers = []
    for (lambdas, activation), members in groups.items():
        hidden = [len(member[1]) for member in members]
        out = np.zeros((sum(hidden), len(members)))
        start = 0
        for column, member in enumerate(members):
            out[start : start + hidden[column], column] = member[2]
            start += hidden[column]
        layers.append(
            (
                None if lambdas is None else np.array(lambdas),
                {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0, out=x)}[activation],
                np.concatenate([member[0] for member in members], axis=1),
                np.concatenate([member[1] for member in members]),
                out,
                np.array([member[3] for member in members]),
            )
        )
    votes = len(estimator.estimators_)

    def block(data):
        total = np.zeros(len(data))
        for lambdas, activation, weights, bias, out, out_bias in layers:
            scaled = data if lambdas is None else yeo_johnson(data, lambdas)
            total += expit(activation(scaled @ weights + bias) @ out + out_bias).sum(axis=1)
        return total / votes

    def probability(data):
        if len(data) <= BLOCK_ROWS:
            return block(data)
        starts = range(0, len(data), BLOCK_ROWS)
        return np.concatenate([block(data[start : start + BLOCK_ROWS]) for start in starts])

    return probability


def fuse_forest(estimator):
    """Average the trees of a random forest, which are compiled code, without what is around.

    Raises AttributeError, TypeError or ValueError for any other estimator.
    """
    trees = []
    for member in estimator.estimators_:
        votes = member.tree_.value.reshape(-1, 2)  # of each node: shares or counts, by version
        trees.append((member.tree_, votes[:, 1] / votes.sum(axis=1)))

    def probability(data):
        narrow = np.ascontiguousarray(data, dtype=np.float32)  # what the trees were grown on
        total = sum(shares[tree.apply(narrow)] for tree, shares in trees)
        total[~np.isfinite(narrow).all(axis=1)] = np.nan
        return total / len(trees)

    return probability


def yeo_johnson(data, lambdas):
    """The power transform of scikit-learn's PowerTransformer (Yeo and Johnson 2000).

    With s = sign(x), m = lambda for x >= 0 and 2 - lambda below:
    s ((1 + |x|)^m - 1) / m, and s log(1 + |x|) where m is 0.
    """
    # The least of a push off 0, where the quotient below still is log(1 + |x|) to the last bit.
    powers = np.where(data >= 0, lambdas, 2 - lambdas) + 1e-300
    return np.copysign(np.expm1(powers * np.log1p(np.abs(data))) / powers, data)
