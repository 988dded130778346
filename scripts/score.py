"""Score candidates by the million with the packaged model, on every core.

    python scripts/score.py night.csv -o scored.csv
    zcat night.csv.gz | python scripts/score.py - > scored.csv
    python scripts/score.py s3://pulsar-assets/night.csv -o s3://pulsar-assets/scored.csv

Input is a table of candidates in any dialect, Parquet, or either packed (gzip, xz, zip): columns are
found by name, or by position where eight have none. Output has a line for every candidate, in the
same order: what is no feature and no class, such as an id, then `label,probability,model`. A row that
cannot be read ends the run, and is named; with --drop-bad it is left out, and counted. Nothing appears
under the output's name before it is complete.

What is done is kept beside the output, in scored.csv.parts, until that is whole: whoever was killed goes
on from there by the same command. With --cluster, Dask's workers share the parts among them, of a plain
table that all of them see: a shared folder, or s3://. docs/cluster.md has more.

With --shard i/n, for an array of jobs, each job scores its share of one plain table, whole lines of it;
--merge makes one table of theirs, and only if all are there. Either way the output is the same to the byte.

    python scripts/score.py night.csv -o scored-$SLURM_ARRAY_TASK_ID.csv --shard $SLURM_ARRAY_TASK_ID/100
    python scripts/score.py --merge scored-*.csv -o scored.csv

`model` is `eight`, or `six` for a table whose DM curves are of another scale: the model that does
without their mean and deviation. The rows that a table opens with decide for the whole of it; --features
says it instead. What lies outside of what the model was trained on is counted, and said.

A package holds code. That of a package from elsewhere runs only with --trust, and like every
model's it gets no network and no files but its own where the kernel can see to it (Linux).
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from uuid import uuid4

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from candidates import files, tables
from candidates.files import add_reading
from clients import places
from clients.places import Source
from common.errors import BadData, UserError, run
from common.files import sha256
from common.output import print_json, say
from scoring import cluster, command, engine, forms, shards
from scoring.cluster import Cluster
from scoring.crew import Crew
from scoring.engine import ANSWER, MODEL, Tally
from scoring.parts import Parts
from scoring.tasks import PART_BYTES, Table, table_part

NUMBERS = {"label": pa.int8(), "probability": pa.float64()}


def named(place: str) -> str:
    return "standard input" if place == "-" else place.rpartition("/")[2]


def chosen(asked: str, crew: Crew, opening: np.ndarray) -> str:
    """The model that was asked for, or the one that the package would take for rows (n, 8)."""
    ((_, result),) = crew.each([[partial(engine.choose, opening)]], 1)
    if result is None:
        raise UserError("the package's model cannot be loaded", "make package")
    ((which, has_choice),) = result
    if asked == tables.SIX and not has_choice:
        raise UserError("the package has no model of six features", "make package")
    return which if asked == "auto" else asked


class Work:
    """A table, or a stretch of it, on its way to its scores."""

    def __init__(self, source: Source, crew: Crew, arguments: argparse.Namespace) -> None:
        self.name, self.crew, self.arguments = named(arguments.input), crew, arguments
        self.chunks = files.Chunks(source.stream, self.name)
        with files.refused(self.name):
            found, head, self._blocks = engine.opening(self.chunks, arguments.kurtosis)
        for line in found.told():
            say(f"{self.name}: {line}")
        which = chosen(arguments.features, crew, head)
        place = places.absolute(arguments.input)
        self.table = Table(place, source.identity or uuid4().hex, found, which)
        self.size, self.begin, self.end, self.stretch = source.size, 0, source.size, None
        if arguments.shard or arguments.cluster:
            share = arguments.shard or shards.Shard(1, 1)
            with files.refused(self.name):
                bounds = share.bytes_of(source.size or 0, engine.BLOCK_BYTES)
                self.stretch = self.chunks = shards.Stretch(source, self.name, *bounds)
            self.begin, self.end = self.stretch.begin, self.stretch.end
            self.size = self.end - self.begin
            self._blocks = engine.blocks(self.stretch, begin=self.begin)
        if arguments.shard:
            self.name += f", from byte {self.begin} on"

    def columns(self) -> list[str]:
        return engine.columns(self.table.found, [*ANSWER, MODEL])

    def has_header(self) -> bool:
        return self.table.found.header is not None and self.opens()

    def opens(self) -> bool:
        """Whether it begins with the table's header, if that has one."""
        return self.stretch is None or self.begin == 0 < self.size

    def scored(self, done: set[int], seen: list[int]) -> Iterator[tuple[int, engine.Scored]]:
        """Its blocks with the number of the part that each is of, but those of parts that are done;
        `seen` comes to hold the numbers of all parts."""

        def todo() -> Iterator[tuple[int, bytes]]:
            at = self.begin
            for block in self._blocks:
                at += len(block)
                number = (at - 1) // PART_BYTES
                if number not in seen[-1:]:
                    seen.append(number)
                if number not in done:
                    yield number, block

        opens = self.opens() and 0 not in done
        return engine.score(self.table.found, todo(), self.table.which, self.crew, opens)

    def unchanged(self) -> None:
        """BadData where the table is no longer what it was: what was read is of neither."""
        place, identity = self.table.place, self.table.identity
        if self.size is not None and places.identity(place) != identity:
            raise BadData(f"{self.name} has changed while it was read", "the same again")


