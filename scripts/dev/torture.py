"""Torture a sandbox: faults one after the other under load, and after each everything must be right.

    python scripts/dev/torture.py --seconds 60 --seed 7        # or: make soak SECONDS=60 SEED=7

A sandbox of its own, in a temporary folder: three pipelines are asked without a pause, objects come
and go, and in each round one thing happens to it (ordeal/faults.py): processes are killed, the disk
is full, the clock jumps, clients are slow or hostile, requests meet each other, models are no good.
After each round (ordeal/checks.py) every acknowledged object is there, every answered prediction was
right and is captured once, nothing is in progress, no process and no file is left over.

The same seed gives the same faults. Exit code 0: nothing was wrong; 1: what was, is listed.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it runs alone
from common.errors import run
from common.files import ARCHIVE
from common.output import print_json, say
from ordeal.arena import Arena
from ordeal.checks import Checks
from ordeal.crowd import Crowd, Ledger, Pipeline, model
from ordeal.deeds import Deeds
from ordeal.faults import FAULTS, NEEDS, World

ROW = "99.4,41.6,1.5,4.2,27.6,61.7,2.2,3.7"  # for the trained model


def sequence(seed: int, names: list[str]):
    """The faults by round: all of them in an order of chance, and again in another one."""
    draw = random.Random(seed)
    while True:
        yield from draw.sample(names, len(names))


def pipelines() -> list[Pipeline]:
    """One that is brought up to date, one that is left alone, and one with the trained model."""
    trained = [Pipeline("trained", ARCHIVE.read_bytes(), ROW)] if ARCHIVE.exists() else []
    return [Pipeline("changing", model(1)), Pipeline("steady", model(1)), *trained]


def torture(arena: Arena, ledger: Ledger, seed: int, seconds: float, only: list[str]) -> list[dict]:
    """Round after round until the time is up: the fault of each, and how long it took."""
    deeds, stays = Deeds(arena, ledger), pipelines()
    arena.up()
    for pipeline in stays:
        deeds.create(pipeline)
    names = [name for name in only or FAULTS if NEEDS.get(name) not in arena.missing]
    rounds, end = [], time.monotonic() + seconds
    with Crowd(arena, ledger, stays, seed) as crowd:
        checks = Checks(arena, ledger, deeds, crowd, stays)
        for number, name in enumerate(sequence(seed, names), 1):
            began, before, known = time.monotonic(), ledger.counts.copy(), len(ledger.wrong)
            if began > end:
                break
            ledger.round = f"round {number}, {name}"
            world = World(arena, ledger, deeds, crowd, stays[0], f"passing-{number}")
            try:
                FAULTS[name](world, random.Random(f"{seed}/{number}"))
            except Exception as error:
                ledger.fault(f"{type(error).__name__}: {error}")
            checks.settle()
            rounds.append({"fault": name, "seconds": round(time.monotonic() - began, 1)})
            told(ledger, rounds[-1], ledger.counts - before, ledger.wrong[known:])
    ledger.round = "after the last round"
    checks.the_rest()
    for what in checks.over():
        ledger.fault(what)
    return rounds


def told(ledger: Ledger, done: dict, counts, wrong: list[str]) -> None:
    retried = sum(count for name, count in counts.items() if name.endswith("retried"))
    figures = f"{counts['predictions answered']} answered, {retried} retried"
    say(
        f"{ledger.round} ({done['seconds']} s): {figures}, {f'{len(wrong)} WRONG' if wrong else 'ok'}"
    )
    for what in wrong[:5]:
        say(f"  {what}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="the last round is finished")
    parser.add_argument("--seed", type=int, help="default: any")
    parser.add_argument(
        "--only", action="append", choices=FAULTS, metavar="fault", help=", ".join(FAULTS)
    )
    parser.add_argument("--logs", type=Path, help="a folder that the sandbox's logs are copied to")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    say(f"torture: seed {seed}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and what was begun is ended
    ledger = Ledger()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        arena = Arena(Path(folder).resolve())
        for name, why in arena.missing.items():
            left_out = [fault for fault, need in NEEDS.items() if need == name]
            say(f"torture: left out are {', '.join(left_out)}: {why}")
        try:
            rounds = torture(arena, ledger, seed, arguments.seconds, arguments.only)
        finally:
            if arguments.logs:
                arguments.logs.mkdir(parents=True, exist_ok=True)
                for log in (*arena.folder.glob("*.log"), *arena.folder.glob("*/*.log")):
                    shutil.copy(log, arguments.logs)
            arena.close()
    faults: dict[str, int] = {}
    for done in rounds:
        faults[done["fault"]] = faults.get(done["fault"], 0) + 1
    pauses = {f"longest pause of an endpoint {k}, s": round(v, 2) for k, v in ledger.pauses.items()}
    figures = dict(sorted(ledger.counts.items())) | pauses
    if arguments.json:
        print_json(
            {"seed": seed, "rounds": rounds, "faults": faults, "figures": figures,
             "left out": arena.missing, "wrong": ledger.wrong}
        )  # fmt: skip
    else:
        for name, figure in figures.items():
            print(f"{figure:>12,}  {name}")
        print(f"{len(rounds):>12,}  faults: {', '.join(f'{n} × {k}' for k, n in faults.items())}")
        for what in ledger.wrong:
            print(f"WRONG  {what}")
    said = "nothing was wrong" if not ledger.wrong else f"{len(ledger.wrong)} things were wrong"
    say(f"torture: seed {seed}, {said}")
    return 1 if ledger.wrong else 0


if __name__ == "__main__":
    run(main)
