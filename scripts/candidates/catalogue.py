"""Known pulsars, from a file that the user names: psrcat's database, or what psrcat prints as CSV.

    psrcat -c "JNAME RAJD DECJD P0 F0 DM BINARY" -o short_csv > psrcat.csv

We ship none: the catalogue (Manchester et al. 2005, AJ 129, 1993) has its own home and its own versions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from candidates import sky
from common.errors import BadData

COLUMNS = ["known_pulsar", "separation", "ratio", "dm_difference"]
MOST_BYTES = 100_000_000
HIGHEST = 16  # of the numbers of a ratio of periods
BINARY = 10  # times the tolerance of a period that an orbit changes
NAMES = ("PSRJ", "JNAME", "NAME", "PSRB", "BNAME")
RATIOS = sorted(
    ((a, b) for a in range(1, HIGHEST + 1) for b in range(1, HIGHEST + 1) if math.gcd(a, b) == 1),
    key=lambda ratio: (sum(ratio), ratio),
)  # the simplest first
HOW = 'psrcat -c "JNAME RAJD DECJD P0 F0 DM BINARY" -o short_csv > psrcat.csv'


@dataclass(frozen=True)
class Tolerances:
    """How far a candidate may be from a pulsar: degrees, a part of the period, pc/cm3."""

    radius: float = 0.5
    period: float = 1e-4
    dm: float = 5.0


class Catalogue:
    """Pulsars with a position and a period; `left_out` counts those without."""

    def __init__(self, place: Path) -> None:
        self.names: list[str] = []
        numbers, self.left_out = [], 0
        for entry in _entries(_text(place)):
            if (found := _numbers(entry)) is None:
                self.left_out += 1
                continue
            self.names.append(next(entry[name] for name in NAMES if name in entry))
            numbers.append(found)
        if not numbers:
            raise BadData(f"{place}: it holds no pulsar with a name, a position and a period", HOW)
        ra, dec, self._periods, self._dms, self._orbits = np.array(numbers).T
        self._places = _vectors(ra, dec)

    def match(
        self, place: tuple[float, float], period: float, dm: float | None, within: Tolerances
    ) -> tuple[str, float, str, float | None] | None:
        """The pulsar that a candidate is, or a harmonic of: its name, the separation in degrees, the
        candidate's period by the pulsar's as a/b, the candidate's DM less its. The simplest ratio is taken,
        of equal ones the nearest pulsar. A DM that is not known agrees with any."""
        chord = np.linalg.norm(self._places - _vectors(*map(np.array, place)), axis=-1)
        separation = np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1)))
        apart = np.full(len(self.names), np.nan) if dm is None else dm - self._dms
        near = np.flatnonzero((separation <= within.radius) & ~(np.abs(apart) > within.dm))
        best = None
        for which in near:
            allowed = within.period * (BINARY if self._orbits[which] else 1)
            by = period / self._periods[which]
            for order, (a, b) in enumerate(RATIOS):
                if abs(by * b / a - 1) <= allowed:
                    best = min(best or (order + 1,), (order, separation[which], which))
                    break
        if best is None:
            return None
        order, distance, which = best
        a, b = RATIOS[order]
        difference = None if np.isnan(apart[which]) else float(apart[which])
        return self.names[which], float(distance), f"{a}/{b}" if b > 1 else str(a), difference


def _text(place: Path) -> str:
    try:
        if place.stat().st_size > MOST_BYTES:
            raise BadData(f"{place}: more than {MOST_BYTES} bytes, no catalogue of pulsars", HOW)
        return place.read_text(errors="replace")
    except OSError as error:
        raise BadData(f"{place}: {error.strerror}", HOW) from None


def _entries(text: str) -> Iterator[dict[str, str]]:
    """Each pulsar's values by their names. What is "*" is not there."""
    return _of_table(text) if ";" in text.partition("\n")[0] else _of_database(text)


def _of_table(text: str) -> Iterator[dict[str, str]]:
    head, *lines = text.splitlines()
    names = [name.strip().upper() for name in head.split(";")]
    for line in lines:
        cells = [cell.strip() for cell in line.split(";")]
        entry = {
            name: cell for name, cell in zip(names, cells, strict=False) if cell not in ("", "*")
        }
        if any(name in entry for name in NAMES):  # the line of units has none
            yield entry


def _of_database(text: str) -> Iterator[dict[str, str]]:
    """psrcat.db: a line a value, name first, its error and source behind; entries end with @."""
    entry: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("@"):
            if any(name in entry for name in NAMES):
                yield entry
            entry = {}
        elif not line.startswith("#") and len(words := line.split()) > 1:
            entry.setdefault(words[0].upper(), words[1])


def _numbers(entry: dict[str, str]) -> tuple[float, float, float, float, bool] | None:
    """Right ascension, declination, period, DM (NaN where unknown), and whether it has an orbit."""
    place = sky.position(entry.get("RAJD", ""), entry.get("DECJD", "")) or sky.position(
        entry.get("RAJ", ""), entry.get("DECJ", "")
    )
    if place is None and (ecliptic := sky.position(entry.get("ELONG", ""), entry.get("ELAT", ""))):
        place = sky.of_ecliptic(*ecliptic)
    period, frequency = _number(entry.get("P0")), _number(entry.get("F0"))
    if not period > 0 and frequency > 0:
        period = 1 / frequency
    if place is None or not period > 0:
        return None
    return *place, period, _number(entry.get("DM")), "BINARY" in entry


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
