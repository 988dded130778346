"""Candidate files from where people have them: folders, patterns, lists."""

import glob
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from candidates.folds import SUFFIXES
from common.errors import BadData

S3 = "s3://"


@dataclass
class Found:
    """What was named.

    `files` are places that can be opened, each with its path below the folder that was named, which is
    the same wherever the folder lies; `lost` are folders that cannot be read, each with the reason;
    `passed_over` counts files in folders whose names are not those of candidates; `versions` tells
    objects of S3 from what has the same name at another time.
    """

    files: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    passed_over: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    def add(self, place: str) -> None:
        """A file, whatever its name, or all candidates in a folder and those below it."""
        if not os.path.isdir(place):
            self.files[place] = place
            return
        for folder, folders, names in os.walk(place, onerror=self._lose):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                self._add_named(path, Path(os.path.relpath(path, place)).as_posix())

    def add_objects(self, folder: str, listed: Iterable[tuple[str, str]]) -> None:
        """All candidates below `s3://bucket/prefix`, as (place, version); or the object of that name."""
        below = folder.rstrip("/") + "/"
        for place, version in listed:
            self.versions[place] = version
            if place == folder and not place.endswith("/"):
                self.files[place] = place
            elif place.startswith(below) and place != below:  # a console's mark of a folder
                self._add_named(place, place.removeprefix(below))

    def _add_named(self, place: str, name: str) -> None:
        if name.lower().endswith(SUFFIXES):
            self.files[place] = name
        else:
            self.passed_over += 1

    def only(self, wanted: Callable[[str], bool]) -> "Found":
        """What of it has a wanted path below the folder that was named."""
        files = {place: name for place, name in self.files.items() if wanted(name)}
        lost = {place: why for place, why in self.lost.items() if wanted("")}
        return Found(files, lost, self.passed_over, self.versions)

    def _lose(self, error: OSError) -> None:
        self.lost[error.filename] = f"the folder cannot be read: {error.strerror}"


def find(named: Iterable[str], objects: Callable[[str], Iterable[tuple[str, str]]]) -> Found:
    """Candidates in files, folders, patterns, `s3://bucket/prefix`, and lists: `@file` or `-`, a name a
    line. `objects` lists what is below such a prefix.

    BadData where something that was named is not there, or no candidate.
    """
    found = Found()
    for name in named:
        if name == "-" or name.startswith("@"):
            for line in _listed(name):
                found.add(line)
        elif name.startswith(S3):
            before = len(found.files)
            found.add_objects(name, objects(name))
            if len(found.files) == before:
                raise BadData(f"{name}: there is no such object, and no candidate below it")
        elif os.path.lexists(name):
            found.add(name)
        elif matches := sorted(glob.glob(name, recursive=True)):
            for match in matches:
                found.add(match)
        else:
            raise BadData(f"{name}: there is no such file, and nothing that matches")
    if not found.files and not found.lost:
        raise BadData(
            f"no name in it ends with {', '.join(SUFFIXES)} ({found.passed_over} others were passed over)",
            "files of other names are read when they are named themselves",
        )
    return found


def _listed(name: str) -> list[str]:
    try:
        text = sys.stdin.buffer.read() if name == "-" else Path(name[1:]).expanduser().read_bytes()
    except OSError as error:
        raise BadData(f"{name[1:]}: {error.strerror}") from None
    return [os.fsdecode(line) for line in text.splitlines() if line.strip()]
