"""Score candidates by the million with the packaged model, on every core.

    python scripts/score.py night.csv -o scored.csv
    zcat night.csv.gz | python scripts/score.py - > scored.csv
    python scripts/score.py s3://pulsar-assets/night.csv -o s3://pulsar-assets/scored.csv

Input is a table of candidates in any dialect, Parquet, or either packed (gzip, xz, zip): columns are
found by name, or by position where eight have none. Output has a line for every candidate, in the
same order: what is no feature and no class, such as an id, then `label,probability,model`. A row that
cannot be read ends the run, and is named; with --drop-bad it is left out, and counted. Nothing appears
under the output's name before it is complete.

With --shard i/n, for an array of jobs, each job scores its share of one plain file, whole lines of it;
--merge makes one table of theirs, the same to the byte as without shards, and only if all are there.

    python scripts/score.py night.csv -o scored-$SLURM_ARRAY_TASK_ID.csv --shard $SLURM_ARRAY_TASK_ID/100
    python scripts/score.py --merge scored-*.csv -o scored.csv

`model` is `eight`, or `six` for a table whose DM curves are of another scale: the model that does
without their mean and deviation. The rows that a table opens with decide for the whole of it; --features
says it instead. What lies outside of what the model was trained on is counted, and said.

A package holds code. That of a package from elsewhere runs only with --trust, and like every
model's it gets no network and no files but its own where the kernel can see to it (Linux).
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from candidates import files, tables
from candidates.files import add_reading
from clients.refusals import explained
from clients.target import resolve
from common.errors import UserError, run
from common.files import ARCHIVE, sha256
from common.output import print_json, say
from orchestrator.sandbox.hosting.archive import BadArchive, unpack
from orchestrator.sandbox.hosting.confinement import READ, confine
from scoring import engine, shards
from scoring.crew import Crew


@contextmanager
def opened(place: str):
    """A binary stream to read from, and its size where it is known."""
    if place.startswith("s3://"):
        bucket, _, key = place[5:].partition("/")
        with explained():
            answer = resolve().client("s3").get_object(Bucket=bucket, Key=key)
            yield answer["Body"], answer["ContentLength"]
    else:
        with files.opened(place) as opened_file:
            yield opened_file


@contextmanager
def completed(place: str, example: str = "scored.csv"):
    """A binary stream to write to; its content appears under its name when all went well."""
    if place == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    folder = None if place.startswith("s3://") else Path(place).absolute().parent
    if folder and not folder.is_dir():
        raise UserError(f"the folder {folder} does not exist", f"mkdir -p {folder}")
    if folder and Path(place).is_dir():
        raise UserError(f"{place} is a folder", f"-o {place}/{example}")
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".score.", delete=False) as file:
        try:
            yield file
            file.close()
            if folder is None:
                bucket, _, key = place[5:].partition("/")
                with explained():
                    resolve().client("s3").upload_file(file.name, bucket, key)
            else:
                os.chmod(file.name, 0o644)
                os.replace(file.name, place)
        finally:
            Path(file.name).unlink(missing_ok=True)


def at_least_one(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


def parser_of(description: str, taken: str, shares: str) -> argparse.ArgumentParser:
    """The parser of a command that makes one list of what it is named (`taken`), or shares it (`shares`)
    among an array of jobs."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    expanded = os.path.expanduser  # behind INPUT= not every shell expands a `~`
    parser.add_argument("input", type=expanded, nargs="+", help=taken)
    parser.add_argument(
        "-o", "--output", type=expanded, default="-", help="a file, s3://bucket/key, or - (default)"
    )
    parser.add_argument(
        "--shard", type=shards.named, metavar="I/N",
        help=f"only the i-th of n shares of {shares}, from 1, for an array of jobs",
    )  # fmt: skip
    parser.add_argument(
        "--merge", action="store_true", help="make one list of those of all shards, the input"
    )
    parser.add_argument("--json", action="store_true", help="with -o: print the summary as JSON")
    add_model(parser)
    return parser


