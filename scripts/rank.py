"""Rank candidate files: read them, measure HTRU2's eight features, score them, the best first.

    python scripts/rank.py night/ -o ranked.csv
    python scripts/rank.py 'night/*/beam_0[1-7]/*.pfd' -o ranked.csv
    find night -newer yesterday -name '*.phcx.gz' | python scripts/rank.py - -o ranked.csv

Input are files, folders (with those below them), patterns, and lists of names (@file, or - for standard
input). In folders, what is named .phcx, .phcx.gz, .pfd or .pfd.gz is taken, and the rest counted; what is
named itself is read whatever its name. A file's content says what it is.

With --known, each line also says which known pulsar the candidate is, or a harmonic of: a match is a column,
never a deletion.

With --shard i/n, for an array of jobs, each job ranks its share of the files; --merge makes one list of
theirs, the same as without shards, and only if all are there.

    python scripts/rank.py night/ -o ranked-$SLURM_ARRAY_TASK_ID.csv --shard $SLURM_ARRAY_TASK_ID/100
    python scripts/rank.py --merge ranked-*.csv -o ranked.csv

The list has a line for each file. One that cannot be read, or that the package has no model for, stands
at its end, without a rank, and with the reason. Nothing appears under the output's name before it is
complete.

Exit codes: 0 every file has a rank, 1 there is no list, 3 some files have none.
"""

import argparse
import os
import time
from collections import Counter
from functools import partial
from pathlib import Path

from tqdm import tqdm

from candidates import finding, sky
from candidates.catalogue import COLUMNS as MATCH
from candidates.catalogue import Catalogue, Tolerances
from candidates.finding import Found
from common.errors import UserError, run
from common.output import print_json, say
from score import check_shard, completed, parser_of, settle, unpacked
from scoring import ranking, shards
from scoring.crew import Crew
from scoring.ranking import Row

WITHOUT_RANK = 3
SHOWN = 10  # files that are told one by one


def tolerances(text: str) -> Tolerances:
    values = [float(word) for word in text.split(",")]
    if len(values) != 3 or not all(0 < value < 360 for value in values):
        raise ValueError
    return Tolerances(*values)


def known(catalogue: Catalogue, within: Tolerances, row: Row) -> list:
    """The known pulsar that a candidate is, as the columns of a match; empty where it is none."""
    said = dict(zip(ranking.DETAILS, row.details, strict=True))
    place = sky.position(said["ra"], said["dec"])
    found = None
    if place and said["period_s"]:
        found = catalogue.match(place, said["period_s"], said["dm"], within)
    return list(found or [""] * len(MATCH))


def rank_all(found: Found, model: str, workers: int) -> list[Row]:
    """What was found, in order, with the scores of an unpacked model."""
    rows = [Row(place, reason=reason) for place, reason in found.lost.items()]
    with (
        Crew(ranking.judge, 1, partial(settle, model)) as scorers,
        Crew(ranking.measure, workers) as readers,
        tqdm(total=len(found.files), unit=" files", desc="rank", disable=None) as bar,
    ):
        if not scorers.ready():
            raise UserError("the package's model cannot be loaded", "make package")
        for block in ranking.rows(list(found.files), readers, scorers, workers):
            rows += block
            bar.update(len(block))
    return ranking.ordered(rows)


def summary_of(ranked: list[Row], found: Found, seconds: float) -> dict:
    without = [row for row in ranked if row.score is None]
    return {
        "files": len(ranked),
        "ranked": len(ranked) - len(without),
        "labelled_pulsar": sum(row.label == 1 for row in ranked),
        "without_rank": len(without),
        "models": dict(Counter(row.model for row in ranked if row.model)),
        "reasons": [{"file": row.file, "reason": row.reason} for row in without[:SHOWN]],
        "passed_over": found.passed_over,
        "seconds": round(seconds, 3),
    }


def tell(summary: dict) -> None:
    rate = summary["files"] / max(summary["seconds"], 1e-9)
    say(
        f"rank: {summary['ranked']:,} files ranked in {summary['seconds']:.1f} s, {rate:,.0f} a second; "
        f"the model takes {summary['labelled_pulsar']:,} for pulsars"
    )
    for item in summary["reasons"]:
        say(f"  {item['file']}: {item['reason']}")
    if summary["without_rank"]:
        say(f"rank: {summary['without_rank']:,} files have no rank: they are at the list's end")
    if summary["passed_over"]:
        say(f"rank: {summary['passed_over']:,} files of other names were passed over")


def parsed() -> argparse.Namespace:
    taken = "files, folders, patterns, @list, or - for a list"
    parser = parser_of(__doc__, taken, "the files")
    parser.add_argument(
        "--known", type=os.path.expanduser, metavar="FILE",
        help="known pulsars: psrcat's database, or its CSV (psrcat -o short_csv)",
    )  # fmt: skip
    parser.add_argument(
        "--within", type=tolerances, metavar="DEGREES,PERIOD,DM",
        help="with --known: how far a candidate may be from a pulsar, its period or a harmonic as a part of "
        "it (default: 0.5,1e-4,5)",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.within and not arguments.known:
        parser.error("--within is for --known")
    check_shard(parser, arguments)
    if arguments.merge and (arguments.shard or arguments.known):
        parser.error("--merge takes what its shards were made with")
    return arguments


def merge(arguments: argparse.Namespace) -> None:
    with completed(arguments.output, "ranked.csv") as sink:
        for line in shards.merged([Path(place) for place in arguments.input]):
            sink.write(line)


def rank(arguments: argparse.Namespace) -> dict:
    """Write the list; its summary."""
    more, of = (), None
    if arguments.known:
        catalogue = Catalogue(Path(arguments.known))
        say(
            f"rank: {len(catalogue.names):,} known pulsars; {catalogue.left_out:,} without a position or "
            "period are left out"
        )
        more, of = MATCH, partial(known, catalogue, arguments.within or Tolerances())
    began = time.monotonic()
    found = finding.find(arguments.input)
    share = found.only(arguments.shard.has) if arguments.shard else found
    with (
        unpacked(arguments.model, arguments.trust) as model,
        completed(arguments.output, "ranked.csv") as sink,
    ):
        ranked = rank_all(share, model, arguments.workers)
        for line in ranking.lines(ranked, more, of):
            sink.write(line)
    if arguments.shard:
        read = [arguments.model, *([Path(arguments.known)] if arguments.known else [])]
        made_with = [repr(arguments.within).encode(), *(place.read_bytes() for place in read)]
        shards.sign(
            Path(arguments.output), arguments.shard, found.files.values(), made_with, "rank"
        )
    return summary_of(ranked, share, time.monotonic() - began)


def main() -> int:
    arguments = parsed()
    if arguments.merge:
        merge(arguments)
        return 0
    summary = rank(arguments)
    if arguments.json and arguments.output != "-":
        print_json(summary)
    else:
        tell(summary)
    return WITHOUT_RANK if summary["without_rank"] else 0


if __name__ == "__main__":
    run(main)
