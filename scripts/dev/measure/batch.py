"""Many candidates: `scripts/score.py` from file to file, and the floors under it."""

import json
import subprocess
import sys
import time
import timeit
from pathlib import Path

import joblib
import pandas as pd
from pyarrow import csv

from candidates import simulator
from common import ROOT
from common.errors import UserError
from common.output import say
from measure.place import DEFAULT, Place
from scoring import inference

SIZES = (1, 10_000, 100_000, 1_000_000, 10_000_000)
SIMULATED = 20_000  # candidates, over and over again
FLOOR = 1_000_000  # rows at which the floors are measured
SCORE = "score.py"
PYARROW, PANDAS = "pyarrow parses", "pandas parses"
OURS, PREDICT = "inference.py predicts", "predict_proba"
FLOORS = (PYARROW, PANDAS, OURS, PREDICT)


def measure(place: Place) -> dict[tuple, float]:
    features, _ = simulator.simulate(SIMULATED // 10, SIMULATED - SIMULATED // 10, seed=7)
    lines = pd.DataFrame(features).to_csv(index=False, header=False).encode()
    figures: dict[tuple, float] = {}
    for size in SIZES:
        say(f"bench: {size:,} candidates")
        path = place.folder / "night.csv"
        with open(path, "wb") as file:
            for _ in range(0, size - SIMULATED + 1, SIMULATED):
                file.write(lines)
            left = size % SIMULATED
            file.writelines(lines.splitlines(keepends=True)[:left])
        figures |= {(SCORE, size, key): value for key, value in score(path, size).items()}
        if size == FLOOR:
            figures |= floors(place, path)
        path.unlink()
    return figures


def score(path: Path, size: int) -> dict[str, float]:
    """Seconds from the command to its end, and MiB of its largest process."""
    command = [sys.executable, "-c", WATCHED, sys.executable, "scripts/score.py"]
    command += [str(path), "-o", str(path.with_suffix(".out")), "--json"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    summary, _, peak = done.stdout.rpartition("}")
    if done.returncode or json.loads(summary + "}")["rows"] != size:
        raise UserError(f"score.py failed: {done.stderr.strip().splitlines()[-1]}")
    unit = 1024 if sys.platform == "linux" else 1024**2  # macOS counts bytes
    return {"s": seconds, "MiB": int(peak) / unit}


# A process counts its own peak from its parent's size on, and this one is small.
WATCHED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def floors(place: Place, path: Path) -> dict[tuple, float]:
    """Seconds for the same rows, in this process: parsed alone, predicted alone."""
    data = pd.read_csv(path, header=None).to_numpy()
    estimator = joblib.load(place.models[DEFAULT] / "model_pulsar.joblib")
    ours = inference.model_fn(str(place.models[DEFAULT]))
    options = csv.ReadOptions(autogenerate_column_names=True)
    ways = {
        PYARROW: lambda: csv.read_csv(path, options),
        PANDAS: lambda: pd.read_csv(path, header=None),
        OURS: lambda: ours.probability(data),
        PREDICT: lambda: estimator.predict_proba(data),
    }
    return {
        (name, FLOOR, "s"): min(timeit.repeat(way, number=1, repeat=3))
        for name, way in ways.items()
    }


def table(medians: pd.Series) -> str:
    seconds = medians[SCORE, :, "s"]
    lines = [f"{'candidates':>12}{'s':>8}{'rows/s':>12}{'us/row after the start':>24}{'MiB':>6}"]
    each = {size: (seconds[size] - seconds[1]) / size * 1e6 for size in SIZES if size >= FLOOR}
    for size in SIZES:
        after = f"{each[size]:.2f}" if size in each else ""
        lines.append(
            f"{size:12,}{seconds[size]:8.2f}{size / seconds[size]:12,.0f}{after:>24}"
            f"{medians[SCORE, size, 'MiB']:6.0f}"
        )
    lines.append("the floors, for a row:")
    for name in FLOORS:
        floor = medians[name, FLOOR, "s"] / FLOOR * 1e6
        lines.append(f"  {name:22}{floor:6.2f} us; score.py {each[SIZES[-1]] / floor:.1f} times it")
    return "\n".join(lines)


def plot(axes, medians: pd.Series) -> None:
    axes.loglog(SIZES[1:], [medians[SCORE, size, "s"] for size in SIZES[1:]], "o-", label=SCORE)
    for name in FLOORS:
        each = medians[name, FLOOR, "s"] / FLOOR
        axes.loglog(SIZES[1:], [size * each for size in SIZES[1:]], ":", label=name)
    axes.set(xlabel="candidates", ylabel="s")
    axes.legend()
