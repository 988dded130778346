"""What is done of a list, kept beside it until it is whole.

Part by part, in `<output>.parts`: the content, and a line of JSON that says what it was made of. Both appear
under their names at once, the line last; so whoever was killed, goes on from there, and whoever has another
input, model or option, finds nothing of his. On S3 as in a folder, from one process or from a cluster's.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from clients import places
from common.errors import UserError
from common.files import sha256

OURS = re.compile(r"\d{8}(\.json)?|\.\d{8}.*")  # a part, its line, or half of either


@dataclass(frozen=True)
class Parts:
    """The parts of the list at `output`, each made with `made_with`: a digest of all that decides it."""

    output: str
    made_with: str

    @property
    def folder(self) -> str:
        return f"{self.output}.parts"

    def _place(self, number: int, suffix: str = "") -> str:
        return f"{self.folder}/{number:08d}{suffix}"

    def begin(self) -> int:
        """Make the place, and empty it of what other runs have left; how many parts are there."""
        if not places.is_s3(self.output):
            Path(self.folder).mkdir(exist_ok=True)
        there = self._there()
        if others := [place for place in there if not OURS.fullmatch(place.rpartition("/")[2])]:
            raise UserError(f"{self.folder} holds something else: {min(others)}", "another output")
        lines = {line for line in there if line.endswith(".json") and self._is_ours(line)}
        for place in there - lines - {line.removesuffix(".json") for line in lines}:
            places.remove(place)
        return len(lines)

    def done(self) -> set[int]:
        """The numbers of the parts that are there, when there are but ours."""
        return {self._number(line) for line in self._there() if line.endswith(".json")}

    def _is_ours(self, line: str) -> bool:
        number = self._number(line)
        return number is not None and self.told(number) is not None

    @staticmethod
    def _number(line: str) -> int | None:
        number = line.rpartition("/")[2].removesuffix(".json")
        return int(number) if number.isdecimal() else None

    def has_place(self) -> bool:
        """Whether this machine sees where they are kept."""
        return places.is_s3(self.output) or os.path.isdir(self.folder)

    def _there(self) -> set[str]:
        """All that is there, whoever's it is."""
        if places.is_s3(self.output):
            return {place for place, _ in places.listed(f"{self.folder}/")}
        return {str(path) for path in Path(self.folder).iterdir()}

    def told(self, number: int, of: str = "") -> dict | None:
        """What was told of a part, if it is whole, of this run, and `of` these bytes or files."""
        line = places.read(self._place(number, ".json"))
        try:
            told = json.loads(line or b"")
        except ValueError:
            return None
        ours = isinstance(told, dict) and told.get("made_with") == self.made_with
        return told if ours and of in ("", told.get("of")) else None

    def write(self, number: int, content: bytes, told: dict, of: str = "") -> dict:
        """Keep a part, and what is told of it."""
        told = told | {"made_with": self.made_with, "of": of, "content": sha256(content)}
        places.write(self._place(number), content)
        places.write(self._place(number, ".json"), json.dumps(told).encode())
        return told

    def told_at_last(self, number: int) -> dict:
        """What was told of a part that must be there. UserError where it is not."""
        told = self.told(number)
        if told is None:
            raise self._changed(number)
        return told

    def content(self, number: int) -> bytes:
        """A part that must be there. UserError where it is no longer what was written."""
        content = places.read(self._place(number))
        if content is None or sha256(content) != self.told_at_last(number)["content"]:
            raise self._changed(number)
        return content

    def _changed(self, number: int) -> UserError:
        return UserError(
            f"{self._place(number)} has been changed or removed, by another run for {self.output}?",
            "once that has ended, the same again",
        )

    def end(self) -> None:
        """The list is whole: they are needed no longer."""
        for place in self._there():
            places.remove(place)
        if not places.is_s3(self.output):
            os.rmdir(self.folder)
