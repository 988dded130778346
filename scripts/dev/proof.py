"""Prove the monitors: which of them finds what, after how many candidates, and how often for nothing.

    python scripts/dev/proof.py             # some ten minutes on two cores
    python scripts/dev/proof.py --quick     # a smaller model, fewer runs: a minute

Simulated candidates, a model trained on others, and accidents (measure/sky.py). Of each accident some
runs of captured candidates; each monitor of payloads/ is shown the first 30, 100, … of a run. An accident
counts as found at the smallest of these from which on all alarm; a size at which more than one
undisturbed window in twenty alarms counts for nothing. How often those do is told beside; for comparison, also under the limits that SageMaker's own
baseline would have set. A check that ends with a reason instead of a verdict is told apart.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it runs alone
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from clients.payloads import load_payload
from common import ROOT
from common.errors import run
from common.output import print_json, say
from common.params import load_params
from measure import sky
from orchestrator.monitors import bias, data_quality, explainability, model, model_quality
from orchestrator.monitors.__main__ import named
from orchestrator.monitors.frame import Refused
from orchestrator.pipelines import monitors as pipelines

QUIET, ALARM, REFUSED = 0, 1, 2
MOST_FALSE = 0.05  # of the undisturbed windows of a size at which an alarm means anything
UNDISTURBED = "undisturbed"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    sizes: tuple[int, ...] = (30, 100, 300, 1000, 3000)
    runs: int = 20
    undisturbed: int = 200
    trained_on: int = 14318
    pool: int = 5000  # candidates that a kind's windows are drawn from
    estimator: str | None = None


QUICK = Plan((100, 1000), 3, 10, 3000, 1500, "logistic")


class Monitor:
    """One monitor of payloads/: its baseline made by its own job, its checks called in this process."""

    def __init__(self, module, analysis, payload: str, endpoint: sky.Endpoint, folder: Path):
        values = load_payload(ROOT / "payloads" / f"pulsar-{payload}.json", "bucket")
        self._module, self.name = module, payload
        table = endpoint.files[values["baseline_data"].rpartition("/")[2]]
        self._files = module.baseline(table, settings(analysis.baseline, values))
        self._settings = settings(analysis.monitor, values)
        config = self._files.get("monitor/analysis_config.json")
        if config:
            path = folder / f"{payload}.json"
            path.write_text(json.dumps(config))
            self._settings["analysis_config"] = str(path)

    def check(self, table: pd.DataFrame, answers: int) -> tuple[int, int]:
        """What it says of a window; and what it would, had SageMaker written the baseline."""
        table = named(table.copy(), answers, self._files)
        try:
            found = self._module.check(
                table, self._files, self._settings | {"answer_columns": str(answers)}
            )
        except Refused:
            return REFUSED, REFUSED
        return int(bool(found.violations)), int(bool(self._without_room(found, len(table))))

    def _without_room(self, found, rows: int) -> list:
        if self._module is model_quality:
            metrics, known = (
                files["statistics.json"]["binary_classification_metrics"]
                for files in (found.files, self._files)
            )
            limits = model_quality.constraints(
                self._files["statistics.json"], "binary_classification"
            )
            return model_quality.violations(metrics, limits["binary_classification_constraints"])
        if self._module is bias:
            before = json.loads(json.dumps(self._files["analysis.json"]))
            for *_, metric in bias.every_metric(before):
                metric.pop(bias.ROOM, None)
            return bias.violations(before, found.files["analysis.json"], rows)
        return found.violations


def settings(keys: dict, values: dict) -> dict[str, str]:
    """A job's variables, as the payload fills them."""
    given = {name: values[key] for name, key in keys.items() if key in values}
    texts = {k: json.dumps(v) if isinstance(v, dict) else str(v) for k, v in given.items()}
    return texts | {"sagemaker_endpoint_name": values["endpoint_name"]}


class Proof:
    """Everything that a run needs, made once; its processes are forked with it."""

    def __init__(self, plan: Plan, accidents: list[str], folder: Path):
        self.plan = plan
        self.endpoint = sky.Endpoint(load_params()["train"], plan.trained_on, plan.estimator)
        self.captured = {
            name: sky.disturbed(self.endpoint, sky.HAPPENS[name], plan.pool, 100 + number)
            for number, name in enumerate(accidents)
        }
        usual = sky.Accident(UNDISTURBED)
        self.captured[UNDISTURBED] = sky.disturbed(self.endpoint, usual, 2 * plan.pool, 99)
        with mock.patch.object(model, "of_endpoint", self.endpoint.model):
            self.monitors = [
                Monitor(module, analysis, payload, self.endpoint, folder)
                for module, analysis, payload in (
                    (data_quality, pipelines.DATA_QUALITY, "data-quality"),
                    (model_quality, pipelines.MODEL_QUALITY, "model-quality"),
                    (bias, pipelines.BIAS, "bias"),
                    (explainability, pipelines.EXPLAINABILITY, "explainability"),
                )
            ]

    def run(self, name: str, number: int) -> np.ndarray:
        """What is said of one run's windows, an array (sizes, monitors, 2): with room, without."""
        captured = self.captured[name]
        order = np.random.default_rng([number, len(name)]).permutation(len(captured))
        with mock.patch.object(model, "of_endpoint", self.endpoint.model), quiet():
            windows = (captured.window(order[:size]) for size in self.plan.sizes)
            return np.array([[each.check(*window) for each in self.monitors] for window in windows])


