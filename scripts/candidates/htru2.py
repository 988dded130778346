"""What a candidate is: the eight features of HTRU2, their names, bounds and checks.

The first four describe the folded profile (128 bins of 8 bits), the last four the curve of
S/N over DM (1196 trials of 8 bits). The published description names the third and fourth
moment of each the wrong way round; the names here are what the numbers are. The proof is a
bound that no sample can break, excess kurtosis >= skewness^2 - 2 (Pearson 1916), which
every row of HTRU2 keeps under these names.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from candidates import files
from candidates.tables import EXCESS, FEATURES, LABEL
from candidates.tables.moments import BOUND_SLACK, MOMENTS, bound_excess
from common.errors import BadData
from common.files import sha256

ROWS, PULSARS = 17898, 1639
# sha256 of the parsed values as little-endian float64, row by row.
PUBLISHED = "bff7e0d962f5762938f833075d6bbfd3ce229cdcfb30091b4ecaa7dca4a81a74"


def check(data: np.ndarray, name: str) -> None:
    """Whether each row can be a candidate; BadData names the first that cannot."""
    features, label = data[:, :8], data[:, 8]
    _require(np.isfinite(data), data, name, "is missing or not finite")
    _require(np.isin(label, (0, 1))[:, None], data[:, 8:], name, "must be 0 or 1", first=8)
    for moment, limit in ((0, 255.0), (1, 127.5), (4, 255.0), (5, 127.5)):
        inside = (features[:, [moment]] >= 0) & (features[:, [moment]] <= limit)
        _require(inside, features[:, [moment]], name, f"must be in 0..{limit}", first=moment)
    for what, skewness, kurtosis in MOMENTS:
        broken = bound_excess(data, skewness, kurtosis) < -BOUND_SLACK
        if broken.any():
            row = int(np.argmax(broken))
            raise BadData(
                f"{name}: row {row + 1}: {what}_kurtosis {data[row, kurtosis]} is below "
                f"{what}_skewness^2 - 2 = {data[row, skewness] ** 2 - 2:.6g}, which no sample can be "
                f"({int(broken.sum())} rows); are the two columns the other way round?"
            )


def _require(good: np.ndarray, values: np.ndarray, name: str, what: str, first: int = 0) -> None:
    if not good.all():
        row, column = np.unravel_index(int(np.argmin(good)), good.shape)
        title = ([*FEATURES, LABEL])[first + column]
        raise BadData(f"{name}: row {row + 1}: {title} {what}, not {values[row, column]}")


def check_published(data: np.ndarray, name: str) -> None:
    """Whether the data are HTRU2 in full: 17 898 candidates, 1 639 pulsars."""
    if len(data) != ROWS:
        cut = " (cut short?)" if len(data) < ROWS else ""
        raise BadData(f"{name}: {len(data)} candidates, HTRU2 has {ROWS}{cut}")
    pulsars = int(data[:, 8].sum())
    if pulsars != PULSARS:
        raise BadData(f"{name}: {pulsars} pulsars, HTRU2 has {PULSARS}")


def content_hash(data: np.ndarray) -> str:
    """The same for every copy of the same numbers, whatever its line ends and header."""
    return sha256(np.ascontiguousarray(data, dtype="<f8").tobytes())


def to_csv(data: np.ndarray) -> str:
    """The candidates with a header line, shortest exact decimals."""
    frame = pd.DataFrame(data[:, :8], columns=FEATURES)
    frame[LABEL] = data[:, 8].astype(int)
    return frame.to_csv(index=False, lineterminator="\n")


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 8) and classes (n,) of a file that `to_csv` wrote."""
    data = files.labelled(*files.read(path, EXCESS), path.name)
    return data[:, :8], data[:, 8].astype(int)
