"""What a folded candidate is, whatever file it came in; and the eight features of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

MOST_DM = 10_000.0  # pc/cm3: nothing is searched for beyond it
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
LONGEST = 200  # of a number or a name
# Of values that vary less than this part of their size, only the rounding has moments.
ROUNDING = 1e-9


class Unreadable(Exception):
    """A file that is no candidate which the features are defined for; its text is the reason."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A candidate as a search program folded it.

    `profile` (n,) and `curve` (m,), S/N or reduced chi2 at each of `dms` (m,) in pc/cm3, are what the
    features are of. `axis` are those DMs, as text where that is what the file has; `sub_bands` (channels, n) and `sub_integrations` (parts, n) are for pictures. What a
    file does not say is None or "".
    """

    kind: str  # phcx or pfd
    profile: np.ndarray
    curve: np.ndarray
    axis: np.ndarray | str | None
    sub_bands: np.ndarray | None
    sub_integrations: np.ndarray | None
    period: float | None  # seconds
    dm: float | None  # pc/cm3
    snr: float | None
    ra: str  # as printed: degrees in PHCX, hh:mm:ss in PFD
    dec: str
    mjd: float | None
    telescope: str
    source: str

    @property
    def dms(self) -> np.ndarray | None:
        """For pictures alone: a thousand numbers to be read take as long as the rest of a file."""
        if isinstance(self.axis, str):
            return np.array([*map(float, self.axis.split())])
        return self.axis


def features(candidate: Candidate) -> np.ndarray:
    """HTRU2's eight features, in its order: four moments of the profile, four of the DM curve.

    Unreadable where a moment does not exist, or is too large to be a number.
    """
    parts = {"profile": candidate.profile, "DM curve": candidate.curve}
    values = np.concatenate([_moments(part, name) for name, part in parts.items()])
    if not np.isfinite(values).all():
        raise Unreadable("its numbers are too large, or too small, to have moments")
    return values


def _moments(values: np.ndarray, name: str) -> np.ndarray:
    """Mean, standard deviation, skewness and excess kurtosis, all of the population."""
    values = values.astype(np.float64)
    with np.errstate(all="ignore"):  # what is not finite is refused
        least, most = values.min(), values.max()
        if not (np.isfinite(least) and np.isfinite(most)):  # NaN is both
            raise Unreadable(f"the {name} holds numbers that are too large")
        if not most - least > ROUNDING * max(abs(least), abs(most)):
            raise Unreadable(f"the {name} is constant: it has no skewness and no kurtosis")
        mean = values.mean()
        off = values - mean
        squares = off * off
        std = np.sqrt(squares.mean())
        third, fourth = squares @ off / len(off), squares @ squares / len(off)
        return np.array([mean, std, third / std**3, fourth / std**4 - 3])


def number(text: str | None, name: str) -> float | None:
    """A finite number as a file prints it, None where there is none; Unreadable for anything else."""
    text = (text or "").strip()
    if not text:
        return None
    if len(text) > LONGEST or not NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise Unreadable(f"its {name} is no finite number: {text[:40]!r}")
    return float(text)


def checked_dm(value: float | None, name: str) -> float | None:
    if value is not None and not abs(value) <= MOST_DM:
        raise Unreadable(f"its {name} is {value:g}: no DM is beyond {MOST_DM:g}")
    return value


def printable(text: str) -> str:
    """Words of a header for a table: one line, not too long, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:LONGEST]).split())
