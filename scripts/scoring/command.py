"""What the commands have in common that run a package: their options, and how its code is let run."""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from clients import places
from common.errors import UserError
from common.files import ARCHIVE
from orchestrator.sandbox.hosting.archive import BadArchive, unpack
from orchestrator.sandbox.hosting.confinement import READ, confine
from scoring import cluster, engine, forms, shards


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
        "-o", "--output", type=expanded, default="-",
        help="a file, s3://bucket/key, or - (default); CSV, or Parquet where it is named .parquet",
    )  # fmt: skip
    parser.add_argument(
        "--shard", type=shards.named, metavar="I/N",
        help=f"only the i-th of n shares of {shares}, from 1, for an array of jobs",
    )  # fmt: skip
    parser.add_argument(
        "--merge", action="store_true", help="make one list of those of all shards, the input"
    )
    parser.add_argument(
        "--cluster", type=cluster.named, metavar="WHERE",
        help="work done by Dask: local, slurm, htcondor (as many jobs as --workers), or the address of a "
        "scheduler, tls://host:port",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="with -o: print the summary as JSON")
    add_model(parser)
    return parser


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End a command of `parser_of` whose options do not go together."""
    where = arguments.cluster
    made_with = (arguments.shard, where, arguments.model, arguments.trust, arguments.workers)
    if arguments.merge and any(made_with):
        parser.error("--merge takes what its shards were made with")
    if arguments.shard and where:
        parser.error("--shard is for an array of jobs, and --cluster shares the work itself")
    if arguments.output == "-" and (arguments.shard or where):
        parser.error("--shard and --cluster want -o: what is done of a list is kept beside it")
    if reason := forms.refused(arguments.output, bool(arguments.shard)):
        parser.error(reason)
    if where in cluster.QUEUES and arguments.workers is None:
        parser.error(f"--cluster {where} wants to know how many jobs: --workers 20")
    if where and where not in cluster.STARTED and arguments.workers is not None:
        parser.error(f"{where} has its own workers: leave --workers out")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options of every command that runs a package."""
    parser.add_argument("--model", type=Path, help="default: models/model.tar.gz")
    parser.add_argument(
        "--trust", action="store_true", help="run the code of a --model from elsewhere"
    )
    parser.add_argument(
        "--workers", type=at_least_one, help="processes (default: as many as there are cores)"
    )


def workers(arguments: argparse.Namespace) -> int:
    """How many processes work on this machine."""
    return arguments.workers or os.cpu_count() or 1


def package(arguments: argparse.Namespace) -> bytes:
    """The package that was named, which is our own or trusted."""
    archive, trust = arguments.model or ARCHIVE, arguments.trust
    if not archive.is_file():
        raise UserError(f"{archive} does not exist", "make package")
    content = archive.read_bytes()
    if not trust and not (ARCHIVE.is_file() and content == ARCHIVE.read_bytes()):
        raise UserError(
            f"{archive} was not made here, and scoring with it runs the code that is in it",
            f"add --trust if you know where it comes from, or: tar tzf {archive}",
        )
    return content


@contextmanager
def unpacked(content: bytes) -> Iterator[str]:
    """The folder of an unpacked package, while it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "model.tar.gz")
        archive.write_bytes(content)
        try:
            unpack(archive, Path(folder, "model"))
        except BadArchive as error:
            raise UserError(f"the package: {error}", "make package") from None
        yield str(Path(folder, "model"))


def settle(model: str) -> None:
    """Load a package into a process that gets no files but the package's."""
    engine.load(model, partial(confine, {model: READ}))


def check_output(place: str, example: str) -> None:
    """UserError where a list cannot be written, before there is one."""
    if place != "-":
        places.check_writable(place, example)
