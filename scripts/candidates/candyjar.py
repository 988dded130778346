"""CandyJar's tables: candidates for people to look at, and what they say of each.

CandyJar (vivekvenkris/CandyJar) splits lines at every comma, without quotes; no number may be empty, nor
the last field. It finds a row again by its picture's path.
"""

import csv
import io
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from candidates import sky
from candidates.tables import FEATURES
from common.errors import BadData

HEADER = (
    "pointing_id,beam_id,beam_name,source_name,ra,dec,gl,gb,mjd_start,utc_start,f0_user,f0_opt,f0_opt_err,"
    "f1_user,f1_opt,f1_opt_err,acc_user,acc_opt,acc_opt_err,dm_user,dm_opt,dm_opt_err,sn_fft,sn_fold,pepoch,"
    "maxdm_ymw16,dist_ymw16,pics_trapum_ter5,pics_palfa,png_path,metafile_path,filterbank_path,"
    "candidate_tarball_path"
)
COLUMNS = HEADER.split(",")
TEXTS = {"metafile_path", "filterbank_path", "candidate_tarball_path"}  # others are numbers: 0
NONE = "none"
EPOCH = datetime(1858, 11, 17)  # MJD 0
PULSARS, OTHERS = {"T1_CAND", "KNOWN_PSR", "NB_PSR"}, {"RFI", "NOISE"}
UNDECIDED = {"T2_CAND", "UNCAT"}


def table(rows: Iterable[tuple[str, dict[str, str]]]) -> str:
    """candidates.csv, of pictures' names and their rows in a ranked list."""
    pointings: dict[str, int] = {}
    beams: dict[tuple, int] = {}
    lines = [HEADER]
    for picture, row in rows:
        values = dict.fromkeys(COLUMNS, "0") | dict.fromkeys(TEXTS, NONE)
        values |= _said(row) | {"png_path": picture}
        minute = values["utc_start"][:16]  # the beams of a pointing begin within seconds
        values["pointing_id"] = str(pointings.setdefault(minute, len(pointings)))
        beams.setdefault((values["ra"], values["dec"]), len(beams))
        values["beam_id"] = str(beams[values["ra"], values["dec"]])
        values["beam_name"] = f"beam{values['beam_id']}"
        lines.append(",".join(values[column] for column in COLUMNS))
    return "\n".join(lines) + "\n"


def _said(row: dict[str, str]) -> dict[str, str]:
    mjd = row.get("mjd") or "0"
    period, dm, snr = (row.get(name) or "0" for name in ("period_s", "dm", "snr"))
    frequency = repr(1 / float(period)) if float(period) else "0"
    place = sky.position(row.get("ra") or "", row.get("dec") or "") or (0.0, 0.0)
    ra, dec = sky.printed(*place)
    longitude, latitude = sky.galactic(*place)
    score = row.get("score") or "0"
    return {
        "source_name": re.sub(r"[^A-Za-z0-9.+-]", "-", Path(row["file"]).name) or NONE,
        "ra": ra, "dec": dec, "gl": f"{longitude:.5f}", "gb": f"{latitude:.5f}",
        "mjd_start": mjd, "pepoch": mjd, "utc_start": _utc(float(mjd)),
        "f0_user": frequency, "f0_opt": frequency, "dm_user": dm, "dm_opt": dm,
        "sn_fft": snr, "sn_fold": snr, "pics_trapum_ter5": score, "pics_palfa": score,
    }  # fmt: skip


def _utc(mjd: float) -> str:
    try:
        moment = EPOCH + timedelta(days=mjd)
    except OverflowError:
        moment = EPOCH
    return moment.replace(microsecond=0).isoformat()


def labels(place: Path) -> dict[str, str]:
    """What people said of each picture, by its name, from a file that CandyJar saved. BadData says why it
    is none."""
    try:
        text = place.read_text(errors="replace")
    except OSError as error:
        raise BadData(f"{place}: {error.strerror}") from None
    rows = csv.DictReader(io.StringIO(text))
    columns = set(rows.fieldnames or [])
    picture = next((name for name in ("png_path", "png") if name in columns), None)
    if picture is None or "classification" not in columns:
        raise BadData(f"{place}: it has no columns png (or png_path) and classification")
    found = {}
    for number, row in enumerate(rows, start=1):
        label = (row["classification"] or "").strip()
        if label not in PULSARS | OTHERS | UNDECIDED:
            raise BadData(
                f"{place}: row {number}: {label[:40]!r} is no classification of CandyJar's"
            )
        found[Path(row[picture].strip()).name] = label
    return found


def training(said: dict[str, str], drawn: dict[str, dict[str, str]]) -> list[list[float]]:
    """Eight features and class of each picture that somebody has decided, by the rows of its list.

    BadData where a picture is not of the list, or the list has features of two scales.
    """
    rows, models = [], set()
    for picture, label in said.items():
        if picture not in drawn:
            raise BadData(
                f"the list has no candidate whose picture is {picture}", "name its own list"
            )
        if label in UNDECIDED:
            continue
        row = drawn[picture]
        models.add(row["model"])
        rows.append([*(float(row[name]) for name in FEATURES), float(label in PULSARS)])
    if len(models) > 1:
        raise BadData(
            "some of them are PHCX and some PFD, whose DM curves have different scales: no model can learn both",
            "rank, draw and label them apart",
        )
    if not rows:
        raise BadData("nothing in it is decided: all are T2_CAND or UNCAT")
    return rows
