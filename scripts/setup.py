"""Make a virtual environment from lock files: `make setup`. Needs nothing but Python.

    python scripts/setup.py .venv requirements.txt --image 1.9-0
    python scripts/setup.py .venv requirements-dev.txt --add         # into one that is there

uv installs, as it stands in the lock; where it cannot (an index or a certificate that only pip
knows), pip does. Either way every package is checked against its hash, and so is what builds the few
that have no wheel, which the lock names: nothing is fetched beside it.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
LOCK = ROOT / "requirements.txt"
# Wheels alone, but for the packages that the lock names with --no-binary. Those are built by the lock's
# own setuptools: a build in isolation would fetch what nothing has hashed.
OPTIONS = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-build-isolation")
# What the verbs import first: Python compiles it now, on every core, and once for all also where
# PYTHONDONTWRITEBYTECODE is set.
IMPORTED = {
    "requirements": (
        "sklearn.ensemble sklearn.neural_network pandas matplotlib.pyplot",
        "dvc.cli dvc.repo dvc.commands.repro boto3 awscli.clidriver aiohttp uvicorn pyarrow.csv",
    ),
    "requirements-dev": ("moto.server moto.sagemaker.models moto.apigateway.models",
                         "pytest hypothesis cfnlint.api"),
    "requirements-security": ("checkov.main",),
}  # fmt: skip


def fail(what: str, remedy: str) -> None:
    print(f"error: {what}\n  next: {remedy}", file=sys.stderr)
    sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--image", help="the SageMaker image whose Python it must be")
    parser.add_argument("--add", action="store_true", help="into the environment that is there")
    arguments = parser.parse_args()
    if arguments.image:
        check_image(arguments.image)
    began = time.monotonic()
    print(f"setup: {arguments.folder} from {arguments.lock}", file=sys.stderr)
    if not arguments.add:
        make(arguments.folder)
    if not install(arguments.folder, arguments.lock):
        if not arguments.add:
            shutil.rmtree(arguments.folder, ignore_errors=True)
        fail(f"{arguments.lock} could not be installed", "read what pip said above, then try again")
    compile_first(arguments.folder, IMPORTED.get(arguments.lock.stem.partition("-1")[0], ()))
    print(f"setup: done in {time.monotonic() - began:.0f} s", file=sys.stderr)


def make(folder: Path) -> None:
    """An empty environment, in the place of one that was there."""
    shutil.rmtree(folder, ignore_errors=True)
    # Where this very environment is made anew, its own interpreter has just been removed.
    base = getattr(sys, "_base_executable", sys.executable)
    made = subprocess.run([base, "-m", "venv", folder], capture_output=True, text=True)
    if made.returncode:
        said = (made.stderr or made.stdout).strip()
        fail(f"python -m venv failed: {said}", "on Debian: apt install python3-venv")


def install(folder: Path, lock: Path) -> bool:
    """Install a lock file, hash by hash: with uv, else with pip."""
    uv = folder / "bin" / "uv"
    if not uv.exists():
        # What installs and what builds come first, into an environment that has neither.
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as first:
            first.write(pin_of("uv", LOCK) + pin_of("setuptools", lock))
            first.flush()
            pip(folder, Path(first.name))
    if uv.exists():
        command = [uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python"]
        environment = os.environ | settings_of_pip(folder)
        if not subprocess.run([*command, *OPTIONS, "-r", lock], env=environment).returncode:
            return True
        print("setup: uv could not; pip tries", file=sys.stderr)
    return pip(folder, lock)


def pip(folder: Path, lock: Path) -> bool:
    command = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install"]
    return subprocess.run([*command, "--quiet", *OPTIONS, "-r", lock]).returncode == 0


def pin_of(name: str, lock: Path) -> str:
    """A package's entry in a lock, with its hashes; nothing when it has none."""
    found = re.search(rf"^{name}==.*?(?=^\S|\Z)", lock.read_text(), re.M | re.S)
    return found[0] if found else ""


def settings_of_pip(folder: Path) -> dict[str, str]:
    """The index and the certificate that pip was told of, as uv takes them."""
    command = [folder / "bin" / "python", "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    found = {}
    for option, variable in {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}.items():
        told = re.findall(rf"^[^=]*\.{option}='(.*)'$", listed, re.M)
        if told and variable not in os.environ:
            found[variable] = told[-1]
    return found


def compile_first(folder: Path, groups: tuple[str, ...]) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    running = [
        subprocess.Popen(
            [folder / "bin" / "python", "-c", f"import {', '.join(group.split())}"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for group in groups
    ]  # fmt: skip
    for process in running:
        process.wait()


def check_image(image: str) -> None:
    from orchestrator.images import SKLEARN_IMAGES

    if image not in SKLEARN_IMAGES:
        fail(f"params.yaml: there is no image {image!r}", f"one of: {', '.join(SKLEARN_IMAGES)}")
    check_python(image, *SKLEARN_IMAGES[image].pythons)


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
