"""What a process was started from. One that was started before a change goes on as it was; whoever
finds it compares."""

import hashlib
import json
import os
import platform
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = "sandbox.commands"


@cache
def code_version() -> str:
    """A hash of the orchestrator's sources, the sandbox's among them."""
    digest = hashlib.sha256()
    for path in sorted(HERE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def started_from(commands: dict[str, str]) -> dict[str, str]:
    """All that decides how a sandbox answers, by the name it has in a sentence.

    `commands` stand for custom images. Only they may differ without every process being another.
    """
    return {
        "the code": code_version(),
        "the Python environment": f"{sys.prefix} {platform.python_version()}",
        "scikit-learn": version("scikit-learn"),
        "WEED": os.environ.get("WEED", ""),
        COMMANDS: json.dumps(commands, sort_keys=True),
    }
