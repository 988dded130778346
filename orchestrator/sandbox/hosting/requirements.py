"""A package's requirements.txt: what it names must be there already, for nothing is installed.

SageMaker's container runs pip for it, and pip reaches nothing from a container without a network: it
goes on where all that is named is installed, and ends the container where something is not. So here.
"""

import codecs
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",  # PowerShell's `>`
    codecs.BOM_UTF16_BE: "utf-16",
}


def unmet(path: Path) -> list[str]:
    """What a requirements.txt asks for and is not there, and lines that cannot be looked into."""
    lines = _text(path.read_bytes()).replace("\\\r\n", "").replace("\\\n", "").splitlines()
    stripped = [line.split(" #")[0].partition(" --hash")[0].strip() for line in lines]
    wanted = [line for line in stripped if line and not line.startswith("#")]
    return [f"{line} ({reason})" for line in wanted if (reason := _missing(line))]


def _text(content: bytes) -> str:
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    return content.decode(errors="replace")


def _missing(line: str) -> str | None:
    """Why a line is not met; None when it is."""
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return "no name with versions"
    if requirement.marker and not requirement.marker.evaluate():
        return None
    if requirement.url or requirement.extras:
        return "more than a name with versions"
    try:
        here = version(requirement.name)
    except PackageNotFoundError:
        return "not there"
    return None if requirement.specifier.contains(here, prereleases=True) else f"here {here}"
