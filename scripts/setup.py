"""Make a virtual environment from lock files: `make setup`. Needs nothing but Python.

    python scripts/setup.py .venv requirements.txt --image 1.9-0
    python scripts/setup.py .venv requirements-dev.txt --add         # into one that is there

uv installs, as it stands in the lock; where it cannot (an index or a certificate that only pip
knows), pip does. Either way every package is checked against its hash, and so is what builds the few
that have no wheel, which the lock names: nothing is fetched beside it.
"""

from __future__ import annotations  # a Python that is too old must be able to say so

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
LOCK = ROOT / "requirements.txt"
# Wheels alone, but for the packages that the lock names with --no-binary. Those are built by the lock's
# own setuptools: a build in isolation would fetch what nothing has hashed.
OPTIONS = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-build-isolation")
# What the verbs import first: Python compiles it now, on every core, and once for all also where
# PYTHONDONTWRITEBYTECODE is set. What cannot be imported is told here, and not by the verbs.
IMPORTED = {
    "requirements": (
        "sklearn.ensemble sklearn.neural_network pandas matplotlib.pyplot",
        "dvc.cli dvc.repo dvc.commands.repro boto3 awscli.clidriver aiohttp uvicorn pyarrow.csv",
    ),
    "requirements-dev": ("moto.server moto.sagemaker.models moto.apigateway.models",
                         "pytest hypothesis cfnlint.api"),
    "requirements-cluster": ("distributed.cli.dask_worker distributed.deploy.local dask_jobqueue",),
    "requirements-security": ("checkov.main",),
}  # fmt: skip


# What variables of pip and uv may say: how an index is reached. What is installed, and where to, is ours.
NETWORK = ("INDEX", "LINK", "CERT", "TLS", "HOST", "PROXY", "TIMEOUT", "RETRIES", "CACHE", "CONFIG",
           "KEYRING", "OFFLINE")  # fmt: skip


def fail(what: str, remedy: str) -> NoReturn:
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
    wrong = compile_first(
        arguments.folder, IMPORTED.get(arguments.lock.stem.partition("-1")[0], ())
    )
    if wrong:
        fail(f"what was installed in {arguments.folder} cannot be imported: {wrong}",
             f"rm -r {arguments.folder}, then try again")  # fmt: skip
    print(f"setup: done in {time.monotonic() - began:.0f} s", file=sys.stderr)


def make(folder: Path) -> None:
    """An empty environment, in the place of one that was there."""
    try:
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        elif os.path.lexists(folder):
            folder.unlink()
    except OSError as error:
        fail(f"{folder} cannot be made anew: {error.strerror}", f"sudo rm -r {folder}")
    # Where this very environment is made anew, its own interpreter has just been removed.
    base = getattr(sys, "_base_executable", sys.executable)
    try:
        made = subprocess.run(
            [base, "-m", "venv", folder], env=own_environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    except OSError as error:
        fail(f"{base} cannot be run: {error.strerror}", "make setup PYTHON=<another Python>")
    if made.returncode:
        remedy = "read what it said"
        if "ensurepip" in made.stdout:
            remedy = "on Debian: apt install python3-venv"
        fail(f"python -m venv failed: {made.stdout.strip()}", remedy)


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
        environment = own_environment() | settings_of_pip(folder)
        if not subprocess.run([*command, *OPTIONS, "-r", lock], env=environment).returncode:
            return True
        print("setup: uv could not; pip tries", file=sys.stderr)
    return pip(folder, lock)


def pip(folder: Path, lock: Path) -> bool:
    # --no-user: a pip.conf that says otherwise would install beside the environment.
    command = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install"]
    command += ["--quiet", "--no-user", *OPTIONS, "-r", lock]
    return subprocess.run(command, env=own_environment()).returncode == 0


def own_environment() -> dict[str, str]:
    """The user's environment without what would lead pip, uv or Python elsewhere."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "PIP_", "UV_"))
        or (key.startswith(("PIP_", "UV_")) and any(word in key for word in NETWORK))
    }


def pin_of(name: str, lock: Path) -> str:
    """A package's entry in a lock, with its hashes; nothing when it has none."""
    found = re.search(rf"^{name}==.*?(?=^\S|\Z)", lock.read_text(), re.M | re.S)
    return found[0] if found else ""


def settings_of_pip(folder: Path) -> dict[str, str]:
    """The index and the certificate that pip was told of, as uv takes them."""
    command = [folder / "bin" / "python", "-m", "pip", "config", "list"]
    listed = subprocess.run(command, env=own_environment(), capture_output=True, text=True).stdout
    found = {}
    for option, variable in {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}.items():
        told = re.findall(rf"^[^=]*\.{option}='(.*)'$", listed, re.M)
        if told and variable not in os.environ:
            found[variable] = told[-1]
    return found


def compile_first(folder: Path, groups: tuple[str, ...]) -> str:
    """Import what the verbs import; what Python says when it cannot."""
    running = [
        subprocess.Popen(
            [folder / "bin" / "python", "-c", f"import {', '.join(group.split())}"],
            env=own_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for group in groups
    ]  # fmt: skip
    said = [process.communicate()[1].strip() for process in running]
    failed = [text for text, process in zip(said, running, strict=True) if process.returncode]
    return (failed[0].splitlines() or ["Python died"])[-1] if failed else ""


def check_image(image: str) -> None:
    if sys.version_info < (3, 9):  # too old for the table of images itself
        check_python(image, "3.11", "3.13")
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
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
