"""What is said to people, on stderr, and what is printed for programs."""

import json
import os
import sys

from common.errors import UserError


def say(text: str) -> None:
    """Progress, for people: on stderr, so that --json output stays clean."""
    print(text, file=sys.stderr, flush=True)


def confirm(question: str) -> None:
    """Ask for a yes before something is billed or deleted; YES=1 answers for a script."""
    if os.environ.get("YES") == "1":
        return
    if not sys.stdin.isatty():
        raise UserError(f"{question} Nobody is there to say yes", "YES=1 for scripts")
    if input(f"{question} [yes/no] ").strip().lower() != "yes":
        raise UserError("not confirmed, nothing was done")


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