def check_shard(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End the command where a shard has no place to say what it is."""
    if arguments.shard and (arguments.output == "-" or arguments.output.startswith("s3://")):
        parser.error("--shard wants -o with a file: what it was a shard of is written beside it")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options of every command that runs a package."""
    parser.add_argument("--model", type=Path, default=ARCHIVE, help="default: models/model.tar.gz")
    parser.add_argument(
        "--trust", action="store_true", help="run the code of a --model from elsewhere"
    )
    parser.add_argument("--workers", type=at_least_one, default=os.cpu_count() or 1)


@contextmanager
def unpacked(archive: Path, trust: bool):
    """The folder of an unpacked package, which is our own or trusted, while it is needed."""
    if not archive.is_file():
        raise UserError(f"{archive} does not exist", "make package")
    if not (trust or is_own(archive)):
        raise UserError(
            f"{archive} was not made here, and scoring with it runs the code that is in it",
            f"add --trust if you know where it comes from, or: tar tzf {archive}",
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            unpack(archive, Path(folder, "model"))
        except BadArchive as error:
            raise UserError(f"{archive}: {error}", "make package") from None
        yield str(Path(folder, "model"))


def is_own(archive: Path) -> bool:
    """Whether it is the package that was made in this checkout."""
    return ARCHIVE.is_file() and archive.read_bytes() == ARCHIVE.read_bytes()


def settle(model: str) -> None:
    """Load a package into a process that gets no files but the package's."""
    engine.load(model, partial(confine, {model: READ}))


def score_all(
    source, size: int | None, stretch: shards.Stretch | None, sink, model: str, arguments: argparse.Namespace
) -> dict:  # fmt: skip
    """Score a stream, or a stretch of it, into another with an unpacked model; the engine's summary, and
    the seconds."""
    name, opens = named(arguments.input), True
    chunks = files.Chunks(source, name)
    with files.refused(name):
        found, opening, parts = engine.opening(chunks, arguments.kurtosis)
    for line in found.told():
        say(f"{name}: {line}")
    if stretch:
        chunks, size = stretch, stretch.end - stretch.begin
        opens = stretch.begin == 0 < size
        parts = engine.blocks(chunks, begin=stretch.begin)
        name = f"{name}, from byte {stretch.begin} on"
    with (
        files.refused(name),
        Crew(engine.called, arguments.workers, partial(settle, model)) as crew,
        tqdm(total=size, unit="B", unit_scale=True, desc="score", disable=None) as bar,
    ):

        def progress(rows: int) -> None:
            bar.set_postfix_str(f"{rows:,} rows", refresh=False)
            bar.update(chunks.taken - bar.n)

        began = time.monotonic()
        which = chosen(arguments.features, crew, opening)
        try:
            summary = engine.score(
                found, parts, which, sink, crew, arguments.drop_bad, progress, opens
            )
        except engine.Killed as error:
            remedy = "if memory was short, fewer at once: --workers 1"
            raise UserError(f"{name}: {error}", remedy) from None
        return summary | {"seconds": round(time.monotonic() - began, 3)}


def named(place: str) -> str:
    return "standard input" if place == "-" else Path(place).name


def chosen(asked: str, crew: Crew, opening: np.ndarray) -> str:
    """The model that was asked for, or the one that the package would take for rows (n, 8)."""
    ((_, result),) = crew.each([[partial(engine.choose, opening)]], 1)
    if result is None:
        raise UserError("the package's model cannot be loaded", "make package")
    ((which, has_choice),) = result
    if asked == tables.SIX and not has_choice:
        raise UserError("the package has no model of six features", "make package")
    return which if asked == "auto" else asked


def score(arguments: argparse.Namespace) -> dict:
    """Write the scores; their summary."""
    shard, stretch = arguments.shard, None
    with (
        unpacked(arguments.model, arguments.trust) as model,
        opened(arguments.input) as (source, size),
        completed(arguments.output) as sink,
    ):
        if shard:
            name = named(arguments.input)
            with files.refused(name):
                stretch = shards.Stretch(source, name, *shard.bytes_of(size, engine.BLOCK_BYTES))
        summary = score_all(source, size, stretch, sink, model, arguments)
    if stretch:
        summary["from_byte"] = stretch.begin
        options = repr((arguments.kurtosis, arguments.features, arguments.drop_bad)).encode()
        shards.sign(
            Path(arguments.output), shard, [f"{stretch.size} bytes", sha256(stretch.head)],
            [arguments.model.read_bytes(), options], "score",
            begin=stretch.begin, end=stretch.end, summary=summary,
        )  # fmt: skip
    return summary


def merge(arguments: argparse.Namespace) -> dict:
    """Write the scores of all shards as one; their summary, without what each has told by itself."""
    began = time.monotonic()
    parts = shards.checked([Path(place) for place in arguments.input], "score")
    for (_, one), (place, after) in pairwise(parts):
        if one["end"] != after["begin"]:
            shard = f"{after['number']}/{after['of']}"
            raise UserError(
                f"the table has changed between shard {one['number']} and shard {shard}",
                shards.again("score", shard, place),
            )
    told = [one["summary"] for _, one in parts]
    summary = {key: sum(one[key] for one in told) for key in ("rows", "bad_rows", "impossible")}
    with files.refused("the shards"):
        engine.refuse(summary["impossible"])
    with completed(arguments.output) as sink:
        for place, _ in parts:
            with open(place, "rb") as file:
                shutil.copyfileobj(file, sink)
    seconds = round(time.monotonic() - began, 3)
    return summary | {
        "bad": [], "model": told[0]["model"], "outside": [], "seconds": seconds
    }  # fmt: skip


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
    parser = parser_of(__doc__, taken, "a plain file")
    add_reading(parser)
    parser.add_argument(
        "--features", choices=("auto", tables.EIGHT, tables.SIX), default="auto",
        help="which model scores; six does without the mean and deviation of the DM curve",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.merge:
        made_with = (arguments.shard, arguments.kurtosis, arguments.drop_bad)
        if any(made_with) or arguments.features != "auto":
            parser.error("--merge takes what its shards were made with")
        return arguments
    if len(arguments.input) > 1:
        parser.error("one table at a time; several are for --merge")
    (arguments.input,) = arguments.input
    if arguments.shard and (arguments.input == "-" or arguments.input.startswith("s3://")):
        parser.error("--shard wants a file: no share of standard input or of s3:// is read alone")
    check_shard(parser, arguments)
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
