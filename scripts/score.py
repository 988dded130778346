"""Score candidates by the million with the packaged model, on every core.

    python scripts/score.py night.csv -o scored.csv
    zcat night.csv.gz | python scripts/score.py - > scored.csv
    python scripts/score.py s3://pulsar-assets/night.csv -o s3://pulsar-assets/scored.csv

Input is CSV with the eight features in the data set's order (a ninth column is ignored), with
or without a header. Output has a line for every line of input, `label,probability`, in the same
order; a bad row becomes `,` and is reported with its line number. Nothing appears under the
output's name before it is complete. Exit code 1 when rows were bad.

A package holds code. That of a package from elsewhere runs only with --trust, and like every
model's it gets no network and no files but its own where the kernel can see to it (Linux).
"""

import argparse
import os
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from clients.refusals import explained
from clients.target import resolve
from common.errors import BadData, UserError, run
from common.files import ARCHIVE
from common.output import print_json, say
from orchestrator.sandbox.hosting.archive import BadArchive, unpack
from orchestrator.sandbox.hosting.confinement import READ, confine
from scoring.engine import score


@contextmanager
def opened(place: str):
    """A binary stream to read from, and its size where it is known."""
    if place == "-":
        yield sys.stdin.buffer, None
    elif place.startswith("s3://"):
        bucket, _, key = place[5:].partition("/")
        with explained():
            answer = resolve().client("s3").get_object(Bucket=bucket, Key=key)
            yield answer["Body"], answer["ContentLength"]
    else:
        try:
            with open(place, "rb") as file:
                yield file, os.fstat(file.fileno()).st_size
        except OSError as error:
            raise BadData(f"{place}: {error.strerror}") from None


@contextmanager
def completed(place: str):
    """A binary stream to write to; its content appears under its name when all went well."""
    if place == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    folder = None if place.startswith("s3://") else Path(place).absolute().parent
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


def is_own(archive: Path) -> bool:
    """Whether it is the package that was made in this checkout."""
    return ARCHIVE.is_file() and archive.read_bytes() == ARCHIVE.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    expanded = os.path.expanduser  # behind INPUT= not every shell expands a `~`
    parser.add_argument(
        "input", type=expanded, help="a CSV file, s3://bucket/key, or - for standard input"
    )
    parser.add_argument(
        "-o", "--output", type=expanded, default="-", help="a file, s3://bucket/key, or - (default)"
    )
    parser.add_argument("--model", type=Path, default=ARCHIVE, help="default: models/model.tar.gz")
    parser.add_argument(
        "--trust", action="store_true", help="run the code of a --model from elsewhere"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="with -o: print the summary as JSON")
    arguments = parser.parse_args()
    if not arguments.model.is_file():
        raise UserError(f"{arguments.model} does not exist", "make package")
    if not (arguments.trust or is_own(arguments.model)):
        raise UserError(
            f"{arguments.model} was not made here, and scoring with it runs the code that is in it",
            f"add --trust if you know where it comes from, or: tar tzf {arguments.model}",
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            unpack(arguments.model, Path(folder, "model"))
        except BadArchive as error:
            raise UserError(f"{arguments.model}: {error}", "make package") from None
        with opened(arguments.input) as (source, size), completed(arguments.output) as sink:
            model = str(Path(folder, "model"))
            settle = partial(confine, {model: READ})
            summary = score(source, sink, size, model, arguments.workers, settle)
    if arguments.json and arguments.output != "-":
        print_json(summary)
    else:
        rate = summary["rows"] / max(summary["seconds"], 1e-9)
        say(
            f"score: {summary['rows']:,} candidates in {summary['seconds']:.1f} s, {rate:,.0f} a second"
        )
        for row in summary["bad"]:
            say(f"  line {row['line']}: {row['reason']}")
        if summary["bad_rows"]:
            say(f"score: {summary['bad_rows']} rows could not be scored")
    return 1 if summary["bad_rows"] else 0


if __name__ == "__main__":
    run(main)
