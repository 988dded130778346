"""PFD: what PRESTO's prepfold writes, in the byte order of the machine that it ran on.

The features follow the extractor that published tables were made with, not PRESTO of today: neither
Doppler correction nor alignment of the parts, and 100 DMs over the range that was searched.
"""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from candidates.folds.candidate import Candidate, Unreadable, checked_dm, printable

COUNTS = (
    "numdms", "numperiods", "numpdots", "nsub", "npart", "proflen", "numchan",
    "pstep", "pdstep", "dmstep", "ndmfact", "npfact",
)  # fmt: skip
SIZES = COUNTS[:7]  # those that something is as large as
FOREIGN = 100_000  # a count beyond it was written in the other byte order
MOST, MOST_TEXT = 1 << 20, 4096
MOST_BANDS, MOST_CELLS = 8192, 1 << 20  # sub-bands x bins: each is moved for each DM
TRIALS = 100
DISPERSION = 0.000241  # rounded, as the original has it
CHUNK = 1 << 19  # numbers at a time


class Cursor:
    """A place in a file's bytes, and what comes next in its byte order."""

    def __init__(self, content: bytes, order: str) -> None:
        self.content, self.order, self.at = content, order, 0

    def take(self, form: str) -> tuple:
        form = self.order + form
        if self.at + struct.calcsize(form) > len(self.content):
            raise Unreadable("it is neither PHCX nor PFD, or cut within its header")
        values = struct.unpack_from(form, self.content, self.at)
        self.at += struct.calcsize(form)
        return values

    def text(self) -> str:
        (length,) = self.take("i")
        if not 0 <= length <= MOST_TEXT:
            raise Unreadable(f"it is no PFD, or damaged: a name in it is {length} bytes long")
        return _words(self.take(f"{length}s")[0])

    def array(self, *shape: int) -> np.ndarray:
        """The next numbers, not copied. Only for a file whose size was found to be the header's."""
        values = np.frombuffer(self.content, f"{self.order}f8", math.prod(shape), self.at)
        self.at += values.nbytes
        return values.reshape(shape)


def begins(content: bytes) -> bool:
    """Whether a file's first bytes are the counts that a PFD begins with."""
    try:
        return bool(_counts(Cursor(content, _byte_order(content))))
    except Unreadable:
        return False


def read(content: bytes) -> Candidate:
    """The candidate in a file's bytes. Unreadable says what is wrong with it."""
    head = Cursor(content, _byte_order(content))
    counts = _counts(head)
    numdms, numperiods, numpdots, nsub, npart, proflen, numchan = counts
    _, source, telescope, _ = (head.text() for _ in range(4))
    ra, dec = (_words(word) for word in _position(head, counts))
    if numdms < 2:
        raise Unreadable(f"it has no DM axis (numdms is {numdms}), so there is no DM curve")
    if nsub < 2:
        raise Unreadable("it has one sub-band, so there is no DM curve")
    if nsub > MOST_BANDS or nsub * proflen > MOST_CELLS:
        raise Unreadable(f"{nsub} sub-bands of {proflen} bins are more than are read")
    _, _, _, tepoch, bepoch, _, low, width, best = head.take("9d")
    topo, bary, frequency = (head.take("2f3d")[2] for _ in range(3))
    head.take("7d")  # the orbit
    dms = head.array(numdms)
    head.array(numperiods + numpdots)
    profiles = head.array(npart, nsub, proflen)
    variance = _variance(head.array(npart, nsub, 7)[:, :, 5])
    trials = _trials(dms, best)
    with np.errstate(all="ignore"):  # what is not finite is refused
        bands = profiles.sum(axis=0, dtype=np.float64)
        if not np.isfinite(bands).all():
            raise Unreadable("its profiles hold what is no finite number")
        tops = _tops(low, width, numchan, nsub)
        (shifts,) = _shifts(np.array([best]), tops, frequency, proflen)
        aligned = _rotated(bands, shifts)
        return Candidate(
            kind="pfd", profile=_scaled(aligned.sum(axis=0)),
            curve=_curve(bands, _shifts(trials, tops, frequency, proflen), variance), axis=trials,
            sub_bands=aligned, sub_integrations=_sub_integrations(profiles, shifts),
            period=next((p for p in (bary, topo, 1 / frequency) if np.isfinite(p) and p > 0), None),
            dm=best, snr=None, ra=ra, dec=dec,
            mjd=next((t for t in (tepoch, bepoch) if np.isfinite(t) and t > 0), None),
            telescope=telescope, source=source,
        )  # fmt: skip


# -- the header -----------------------------------------------------------------------


def _byte_order(content: bytes) -> str:
    first = Cursor(content, "<").take("5i")
    return ">" if any(abs(count) > FOREIGN for count in first) else "<"