def quiet():
    """The analyzers print what a job's log is to hold."""
    return mock.patch("builtins.print")


proof: Proof  # of a forked process


def one(task: tuple[str, int]) -> np.ndarray:
    with threadpool_limits(1):
        return proof.run(*task)


def measured(plan: Plan, accidents: list[str]) -> dict:
    """The verdicts of all runs by kind, and what they come to."""
    global proof
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        proof = Proof(plan, accidents, Path(folder))
        names = [monitor.name for monitor in proof.monitors]
        runs = dict.fromkeys(accidents, plan.runs) | {UNDISTURBED: plan.undisturbed}
        tasks = [(name, number) for name in runs for number in range(runs[name])]
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
            said = list(told(pool.map(one, tasks), len(tasks)))
    of = {
        name: np.array([each for (kind, _), each in zip(tasks, said, strict=True) if kind == name])
        for name in runs
    }
    alarms = shares(of, [UNDISTURBED], names, 0, ALARM)[UNDISTURBED]
    return {
        "sizes": list(plan.sizes), "runs": plan.runs, "undisturbed": plan.undisturbed,
        "seconds": round(time.monotonic() - began),
        "found": {
            name: {
                monitor: found_after(of[name][:, :, place, 0], plan.sizes, alarms[monitor])
                for place, monitor in enumerate(names)
            }
            for name in accidents
        },
        "share_found": shares(of, accidents, names, 0, ALARM),
        "refused": shares(of, accidents, names, 0, REFUSED),
        "alarms": alarms,
        "alarms_of_sagemakers_limits": shares(of, [UNDISTURBED], names, 1, ALARM)[UNDISTURBED],
    }  # fmt: skip


def told(results, count: int):
    """The results as they come; says how far they are."""
    for number, result in enumerate(results, start=1):
        yield result
        if number % max(1, count // 10) == 0:
            say(f"proof: {number} of {count} runs")


def found_after(said: np.ndarray, sizes: tuple[int, ...], false: list[float]) -> int | str | None:
    """The median, over runs (runs, sizes), of the first size from which on all windows alarm, and which
    is one that means anything; None where there is none; `refused` where the checks end with a reason.

    `false`: the share of false alarms at each size.
    """
    if (said[:, -1] == REFUSED).mean() > 0.5:
        return "refused"
    firsts = []
    for verdicts in said:
        quiet_ones = np.flatnonzero((verdicts != ALARM) | (np.array(false) > MOST_FALSE))
        first = quiet_ones[-1] + 1 if len(quiet_ones) else 0
        firsts.append(sizes[first] if first < len(sizes) else float("inf"))
    median = statistics.median_high(firsts)
    return int(median) if median < float("inf") else None


def shares(of: dict, kinds: list[str], names: list[str], which: int, verdict: int) -> dict:
    """By kind and monitor, the share of windows of each size with a verdict."""
    return {
        kind: {
            name: (of[kind][:, :, place, which] == verdict).mean(axis=0).round(3).tolist()
            for place, name in enumerate(names)
        }
        for kind in kinds
    }


def markdown(result: dict) -> str:
    """The two tables of docs/monitors.md."""
    names = list(result["alarms"])
    lines = ["| accident | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for accident, found in result["found"].items():
        cells = ["–" if found[name] is None else str(found[name]) for name in names]
        lines.append(f"| {sky.HAPPENS[accident].words} | {' | '.join(cells)} |")
    sizes = [str(size) for size in result["sizes"]]
    lines += ["", "| false alarms in windows of | " + " | ".join(sizes) + " |"]
    lines += ["|---|" + "---|" * len(sizes)]
    for title, key in (("", "alarms"), (", SageMaker's limits", "alarms_of_sagemakers_limits")):
        for name in names:
            alarms = result[key][name]
            if key == "alarms" or alarms != result["alarms"][name]:
                cells = [f"{alarm:.1%}" for alarm in alarms]
                lines.append(f"| {name}{title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("accident", nargs="*", help=f"of {', '.join(sky.HAPPENS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a smaller model, fewer runs")
    parser.add_argument("--runs", type=int, help="of each accident; default: 20")
    parser.add_argument(
        "--undisturbed", type=int, help="runs in which nothing happens; default: 200"
    )
    parser.add_argument("--json", action="store_true", help="every share as JSON")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.accident) - set(sky.HAPPENS))
    if unknown:
        parser.error(f"there is no accident {', '.join(unknown)}: {', '.join(sky.HAPPENS)}")
    plan = QUICK if arguments.quick else Plan()
    given = {name: getattr(arguments, name) for name in ("runs", "undisturbed")}
    plan = replace(plan, **{name: count for name, count in given.items() if count is not None})
    if min(plan.runs, plan.undisturbed) < 1:
        parser.error("--runs and --undisturbed are counts from 1 on")
    say(f"proof: {plan.runs} runs of each accident, {plan.undisturbed} undisturbed ones")
    result = measured(plan, arguments.accident or list(sky.HAPPENS))
    print_json(result) if arguments.json else print(markdown(result))
    say(f"proof: {result['seconds']} s")
    return 0


if __name__ == "__main__":
    run(main)
