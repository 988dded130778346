"""Get the candidates: HTRU2 from its public homes, from a file or URL, or simulated.

    python scripts/fetch.py                          # as params.yaml (data.source) says
    HTRU2=~/Downloads/HTRU_2.csv make train          # your own copy, a path or a URL

Precedence: --source, then the environment variable HTRU2, then data.source in params.yaml.
Writes data/candidates.csv and data/source.json, which says where they came from and goes
into every model. Where no home of HTRU2 answers, `auto` simulates and says so.
"""

import argparse
import io
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from tqdm import tqdm

from candidates import files, htru2, tables
from common.errors import BadData, BadParams, UserError, run
from common.files import CANDIDATES, SOURCE, write_atomically, write_json
from common.output import say
from common.params import load_params

HOMES = (
    # UCI Machine Learning Repository, data set 372 (CC BY 4.0)
    "https://archive.ics.uci.edu/static/public/372/htru2.zip",
    # the authors' own repository
    "https://raw.githubusercontent.com/scienceguyrob/PulsarFeatureLab/master/PulsarFeatureLab/"
    "Data/HTRU2/ARFF/Non-discretized/Lyon%20et%20al.%20Features%20(2015)/"
    "HTRU_2_Lyon_Features%20(8).arff",
)
TIMEOUT_SECONDS = 10  # without an answer or a byte
MAX_BYTES = 50_000_000
URL = re.compile(r"https?://")
NAME_ANOTHER = "HTRU2=<path or URL of HTRU_2.csv> make train"
STALE, FRESH = 0, 3  # exit codes of --stale; 1 is an error's


def download(url: str) -> bytes:
    """The bytes behind a URL; BadData says why not."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            total = int(answer.headers.get("Content-Length") or 0) or None
            content = io.BytesIO()
            name = url.rsplit("/", 1)[-1][:30]
            with tqdm(
                total=total, unit="B", unit_scale=True, desc=name, leave=False, disable=None
            ) as bar:
                while chunk := answer.read(65536):
                    content.write(chunk)
                    bar.update(len(chunk))
                    if content.tell() > MAX_BYTES:
                        raise BadData(f"{url}: more than {MAX_BYTES} bytes, not HTRU2")
            if total and content.tell() < total:
                raise BadData(
                    f"{url}: the connection ended after {content.tell()} of {total} bytes"
                )
            return content.getvalue()
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise BadData(f"{url}: {getattr(error, 'reason', error)}") from None


def from_place(place: str) -> np.ndarray:
    """HTRU2 from a URL or a path, checked; BadData when it is not HTRU2."""
    if URL.match(place):
        content, name = download(place), place.rsplit("/", 1)[-1]
    else:
        path = Path(os.path.expanduser(place))
        name = path.name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadData(f"{place}: {error.strerror}") from None
    found, rows = files.read_stream(io.BytesIO(content), name, tables.EXCESS)
    data = files.labelled(found, rows, name)
    for line in found.told():
        say(f"{name}: {line}")
    htru2.check(data, name)
    htru2.check_published(data, name)
    if htru2.content_hash(data) != htru2.PUBLISHED:
        say(f"warning: {name} has the shape of HTRU2, but not all of its published values")
    return data


def from_homes() -> np.ndarray | None:
    """HTRU2 from the first public home that answers with it, None when none does."""
    for home in HOMES:
        try:
            return from_place(home)
        except BadData as error:
            say(f"  {error}")
    return None


def simulated(params: dict, survey: dict) -> np.ndarray:
    """Candidates of a survey, both as in params.yaml: an array (n, 9)."""
    pulsars = params["simulated_pulsars"]
    others = params["simulated_candidates"] - pulsars
    if others < 100:
        raise BadParams(
            f"params.yaml: data.simulated_pulsars is {pulsars} of {params['simulated_candidates']} "
            "data.simulated_candidates; 100 of them must be noise",
            "raise data.simulated_candidates, or lower data.simulated_pulsars",
        )
    from candidates import (
        simulator,  # takes a while, and every `make` asks this script whether it is stale
    )

    receiver = simulator.Survey(**survey)
    features, classes = simulator.simulate(pulsars, others, params["seed"], receiver)
    return np.column_stack([features, classes])


def from_named(place: str) -> np.ndarray:
    """HTRU2 from a place that somebody named; BadData says how to name another."""
    try:
        return from_place(place)
    except BadData as error:
        raise BadData(str(error), error.remedy or NAME_ANOTHER) from None


def chosen(argument: str | None, params: dict) -> str:
    """The source to use: flag, then environment, then params.yaml."""
    return argument or os.environ.get("HTRU2") or params["source"]


def get(source: str, params: dict, survey: dict) -> tuple[np.ndarray, bool]:
    """The candidates, and whether they are simulated."""
    if source == "simulated":
        return simulated(params, survey), True
    if source not in ("auto", "htru2"):
        return from_named(source), False
    say("fetch: looking for HTRU2 at its public homes")
    data = from_homes()
    if data is not None:
        return data, False
    if source == "htru2":
        raise UserError("no home of HTRU2 answered", NAME_ANOTHER)
    say("fetch: NO HOME OF HTRU2 ANSWERED. The candidates are SIMULATED; every score that")
    say("       follows is a score on simulated data. Once online, `make train` gets HTRU2.")
    return simulated(params, survey), True


def is_stale(params: dict) -> bool:
    """Whether `make` should fetch again: the candidates that are there, or that DVC would bring back
    from its cache, are not what was chosen; BadData when that cannot be had.

    What params.yaml names, DVC fetches when the name changes; here a file's content counts as well.
    """
    source, named = chosen(None, params), bool(os.environ.get("HTRU2"))
    there = SOURCE.read_text(errors="replace") if SOURCE.exists() else ""
    is_simulated = '"simulated": true' in there
    if source == "simulated":
        return not is_simulated if there else named
    if source == "htru2":
        return is_simulated if there else named
    if source == "auto":
        return is_simulated and any(_answers(home) for home in HOMES)
    if URL.match(source) and there and not named:
        return False  # one of params.yaml: not a download for every `make`
    return htru2.content_hash(from_named(source)) not in there


def _answers(url: str) -> bool:
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.status == 200
    except (OSError, ValueError):
        return False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", help="auto, htru2, simulated, or a path or URL of HTRU_2.csv")
    parser.add_argument(
        "--stale",
        action="store_true",
        help=f"exit with {STALE} when the candidates should be fetched again, {FRESH} when not",
    )
    arguments = parser.parse_args()
    all_params = load_params()
    params = all_params["data"]
    if arguments.stale:
        return STALE if is_stale(params) else FRESH
    data, is_simulated = get(chosen(arguments.source, params), params, all_params["survey"])
    content = htru2.content_hash(data)
    write_atomically(CANDIDATES, htru2.to_csv(data))
    write_json(
        SOURCE,
        {
            "source": "simulated candidates" if is_simulated else "HTRU2",
            "simulated": is_simulated,
            "content_sha256": content,
            "published_values": content == htru2.PUBLISHED,
            "candidates": len(data),
            "pulsars": int(data[:, 8].sum()),
        },
    )
    kind = "SIMULATED candidates" if is_simulated else "HTRU2"
    say(f"fetch: {len(data)} {kind}, {int(data[:, 8].sum())} pulsars, content {content[:12]}")
    return 0


if __name__ == "__main__":
    run(main)