def _counts(head: Cursor) -> list[int]:
    counts = dict(zip(COUNTS, head.take("12i")))
    for name in SIZES:
        # Folds at one DM write 0 DMs: they are whole, and get a reason of their own.
        if not (0 if name == "numdms" else 1) <= counts[name] <= MOST:
            raise Unreadable(f"it is neither PHCX nor PFD, or damaged: {name} is {counts[name]}")
    return [counts[name] for name in SIZES]


def _position(head: Cursor, counts: list[int]) -> tuple[bytes, bytes]:
    """RA and Dec, empty where the file has none: what else it holds says whether it has."""
    numdms, numperiods, numpdots, nsub, npart, proflen, _ = counts
    numbers = 9 + 7 + numdms + numperiods + numpdots + npart * nsub * (proflen + 7)
    whole = head.at + 8 * numbers + 3 * 32
    if len(head.content) == whole:
        return b"", b""
    if len(head.content) == whole + 32:
        return head.take("16s16s")
    raise Unreadable(
        f"it has {len(head.content)} bytes and its header announces {whole}: it is cut or damaged"
    )


def _words(field: bytes) -> str:
    field = field.partition(b"\0")[0]
    try:
        return printable(field.decode())
    except UnicodeDecodeError:
        return printable(field.decode("latin-1"))


# -- the numbers ----------------------------------------------------------------------


def _trials(dms: np.ndarray, best: float) -> np.ndarray:
    """The DMs of the curve (100,), evenly over those that were searched, up or down."""
    if not (np.isfinite(dms).all() and math.isfinite(best)):
        raise Unreadable("a DM in it is not finite")
    first, last = (checked_dm(float(dm), "DM axis") for dm in (dms[0], dms[-1]))
    checked_dm(best, "DM")
    if first == last:
        raise Unreadable("its DM axis is a single DM, so there is no DM curve")
    return np.linspace(first, last, TRIALS)


def _variance(each: np.ndarray) -> float:
    """The variance of the whole profile, the sum of those of its parts (npart, nsub)."""
    with np.errstate(all="ignore"):
        total = float(each.sum())
        if not (math.isfinite(total) and total > 0 and (each >= 0).all()):
            raise Unreadable("the variance of its profiles is 0, negative or no number")
    return total


def _tops(low: float, width: float, channels: int, nsub: int) -> np.ndarray:
    """The top channel of each sub-band (nsub,) in MHz, from the centre of the lowest channel."""
    band = width * channels / nsub
    tops = low + band - width + np.arange(nsub) * band
    if not (np.isfinite(tops).all() and (tops > 0).all()):
        raise Unreadable("its frequencies are not above 0, so there are no delays")
    return tops


def _shifts(dms: np.ndarray, tops: np.ndarray, frequency: float, proflen: int) -> np.ndarray:
    """By how many bins each sub-band is late at each DM, (dms, nsub), in 0..proflen - 1."""
    if not (math.isfinite(frequency) and frequency > 0):
        raise Unreadable("its fold frequency is not above 0, so there are no delays")
    late = dms[:, None] / (DISPERSION * tops**2)
    bins = np.floor((late - late[:, -1:]) * frequency * proflen + 0.5)
    if not (np.abs(bins) < 2**53).all():
        raise Unreadable("its delays are beyond all measure: a frequency or DM in it is wrong")
    return np.mod(bins, proflen).astype(np.int64)


def _rotated(rows: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Each of the rows (n, bins) moved left by its shift (n,)."""
    return np.stack([np.roll(row, -shift) for row, shift in zip(rows, shifts)])


def _sub_integrations(profiles: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Phase by time, (npart, bins): the sub-bands of each part moved, and added up."""
    return sum(np.roll(profiles[:, band], -shift, axis=1) for band, shift in enumerate(shifts))


def _curve(bands: np.ndarray, shifts: np.ndarray, variance: float) -> np.ndarray:
    """The reduced chi2 against a flat profile at each DM, (dms,)."""
    nsub, bins = bands.shape
    # All rotations of a row, as views into two turns of it.
    turns = sliding_window_view(np.concatenate([bands, bands], axis=1), bins, axis=1)
    mean = bands.sum() / bins
    curve, at_a_time = [], max(1, CHUNK // bins)
    for start in range(0, len(shifts), at_a_time):
        part = shifts[start : start + at_a_time]
        total = np.zeros((len(part), bins))
        for band in range(nsub):
            total += turns[band, part[:, band]]
        curve.append(((total - mean) ** 2).sum(axis=1) / variance / (bins - 1))
    return np.concatenate(curve)


def _scaled(profile: np.ndarray) -> np.ndarray:
    """Linearly to 0..255. Unreadable where it is constant."""
    least, most = profile.min(), profile.max()
    if not most > least:
        raise Unreadable("the profile is constant: it has no skewness and no kurtosis")
    return (profile - least) / (most - least) * 255
