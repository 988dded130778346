"""Rank candidate files: read them, measure HTRU2's eight features, score them, the best first.

    python scripts/rank.py night/ -o ranked.csv
    python scripts/rank.py 'night/*/beam_0[1-7]/*.pfd' -o ranked.csv
    find night -newer yesterday -name '*.phcx.gz' | python scripts/rank.py - -o ranked.csv

Input are files, folders (with those below them), patterns, s3://bucket/prefix, and lists of names (@file,
or - for standard input). In folders, what is named .phcx, .phcx.gz, .pfd or .pfd.gz is taken, and the rest counted; what is
named itself is read whatever its name. A file's content says what it is.

With --known, each line also says which known pulsar the candidate is, or a harmonic of: a match is a column,
never a deletion.

What is done is kept beside the output, in ranked.csv.parts, until that is whole: whoever was killed goes
on from there by the same command. With --cluster, Dask's workers share the files among them, if all of them
see these: in a shared folder, or at s3://. docs/cluster.md has more.

With --shard i/n, for an array of jobs, each job ranks its share of the files; --merge makes one list of
theirs, the same as without shards, and only if all are there.

    python scripts/rank.py night/ -o ranked-$SLURM_ARRAY_TASK_ID.csv --shard $SLURM_ARRAY_TASK_ID/100
    python scripts/rank.py --merge ranked-*.csv -o ranked.csv

The list has a line for each file. One that cannot be read, or that the package has no model for, stands
at its end, without a rank, and with the reason. Nothing appears under the output's name before it is
complete.

Exit codes: 0 every file has a rank, 1 there is no list, 3 some files have none (--merge: 0 or 1).
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from candidates import finding, sky
from candidates.catalogue import COLUMNS as MATCH
from candidates.catalogue import Catalogue, Tolerances
from candidates.finding import Found
from clients import places
from common.errors import UserError, run
from common.files import sha256
from common.lines import csv_lines
from common.output import print_json, say
from scoring import cluster, command, forms, ranking, shards
from scoring.cluster import Cluster
from scoring.crew import Crew
from scoring.parts import Parts
from scoring.ranking import Row
from scoring.tasks import files_part

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


def rank_all(
    found: Found, package: bytes, parts: Parts | None, arguments: argparse.Namespace
) -> list[Row]:
    """What was found, in order, with the scores of a package; with `parts`, what is done is kept there."""
    lost = [Row(place, reason=reason) for place, reason in found.lost.items()]
    named = list(found.files)
    with tqdm(total=len(named), unit=" files", desc="rank", disable=None) as bar:
        if parts:
            ranked = beside(named, found.versions, package, parts, arguments, bar)
        else:
            ranked = here(named, package, arguments, bar)
        return ranking.ordered([*lost, *ranked])


def here(
    named: list[str], package: bytes, arguments: argparse.Namespace, bar: tqdm
) -> Iterator[Row]:
    """Files as rows with scores, in their order, by this machine's processes."""
    with (
        command.unpacked(package) as model,
        Crew(ranking.judge, 1, partial(command.settle, model)) as scorers,
        Crew(ranking.measure, command.workers(arguments), places.reach(named)) as readers,
    ):
        if not scorers.ready():
            raise UserError("the package's model cannot be loaded", "make package")
        for row in ranking.rows(named, readers, scorers):
            yield row
            bar.update()


def beside(
    named: list[str], versions: dict[str, str], package: bytes, parts: Parts,
    arguments: argparse.Namespace, bar: tqdm,
) -> list[Row]:  # fmt: skip
    """The same part by part; those that were done before are taken as they are."""
    parts.begin()
    lists = ranking.parted(named, versions)
    todo = [files for files in lists if parts.told(files.number, files.versions) is None]
    if kept := len(lists) - len(todo):
        say(f"rank: {kept} parts were done before, in {parts.folder}: going on from there")
        bar.update(len(named) - sum(len(files.named) for files in todo))
    if arguments.cluster:
        on_cluster(todo, package, parts, arguments, bar)
    elif todo:
        places_left = [place for files in todo for place in files.named]
        with closing(here(places_left, package, arguments, bar)) as rows:
            for files in todo:
                content = ranking.packed(islice(rows, len(files.named)))
                parts.write(files.number, content, {}, files.versions)
    return [row for files in lists for row in ranking.unpacked(parts.content(files.number))]


def on_cluster(
    todo: list[ranking.Files],
    package: bytes,
    parts: Parts,
    arguments: argparse.Namespace,
    bar: tqdm,
) -> None:
    """What is to be done, by a cluster's workers."""
    store = places.needed([parts.output, *(place for files in todo for place in files.named)])
    told = parts, os.getcwd(), package, cluster.code(), store
    with Cluster(arguments.cluster, arguments.workers) as workers:
        for files, _ in workers.each(files_part, todo, *told):
            bar.update(len(files.named))


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
    taken = "files, folders, patterns, s3://bucket/prefix, @list, or - for a list"
    parser = command.parser_of(__doc__, taken, "the files")
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
    command.check(parser, arguments)
    if arguments.merge and arguments.known:
        parser.error("--merge takes what its shards were made with")
    return arguments


def merge(arguments: argparse.Namespace) -> dict:
    """Write the list of all shards; how many files it has."""
    columns, rows = shards.merged(arguments.input)
    with forms.written(arguments.output, columns, ranking.NUMBERS, example="ranked.csv") as sink:
        sink.write_all(line.encode() for line in csv_lines(rows))
    return {"files": len(rows), "ranked": sum(row[0] != "" for row in rows)}


def rank(arguments: argparse.Namespace) -> dict:
    """Write the list; its summary."""
    command.check_output(arguments.output, "ranked.csv")
    more, of = (), None
    if arguments.known:
        catalogue = Catalogue(Path(arguments.known))
        say(
            f"rank: {len(catalogue.names):,} known pulsars; {catalogue.left_out:,} without a position or "
            "period are left out"
        )
        more, of = MATCH, partial(known, catalogue, arguments.within or Tolerances())
    began = time.monotonic()
    found = finding.find(arguments.input, places.listed)
    share = found.only(arguments.shard.has) if arguments.shard else found
    package, parts = command.package(arguments), None
    if arguments.output != "-":
        made_with = sha256(package) + cluster.code()
        parts = Parts(places.absolute(arguments.output), sha256(made_with.encode()))
    ranked = rank_all(share, package, parts, arguments)
    with forms.written(
        arguments.output, ranking.columns(more), ranking.NUMBERS, example="ranked.csv"
    ) as sink:
        sink.write_all(ranking.lines(ranked, of))
    if parts:
        parts.end()
    if arguments.shard:
        catalogue_read = Path(arguments.known).read_bytes() if arguments.known else b""
        made_with = [repr(arguments.within).encode(), package, catalogue_read]
        shards.sign(arguments.output, arguments.shard, found.files.values(), made_with, "rank")
    return summary_of(ranked, share, time.monotonic() - began)


def main() -> int:
    arguments = parsed()
    summary = merge(arguments) if arguments.merge else rank(arguments)
    if arguments.json and arguments.output != "-":
        print_json(summary)
    elif arguments.merge:
        say("rank: {ranked:,} of {files:,} files have a rank".format(**summary))
    else:
        tell(summary)
    return WITHOUT_RANK if summary.get("without_rank") else 0


if __name__ == "__main__":
    run(main)