def straight(work: Work) -> Tally:
    """Score to standard output."""
    tally = Tally()
    with (
        forms.written("-", work.columns(), NUMBERS, work.has_header()) as sink,
        progress_of(work) as bar,
        closing(work.scored(set(), [])) as scored,
    ):
        for _, block in scored:
            tally.add(block)
            if work.arguments.drop_bad or not tally.bad_rows:
                sink.write(block.output)
            told(bar, work, tally.rows)
    work.unchanged()
    return tally


def progress_of(work: Work) -> tqdm:
    return tqdm(total=work.size, unit="B", unit_scale=True, desc="score", disable=None)


def told(bar: tqdm, work: Work, rows: int) -> None:
    bar.set_postfix_str(f"{rows:,} rows", refresh=False)
    bar.update(work.chunks.taken - bar.n)


def here(work: Work, parts: Parts) -> list[int]:
    """Score what is not done by this machine's processes, and keep it; the numbers of all parts."""
    seen: list[int] = []
    done = parts.done()
    rows = 0
    with progress_of(work) as bar, closing(work.scored(done, seen)) as scored:
        try:
            for number, blocks in groupby(scored, itemgetter(0)):
                tally, output = Tally(), []
                for _, block in blocks:
                    tally.add(block)
                    output.append(block.output)
                    told(bar, work, rows + tally.rows)
                parts.write(number, b"".join(output), tally.told())
                rows += tally.rows
        except engine.Killed as error:
            earlier = (parts.told_at_last(number) for number in done if number < error.number)
            error.before += sum(said["rows"] + said["bad_rows"] for said in earlier)
            raise
        told(bar, work, rows)
    return seen


