"""How a sandbox bears pipelines: with few and with many, what one more costs, and a question."""

import time

import numpy as np
import pandas as pd

from clients.api import ask
from common.output import say
from measure import load, servers
from measure.place import DEFAULT, Place, sandbox
from orchestrator.contract import STATUS_PATH

PIPELINES = (1, 10, 100)
ASKED = 1000  # calls of /pipelinestatus, over all pipelines in turn


def measure(place: Place) -> dict[tuple, float]:
    figures: dict[tuple, float] = {}
    with sandbox(place.folder / "sandbox") as running:
        running.upload(place.archives[DEFAULT], "model.tar.gz")
        pipelines: list[str] = []
        for count in PIPELINES:
            say(f"bench: {count} pipelines")
            while len(pipelines) < count:
                began = time.perf_counter()
                pipelines.append(running.deploy(f"bench-{len(pipelines)}", "model.tar.gz"))
                provisioned = time.perf_counter() - began
            figures[count, "one more in service, s"] = provisioned
            times = []
            for number in range(ASKED):
                pipeline = pipelines[number % count]
                began = time.perf_counter()
                ask(running.target, STATUS_PATH, {"pipeline_id": pipeline})
                times.append(time.perf_counter() - began)
            figures[count, "status, p50 ms"] = float(np.median(times)) * 1000
            figures[count, "status, p99 ms"] = float(np.quantile(times, 0.99)) * 1000
            server = servers.through_sandbox(place, running, f"bench-{count - 1}")
            asked = load.load(server.address, server.request, 8, place.seconds)
            figures[count, "predictions/s, 8 clients"] = asked["requests/s"]
            figures |= {(count, name): value for name, value in running.memory().items()}
    return figures


def table(medians: pd.Series) -> str:
    frame = medians.unstack(0)
    frame = frame.reindex(medians.index.unique(1))
    frame.index.name, frame.columns.name = None, "pipelines"
    return frame.to_string(float_format="{:,.1f}".format)


def plot(axes, medians: pd.Series) -> None:
    for key in ("status, p50 ms", "status, p99 ms"):
        medians[:, key].plot(ax=axes, marker="o", label=key, logx=True)
    axes.set(xlabel="pipelines", ylabel="ms", ylim=(0, None))
    axes.legend()
