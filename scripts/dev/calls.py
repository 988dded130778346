"""Write docs/aws-calls.md, which says what the sandbox answers of AWS's API: `make calls`.

    python scripts/dev/calls.py [--check]

The page is made from the code: from the services of a sandbox that is made here and not started. With
--check nothing is written, and a page that is stale is an error.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it runs alone
from common import ROOT
from common.errors import UserError, run
from common.files import write_atomically
from common.output import say
from orchestrator.sandbox.aws.wire import Operation, Service
from orchestrator.sandbox.places import REGION, Places
from orchestrator.sandbox.server import Sandbox
from orchestrator.sandbox.state import State

PAGE = ROOT / "docs" / "aws-calls.md"
HEAD = """# What the sandbox answers of AWS

`make calls` writes this page from the code. A member that is not in a line, and an operation or a
service that is not on the page, is refused by name. A member is honoured with all that is in it,
unless members of it are named. boto3's waiters and paginators work with each.

Predictions (`sagemaker-runtime`) are answered apart from these, by the fronts:
[orchestrator.md](orchestrator.md) says how. S3 has a page of its own,
[object-store.md](object-store.md).
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only say whether the page is stale")
    is_check = parser.parse_args().check
    text = page()
    if PAGE.exists() and PAGE.read_text() == text:
        say(f"{PAGE.relative_to(ROOT)} is as the code is")
    elif is_check:
        raise UserError(f"{PAGE.relative_to(ROOT)} is stale", "make calls")
    else:
        write_atomically(PAGE, text)
        say(f"{PAGE.relative_to(ROOT)} is written")


def page() -> str:
    os.environ["AWS_DEFAULT_REGION"] = os.environ["AWS_REGION"] = REGION
    with tempfile.TemporaryDirectory() as folder:
        places = Places(Path(folder))
        places.make()
        state = State(places.folder / "state.db")
        sandbox = Sandbox(places, ("", ""), state, "", "", None, {})
        parts = [HEAD, *map(section, sorted(sandbox.services, key=lambda s: s.title))]
        state.close()
    return "\n".join(parts)


def section(service: Service) -> str:
    lines = [f"## {service.title} (`{service.name}`)", "", "| operation | honoured |", "|---|---|"]
    lines += [line(name, operation) for name, operation in sorted(service.operations.items())]
    return "\n".join([*lines, ""])


def line(name: str, operation: Operation) -> str:
    members = ", ".join(f"`{path}`" for path in operation.function.honours.paths())
    return f"| {name} | {members or '—'} |"


if __name__ == "__main__":
    run(main)
