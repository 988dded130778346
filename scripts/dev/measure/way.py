"""The way of `make deploy`, step by step, and what a sandbox and an endpoint take of memory."""

import time
from collections.abc import Callable
from contextlib import ExitStack

import pandas as pd

from common.output import say
from measure import load, servers
from measure.place import DEFAULT, Place, command, sandbox

STAGES = ("prepare", "train", "evaluate", "report", "package")


def measure(place: Place) -> dict[tuple, float]:
    figures: dict[tuple, float] = {}

    def timed(step: str, function: Callable[[], object]) -> object:
        say(f"bench: {step}")
        began = time.perf_counter()
        result = function()
        figures[step, "s"] = time.perf_counter() - began
        return result

    for stage in STAGES:
        again = ("dvc", "repro", "--quiet", "--force", "--single-item", stage)
        timed(f"dvc repro {stage}", lambda again=again: command(*again))
    timed("dvc repro, nothing to do", lambda: command("dvc", "repro", "--quiet"))
    with ExitStack() as stack:
        started = sandbox(place.folder / "sandbox")
        running = timed("sandbox, start", lambda: stack.enter_context(started))
        bucket = running.target.bucket
        copy = ("aws", "s3", "cp", str(place.archives[DEFAULT]), f"s3://{bucket}/model.tar.gz")
        timed("aws s3 cp", lambda: command(*copy, env=running.target.environment))
        timed("provision to in service", lambda: running.deploy("bench", "model.tar.gz"))
        server = servers.through_sandbox(place, running, "bench")
        timed("the first request", lambda: load.ask(server.address, server.request))
        timed("predict.py", lambda: running.script("predict", "--endpoint", "bench"))
        figures |= {tuple(name.split(", ")): value for name, value in running.memory().items()}
    return figures


def table(medians: pd.Series) -> str:
    formats = {"s": "{:28}{:8.3f} s", "MiB": "{:28}{:6.0f}    MiB"}
    return "\n".join(formats[unit].format(step, value) for (step, unit), value in medians.items())


def plot(axes, medians: pd.Series) -> None:
    medians[:, "s"][::-1].plot.barh(ax=axes, xlabel="s", ylabel="")
