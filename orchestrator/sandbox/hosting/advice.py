"""What the author of a package that cannot be served can do about it, in a sentence.

The sandbox knows what SageMaker's container would only log, or not even that: what else the archive
holds, what is installed, what a model may not do.
"""

import importlib.util
import platform
import re
import socket
import sys
import traceback
from importlib.metadata import version
from pathlib import Path, PurePath

SHOWN = 8  # files that are named
OF_A_MAC = re.compile(r"(^|/)(\._|\.DS_Store$|__MACOSX/)")
PICKLED = ("scikit-learn", "numpy", "pandas")  # which a pickle depends on
ELSEWHERE = "the package must do without it, or bring an image of its own (byom_realtime_custom)"


def without_module(model_dir: Path, wanted: PurePath) -> str:
    """For an archive that has no module at `wanted`, where the container looks for it."""
    files = _files(model_dir)
    if not files:
        return "It is empty."
    for file in files:
        if file.parts[-len(wanted.parts) :] == wanted.parts:
            top = file.parents[len(wanted.parts) - 1]
            return (
                f"It has {file}: pack what is in {top}, and not the folder itself "
                f"(tar -C {top} -czf model.tar.gz .)."
            )
    for file in files:
        if file.name == wanted.name:
            return f"It has {file}: move that to {wanted}."
    for file in files:
        if file.suffix == ".py" and b"def model_fn" in (model_dir / file).read_bytes():
            return f"It has {file}: call that {wanted}."
    return (
        f"It has {_listed(files)}: add {wanted}, with a model_fn(model_dir) that loads the model "
        "(docs/own-model.md)."
    )


def about(error: BaseException, model_dir: Path) -> str:
    """For what a user's module raised; nothing where it speaks for itself."""
    text = str(error)
    if "Trying to unpickle estimator" in text:
        return (
            f"Fit it again under scikit-learn {version('scikit-learn')}, or provision it for the image "
            "it was written under."
        )
    if match := re.search(r"Can't get attribute '(\w+)' on <module '__main__'", text):
        return (
            f"{match[1]} was defined in a notebook or a script: put it into a module in code/, and "
            "import it from there when you fit."
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        advice = _without_package(error.name.partition(".")[0], model_dir)
        if advice:
            return advice
    if isinstance(error, FileNotFoundError):
        where = ", in the folder that model_fn is given" if "/opt/ml" in text else ""
        return f"The archive holds {_listed(_files(model_dir))}{where}."
    if isinstance(error, PermissionError | socket.gaierror) or "Operation not permitted" in text:
        return (
            "A model reads its own archive, writes where tempfile does, and has no network "
            "(docs/security.md)."
        )
    if not isinstance(error, OSError | SystemExit) and _was_unpickling(error):
        here = ", ".join(f"{name} {version(name)}" for name in PICKLED)
        return (
            f"A pickle loads under the versions that wrote it; here are {here}, "
            f"Python {platform.python_version()}."
        )
    return ""


def _without_package(package: str, model_dir: Path) -> str:
    """For an import of what cannot be found; nothing when it is a part of what is installed."""
    for file in _files(model_dir):
        if package in (file.stem, file.parent.name) and file.suffix == ".py":
            return f"It is {file} in the archive, but the container looks in code/."
    if package in sys.modules or importlib.util.find_spec(package):
        return ""
    return f"{package} is not installed and a model has no network to install it: {ELSEWHERE}."


def _was_unpickling(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return any("pickle" in frame.filename or "pickle" in (frame.line or "") for frame in frames)


def _files(model_dir: Path) -> list[PurePath]:
    """What the archive holds, but for what a Mac adds."""
    names = [path.relative_to(model_dir) for path in model_dir.rglob("*") if path.is_file()]
    return sorted(name for name in names if not OF_A_MAC.search(name.as_posix()))


def _listed(files: list[PurePath]) -> str:
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return ", ".join(map(str, files[:SHOWN])) + more if files else "no files"