def on_cluster(work: Work, parts: Parts, package: bytes) -> list[int]:
    """The same, by a cluster's workers."""
    numbers = list(range(-(-work.size // PART_BYTES)))
    todo = sorted(set(numbers) - parts.done())
    store = places.needed([work.table.place, parts.output])
    with (
        Cluster(work.arguments.cluster, work.arguments.workers) as workers,
        tqdm(total=len(numbers), initial=len(numbers) - len(todo), unit=" parts", desc="score",
             disable=None) as bar,
    ):  # fmt: skip
        rows = 0
        for _, said in workers.each(
            table_part, todo, parts, work.table, package, cluster.code(), store
        ):
            rows += said["rows"]
            bar.set_postfix_str(f"{rows:,} rows", refresh=False)
            bar.update()
    return numbers


def score(arguments: argparse.Namespace) -> dict:
    """Write the scores; their summary."""
    package = command.package(arguments)
    command.check_output(arguments.output, "scored.csv")
    with (
        command.unpacked(package) as model,
        places.opened(arguments.input) as source,
        Crew(engine.called, command.workers(arguments), partial(command.settle, model)) as crew,
    ):
        work = Work(source, crew, arguments)
        began = time.monotonic()
        options = repr((work.table.found.excess, work.table.which)).encode()
        with files.refused(work.name):
            try:
                if arguments.output == "-":
                    tally = straight(work)
                    tally.judge(arguments.drop_bad)
                else:
                    tally = beside(work, package, options)
            except engine.Killed as error:
                remedy = "if memory was short, fewer at once: --workers 1"
                raise UserError(f"{work.name}: {error}", remedy) from None
    summary = tally.told() | {
        "model": work.table.which, "seconds": round(time.monotonic() - began, 3)
    }  # fmt: skip
    if arguments.shard:
        summary["from_byte"] = work.begin
        shards.sign(
            arguments.output, arguments.shard,
            [f"{work.stretch.size} bytes", sha256(work.stretch.head)],
            [package, options, repr(arguments.drop_bad).encode()], "score",
            begin=work.begin, end=work.end, summary=summary, columns=work.columns(),
            has_header=work.table.found.header is not None,
        )  # fmt: skip
    return summary


def beside(work: Work, package: bytes, options: bytes) -> Tally:
    """Score part by part, and make one table of them."""
    arguments, table = work.arguments, work.table
    made_with = [table.identity.encode(), package, options, cluster.code().encode()]
    # A cluster cuts a table by its bytes, where one machine sees that a cell goes on.
    span = f"{work.begin} {work.end} {bool(arguments.cluster)}".encode()
    parts = Parts(
        places.absolute(arguments.output),
        sha256(b"".join(sha256(x).encode() for x in [*made_with, span])),
    )
    if kept := parts.begin():
        say(f"score: {kept} parts were done before, in {parts.folder}: going on from there")
    numbers = on_cluster(work, parts, package) if arguments.cluster else here(work, parts)
    tally = Tally()
    for number in numbers:
        tally.add_told(parts.told_at_last(number))
    work.unchanged()
    tally.judge(arguments.drop_bad)
    with forms.written(arguments.output, work.columns(), NUMBERS, work.has_header()) as sink:
        for number in numbers:
            sink.write(parts.content(number))
    parts.end()
    return tally


def merge(arguments: argparse.Namespace) -> dict:
    """Write the scores of all shards as one; their summary."""
    began = time.monotonic()
    shares = shards.checked(arguments.input, "score")
    for (_, one), (place, after) in pairwise(shares):
        if one["end"] != after["begin"]:
            shard = f"{after['number']}/{after['of']}"
            raise UserError(
                f"the table has changed between shard {one['number']} and shard {shard}",
                shards.again("score", shard, place),
            )
    tally = Tally()
    for _, one in shares:
        tally.add_told(one["summary"])
    with files.refused("the shards"):
        tally.judge(drop_bad=True)
    first = shares[0][1]
    with forms.written(arguments.output, first["columns"], NUMBERS, first["has_header"]) as sink:
        for place, one in shares:
            with places.opened(place) as source:
                if one["begin"] == 0 < one["end"] and one["has_header"]:
                    source.stream.read(len(forms.header(one["columns"])))
                for lines in engine.blocks(iter(partial(source.stream.read, files.CHUNK), b"")):
                    sink.write(lines)
    seconds = round(time.monotonic() - began, 3)
    return tally.told() | {"model": first["summary"]["model"], "seconds": seconds}


def tell(summary: dict) -> None:
    rate = summary["rows"] / max(summary["seconds"], 1e-9)
    say(
        f"score: {summary['rows']:,} candidates in {summary['seconds']:.1f} s, {rate:,.0f} a second"
    )
    if summary["model"] == tables.SIX:
        say("score: by the model of six features, without the DM curve's mean and deviation")
    for line in tables.told(summary["outside"]):
        say(f"  {line}")
    if summary["bad"] and "from_byte" in summary:
        say(f"score: rows are counted from byte {summary['from_byte']} of the table on")
    for row in summary["bad"]:
        say(f"  row {row['row']}: {row['reason']}")
    if summary["bad_rows"]:
        say(f"score: {summary['bad_rows']} bad rows were left out")


def parsed() -> argparse.Namespace:
    taken = "a file, s3://bucket/key, or - for standard input"
    parser = command.parser_of(__doc__, taken, "a plain table")
    add_reading(parser)
    parser.add_argument(
        "--features", choices=("auto", tables.EIGHT, tables.SIX), default="auto",
        help="which model scores; six does without the mean and deviation of the DM curve",
    )  # fmt: skip
    arguments = parser.parse_args()
    command.check(parser, arguments)
    if arguments.merge:
        if any((arguments.kurtosis, arguments.drop_bad)) or arguments.features != "auto":
            parser.error("--merge takes what its shards were made with")
        return arguments
    if len(arguments.input) > 1:
        parser.error("one table at a time; several are for --merge")
    (arguments.input,) = arguments.input
    if arguments.input == "-" and (arguments.shard or arguments.cluster):
        parser.error("standard input has no parts that could be read alone: name a file or s3://")
    return arguments


def main() -> int:
    arguments = parsed()
    summary = merge(arguments) if arguments.merge else score(arguments)
    if arguments.json and arguments.output != "-":
        print_json(summary)
    else:
        tell(summary)
    return 0


if __name__ == "__main__":
    run(main)
