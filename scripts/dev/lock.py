"""Resolve requirements*.in into the lock files with hashes: `make lock`.

    python scripts/dev/lock.py

One lock per SageMaker image, alike but for scikit-learn and what it drags along, one for the
development tools and one for clusters that fit beside either, and two for environments apart. Wheels
alone, but for the packages that the requirements name with --no-binary.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # it runs alone
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT
from common.errors import UserError, run
from common.files import write_atomically
from common.output import say
from orchestrator.images import DEFAULT_IMAGE, SKLEARN_IMAGES

OPTIONS = [
    "--python-version",
    "3.11",
    "--generate-hashes",
    "--no-header",
    "--no-annotate",
    "--only-binary",
    ":all:",
    "--quiet",
]


def resolve(
    source: str, lock: str, constraints: list[str], universal: bool, overrides: str = ""
) -> None:
    with (
        tempfile.NamedTemporaryFile("w", suffix=".txt") as override,
        tempfile.NamedTemporaryFile("w", suffix=".txt") as file,
    ):
        file.write("\n".join(constraints) + "\n")
        file.flush()
        override.write(overrides)
        override.flush()
        command = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "compile",
            source,
            "-o",
            lock,
            "-c",
            file.name,
            "--override",
            override.name,
        ]
        command += OPTIONS + (["--universal"] if universal else [])
        if subprocess.run(command, cwd=ROOT).returncode:
            raise UserError(f"{source} cannot be resolved", "read what uv said above")
    # uv reads these lines, and would write them so that pip takes them back.
    lines = (ROOT / source).read_text().splitlines()
    built = [line.partition(" #")[0].rstrip() for line in lines if line.startswith("--no-binary")]
    write_atomically(ROOT / lock, "\n".join([*built, (ROOT / lock).read_text()]))
    say(f"lock: {lock}")


def pins(lock: Path) -> list[str]:
    """The first pin of each package in a lock file."""
    found: dict[str, str] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.M):
        found.setdefault(name, f"{name}=={version}")
    return list(found.values())


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    lock = "requirements.txt"
    default = SKLEARN_IMAGES[DEFAULT_IMAGE]
    exact = [f"scikit-learn=={default.scikit_learn}", *default.constraints]
    resolve("requirements.in", lock, exact, universal=True)
    moved = ("numpy==", "scipy==", "pandas==", "pyarrow==", "scikit-learn==")
    common = [pin for pin in pins(ROOT / lock) if not pin.startswith(moved)]
    for name, image in SKLEARN_IMAGES.items():
        if name != DEFAULT_IMAGE:
            exact = [f"scikit-learn=={image.scikit_learn}", *image.constraints]
            # One Python only, so no markers for the others.
            resolve("requirements.in", f"requirements-{name}.txt", exact + common, universal=False)
    shared = [pin for pin in common if not pin.startswith("networkx==")]  # two, by Python
    for name in ("dev", "cluster"):  # both may be added to one environment
        resolve(f"requirements-{name}.in", f"requirements-{name}.txt", shared, universal=True)
        shared += [pin for pin in pins(ROOT / f"requirements-{name}.txt") if "networkx" not in pin]
    resolve("requirements-security.in", "requirements-security.txt", [], universal=True)
    models = [pin for pin in pins(ROOT / lock) if pin.startswith(("numpy==", "scikit-learn=="))]
    # sagemaker-containers asks for the backport of a module that Python has had since 3.5.
    no_typing = 'typing; python_version < "3"'
    peers = ("requirements-peers.in", "requirements-peers.txt")
    resolve(*peers, models, universal=True, overrides=no_typing)
    return 0


if __name__ == "__main__":
    run(main)
