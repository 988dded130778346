"""One candidate a request: requests a second and latencies, ours beside the peers'."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from common.errors import UserError
from common.files import INFERENCE
from common.output import say
from common.params import load_params
from measure import load, servers
from measure.place import DEFAULT, FOREST, Place, sandbox
from orchestrator.images import DEFAULT_IMAGE
from scoring import inference

CLIENTS = (1, 8, 32)
PLAIN = Path(__file__).with_name("plain_inference.py")
BASE = "SageMaker's code"
PING = "  its /ping, HTTP alone"  # the floor: the same process asked for nothing
PING_REQUEST = b"GET /ping HTTP/1.1\r\nHost: endpoint\r\n\r\n"


def measure(place: Place) -> dict[tuple, float]:
    figures: dict[tuple, float] = {}
    for model in (DEFAULT, FOREST):
        figures |= one_row(place, model)
        with sandbox(place.folder / f"sandbox-{model}") as running:
            running.upload(place.archives[model], "model.tar.gz")
            running.deploy("bench", "model.tar.gz")
            server = servers.through_sandbox(place, running, "bench")
            figures |= under_load(place, "sandbox, signed", model, server)
        with servers.process(place, model) as server:
            figures |= under_load(place, "endpoint process", model, server)
            figures |= by_clients(place, PING, model, server.address, PING_REQUEST)
        for name, started in _peers(place, model):
            with started as server:
                figures |= under_load(place, name, model, server)
    return figures


def _peers(place: Place, model: str) -> Iterator[tuple[str, AbstractContextManager]]:
    if not (servers.PEERS / "ready").exists():
        say("bench: the peers are left out, they are not installed (make bench does it)")
        return
    if load_params()["image"] != DEFAULT_IMAGE:
        say(f"bench: the peers are left out, they have the scikit-learn of {DEFAULT_IMAGE}")
        return
    yield BASE, servers.sagemaker(place, model, PLAIN)
    yield "  with our inference.py", servers.sagemaker(place, model, INFERENCE)
    yield "MLServer", servers.mlserver(place, model)


def under_load(place: Place, name: str, model: str, server: servers.Server) -> dict[tuple, float]:
    """The figures of one server, once its answer has been found to be scikit-learn's."""
    answer = server.probability(load.ask(server.address, server.request))
    if abs(answer - place.probability(model)) > 1e-9:
        raise UserError(f"{name} answers {answer} for {model}, not {place.probability(model)}")
    load.load(server.address, server.request, 2, min(1.0, place.seconds))  # every worker warm
    return by_clients(place, name, model, server.address, server.request)


def by_clients(
    place: Place, name: str, model: str, address: load.Address, message: bytes
) -> dict[tuple, float]:
    figures = {}
    for clients in CLIENTS:
        say(f"bench: {name.strip()}, {model}, {clients} clients")
        for key, value in load.load(address, message, clients, place.seconds).items():
            figures[(model, name, clients, key)] = value
    return figures


def one_row(place: Place, model: str) -> dict[tuple, float]:
    """The floors: one row in this process, without a server."""
    estimator = joblib.load(place.models[model] / "model_pulsar.joblib")
    served = inference.model_fn(str(place.models[model]))
    row, text = place.rows[:1], place.row.decode()

    def from_text_to_text() -> None:
        prediction = inference.predict_fn(inference.input_fn(text, "text/csv"), served)
        inference.output_fn(prediction, "text/csv")

    return {
        (model, "no server: predict_proba", 1, "p50 ms"): _ms(
            lambda: estimator.predict_proba(row), 300
        ),
        (model, "no server: our inference.py", 1, "p50 ms"): _ms(from_text_to_text, 3000),
    }


def _ms(function: Callable[[], object], count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1000


def table(medians: pd.Series) -> str:
    """A table for each model, by clients; the ratios are of requests/s to SageMaker's code."""
    parts = []
    for model in medians.index.unique(0):
        figures = medians[model].unstack()
        rate = figures["requests/s"].unstack()
        columns = {("requests/s", clients): rate[clients] for clients in CLIENTS}
        if BASE in rate.index:
            columns |= {("ratio", n): rate[n] / rate.loc[BASE, n] for n in CLIENTS}
        for key in ("p50 ms", "p99 ms"):
            latency = figures[key].unstack()
            columns |= {(key, clients): latency[clients] for clients in (1, CLIENTS[-1])}
        frame = pd.DataFrame(columns).reindex(medians[model].index.unique(0))
        formats = {
            "requests/s": "{:,.0f}",
            "ratio": "{:.1f}",
            "p50 ms": "{:.2f}",
            "p99 ms": "{:.1f}",
        }
        for column in frame:
            frame[column] = frame[column].map(formats[column[0]].format, na_action="ignore")
        parts.append(f"{model}, by clients\n{frame.fillna('').rename_axis(None).to_string()}")
    return "\n\n".join(parts)


def plot(axes, medians: pd.Series) -> None:
    """Requests a second at the most clients, by server and model, without the floors."""
    rate = medians[:, :, CLIENTS[-1], "requests/s"].unstack(0).drop(index=PING)
    rate = rate.reindex(medians.index.unique(1).intersection(rate.index, sort=False)[::-1])
    rate.plot.barh(ax=axes, xlabel=f"requests/s, {CLIENTS[-1]} clients", ylabel="")
