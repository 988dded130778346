"""Make the virtual environment from a lock file: `make setup`. Needs nothing but Python.

python scripts/setup.py .venv requirements.txt 1.9-0
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def fail(what: str, remedy: str) -> None:
    print(f"error: {what}\n  next: {remedy}", file=sys.stderr)
    sys.exit(1)


def main() -> None:
    folder, lock, image_name = sys.argv[1:]
    if sys.version_info < (3, 10):  # noqa: UP036 - the point is to say so on an old Python
        fail("this is Python %d.%d" % sys.version_info[:2], "make setup PYTHON=python3.12")
    from orchestrator.images import SKLEARN_IMAGES

    if image_name not in SKLEARN_IMAGES:
        fail(
            f"params.yaml: there is no image {image_name!r}", f"one of: {', '.join(SKLEARN_IMAGES)}"
        )
    check_python(image_name, *SKLEARN_IMAGES[image_name].pythons)
    began = time.monotonic()
    print(f"setup: {folder} from {lock}, a minute or two", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    # Where this very environment is made anew, its own interpreter has just been removed.
    base = getattr(sys, "_base_executable", sys.executable)
    made = subprocess.run([base, "-m", "venv", folder], capture_output=True, text=True)
    if made.returncode:
        fail(f"python -m venv failed: {made.stdout.strip()}", "on Debian: apt install python3-venv")
    pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check"]
    if subprocess.run([*pip, "install", "--quiet", "--require-hashes", "-r", lock]).returncode:
        shutil.rmtree(folder, ignore_errors=True)
        fail(f"pip could not install {lock}", "read what pip said above, then: make setup")
    print(f"setup: done in {time.monotonic() - began:.0f} s", file=sys.stderr)


def check_python(image: str, oldest: str, newest: str) -> None:
    """Stop, naming what would fit, when this Python is not one the pins install on."""
    here = sys.version_info[:2]
    low, high = (
        (int(major), int(minor)) for major, minor in (v.split(".") for v in (oldest, newest))
    )
    if low <= here <= high:
        return
    names = [f"python3.{minor}" for minor in range(high[1], low[1] - 1, -1)]
    found = [name for name in names if shutil.which(name)]
    allowed = f"Python {oldest}" if oldest == newest else f"Python {oldest} to {newest}"
    fail(
        f"this is Python {here[0]}.{here[1]}; the image {image} needs {allowed}",
        f"make setup PYTHON={found[0] if found else names[0]}"
        + ("" if found else f" (once {allowed} is installed)"),
    )


if __name__ == "__main__":
    main()
