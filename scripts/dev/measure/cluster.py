"""Rows and files by one process and by more, of this machine and of Dask; what a million and more of them
take, and what that costs on AWS."""

import gzip
import json
import resource
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from candidates import simulator
from clients.costs import PRICES
from common import ROOT
from common.errors import UserError
from common.output import say
from measure.place import Place

SCORE, RANK = "score", "rank"
HERE, DASK = "processes", "Dask"
WORKERS = (1, 2)
SIZES = {SCORE: (200_000, 3_000_000), RANK: (600, 10_000)}  # rows; files: enough for every worker
FLOOR = "gzip and XML alone"
WALL, CPU = "s", "CPU s"
DISTINCT = 200  # files, over and over again
HOURLY = "ml.m5.large"  # two cores
SURVEYS = (10**6, 10**9, 10**11)


def measure(place: Place) -> dict[tuple, float]:
    """Seconds from a command to its end, of a small and a large input; and of the floor, for files."""
    figures: dict[tuple, float] = {}
    for verb, sizes in SIZES.items():
        for size in sizes:
            source = rows(place.folder, size) if verb == SCORE else folder(place.folder, size)
            for way in (HERE, DASK):
                for workers in WORKERS:
                    say(f"bench: {verb}, {size:,} by {workers} {way}")
                    taken = run(verb, source, way, workers)
                    figures |= {
                        (verb, size, way, workers, unit): value for unit, value in taken.items()
                    }
            if verb == RANK:
                command = [sys.executable, "-c", ALONE, str(source)]
                figures |= {
                    (FLOOR, size, HERE, 1, unit): value for unit, value in timed(command).items()
                }
    return figures


ALONE = """
import gzip, pathlib, sys, xml.etree.ElementTree as tree
for path in pathlib.Path(sys.argv[1]).iterdir():
    tree.fromstring(gzip.decompress(path.read_bytes()))
"""


def run(verb: str, source: Path, way: str, workers: int) -> dict[str, float]:
    command = [sys.executable, f"scripts/{verb}.py", str(source), "-o", f"{source}.out"]
    command += ["--json", "--workers", str(workers)]
    return timed(command + (["--cluster", "local"] if way == DASK else []))


def timed(command: list[str]) -> dict[str, float]:
    """Seconds of a command, and of processors, its processes' all."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise UserError(f"{command[1]} failed: {done.stderr.strip().splitlines()[-1]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        WALL: seconds,
        CPU: after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def rows(place: Path, size: int) -> Path:
    features, _ = simulator.simulate(2_000, 18_000, seed=7)
    lines = pd.DataFrame(features).to_csv(index=False, header=False).encode()
    path = place / f"night-{size}.csv"
    with path.open("wb") as file:
        for _ in range(0, size, 20_000):
            file.write(lines)
    return path


def folder(place: Path, size: int) -> Path:
    path = place / f"night-{size}"
    path.mkdir()
    for number in range(size):
        (path / f"{number}.phcx.gz").write_bytes(phcx(number % DISTINCT))
    return path


@cache
def phcx(number: int) -> bytes:
    """A packed PHCX of noise, with all that Pulsar Hunter writes: 26 kB, as HTRU's are."""
    draw = np.random.default_rng(number)

    def block(size: int) -> str:
        text = draw.integers(0, 256, size, np.uint8).tobytes().hex().upper()
        return "\n".join(text[at : at + 80] for at in range(0, len(text), 80))

    def section(name: str, dms: int, block_size: int) -> str:
        axis = "\n".join(f"{0.8 * trial:.4f}" for trial in range(dms))
        return (
            f"<Section name='{name}'><BestValues><BaryPeriod>0.0715</BaryPeriod><Dm>9.5</Dm>"
            f"<Snr>9.5</Snr></BestValues><SubIntegrations nBins='128' nSub='16' format='02X'>{block(2048)}"
            f"</SubIntegrations><SubBands nBins='128' nSub='16' format='02X'>{block(2048)}</SubBands>"
            f"<Profile nBins='128' format='02X'>{block(128)}</Profile><SnrBlock><DmIndex>{axis}</DmIndex>"
            f"<DataBlock format='02X'>{block(block_size)}</DataBlock></SnrBlock></Section>"
        )

    search, fold = section("FFT", 1196, 1196), section("FFT-pdmpd", 66, 66 * 66)
    return gzip.compress(f"<phcf><head/>{search}{fold}</phcf>".encode(), mtime=0)


def each(medians: pd.Series, verb: str, way: str, workers: int, unit: str = WALL) -> float:
    """Seconds a candidate, when everything has started."""
    small, large = SIZES.get(verb, SIZES[RANK])
    taken = [medians[verb, size, way, workers, unit] for size in (small, large)]
    return (taken[1] - taken[0]) / (large - small)


def rates(medians: pd.Series) -> list[str]:
    lines = [f"{'':22}{'candidates/s':>14}{'of one':>8}{'start, s':>10}{'CPU us each':>13}"]
    for verb, (small, _) in SIZES.items():
        one = each(medians, verb, HERE, 1)
        for way in (HERE, DASK):
            for workers in WORKERS:
                seconds = each(medians, verb, way, workers)
                processor = each(medians, verb, way, workers, CPU)
                lines.append(
                    f"{f'{verb}, {workers} {way}':22}{1 / seconds:14,.0f}{one / seconds:8.2f}"
                    f"{medians[verb, small, way, workers, WALL]:10.1f}{processor * 1e6:13,.2f}"
                )
    floor = each(medians, FLOOR, HERE, 1, CPU)
    ratio = each(medians, RANK, HERE, 1, CPU) / floor
    lines.append(f"{FLOOR}: {floor * 1e6:,.0f} us a file; rank {ratio:.2f} times it, all processes")
    return lines


def surveys(medians: pd.Series) -> list[str]:
    """Hours of two cores, from what one core takes for each, and their price."""
    price = json.loads(PRICES.read_text())["hosting_per_hour"][HOURLY]
    lines = [
        f"{'candidates':>18}{'verb':>8}{'hours of 2 cores':>18}{'on 10 such':>12}{HOURLY + ', $':>18}"
    ]
    for size in SURVEYS:
        for verb in SIZES:
            hours = size * each(medians, verb, HERE, 2) / 3600
            lines.append(
                f"{size:18,}{verb:>8}{hours:18,.3g}{hours / 10:12,.3g}{hours * price:18,.2g}"
            )
    return lines


def table(medians: pd.Series) -> str:
    return "\n".join([*rates(medians), "", *surveys(medians)])


def plot(axes, medians: pd.Series) -> None:
    for verb in SIZES:
        one = each(medians, verb, HERE, 1)
        for way, style in ((HERE, "o-"), (DASK, "s--")):
            times = [one / each(medians, verb, way, workers) for workers in WORKERS]
            axes.plot(WORKERS, times, style, label=f"{verb}, {way}")
    axes.plot(WORKERS, WORKERS, ":", color="gray", label="ideal")
    axes.set(xlabel="workers", ylabel="times one process", xticks=WORKERS)
    axes.legend()
