"""Draw candidates as survey people know them, and a page of the best to leaf through.

    python scripts/sheets.py ranked.csv -o sheets
    python scripts/sheets.py night/beam_07/*.pfd -o sheets

Input is a list that scripts/rank.py wrote, or candidate files, folders and patterns, as for rank. Each
candidate, the best --most of a list, becomes a PNG: profile twice, phase by time and by frequency, DM
curve, numbers. index.html holds them all, and needs no file beside it and no network. For a list it also
says which features spoke for and against each, exact Shapley values against the training candidates; and
candidates.csv makes the folder one that CandyJar opens. scripts/labels.py reads what people say in it.

Exit codes: 0 a sheet for each, 1 there is no page, 3 some could not be drawn.
"""

import argparse
import base64
import csv
import html
import io
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from candidates import candyjar, files, finding, folds, htru2, sheet
from candidates.folds import Unreadable
from candidates.folds.candidate import number
from candidates.tables import FEATURES
from clients import places
from common.errors import BadData, UserError, run
from common.files import PREPARED, write_atomically
from common.output import say
from orchestrator.monitors.shapley import clusters, shapley
from scoring import command, engine, ranking
from scoring.crew import Crew
from scoring.ranking import COLUMNS

NOT_DRAWN = 3
BACKGROUND = 50  # clusters of the training candidates that absent features are taken from
NOTHING = 1e-9  # the rounding of a feature that a model does not know
OURS = re.compile(r"index\.html|candidates\.csv|\d{6}_.+\.png")
NUMBERS = ("score", "period_s", "dm", "snr", "mjd", *FEATURES)  # of a list
STYLE = """
:root { color-scheme: light dark } body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 64rem; padding: 1rem; overflow-wrap: anywhere }
img { width: 100%; background: #fff } section { border-top: 1px solid; padding: .5rem 0; break-inside: avoid }
h2 { font-size: 1rem; margin: 0 } nav { float: right } .for { color: #2a7d2a } .against { color: #b3500a }
p { margin: .2rem 0; font-size: .9rem }
"""


@dataclass(frozen=True)
class Wanted:
    """A candidate to be drawn: its number, its file, and what a list says of it."""

    number: int
    file: str
    row: dict[str, str]

    @property
    def score(self) -> str:
        score = self.row.get("score")
        return f"{float(score):.6f}" if score else ""

    @property
    def name(self) -> str:
        """Of its picture. No name is part of another's: CandyJar finds rows by a part of it."""
        plain = re.sub(r"[^A-Za-z0-9.+-]", "-", os.path.basename(self.file))
        return f"{self.number:06d}_{plain[:100]}.png"


def listed(place: str) -> list[dict[str, str]] | None:
    """The rows of a list that rank wrote, None for what is none."""
    if not places.is_s3(place) and not os.path.isfile(place):
        return None
    content = places.read(place) or b""
    if not content.startswith((b"rank,file,score,", b"PAR1")):
        return None
    text = b"".join(files.Chunks(io.BytesIO(content), place)).decode(errors="replace")
    table = csv.DictReader(io.StringIO(text, newline=""), restval="")
    if missing := set(COLUMNS) - set(table.fieldnames):
        raise BadData(f"{place}: it has no columns {', '.join(sorted(missing))}")
    rows = list(table)
    for line, row in enumerate(rows, start=1):
        for name in NUMBERS:
            try:
                number(row[name], name)
            except Unreadable as error:
                raise BadData(f"{place}: row {line}: {error}") from None
    return rows


def wanted(named: list[str], most: int | None) -> list[Wanted]:
    """The best of a list, or files in the order of their names."""
    rows = listed(named[0]) if len(named) == 1 else None
    if rows is None:
        rows = [{"file": file} for file in finding.find(named, places.listed).files]
    else:
        rows = [row for row in rows if row[FEATURES[0]]]  # the others have nothing to be drawn
    if not rows:
        raise BadData(f"{named[0]}: no file in it could be read", "look at its column reason")
    return [Wanted(number, row["file"], row) for number, row in enumerate(rows[:most], start=1)]


# -- pictures -------------------------------------------------------------------------


def draw(some: list[Wanted]) -> list[bytes | str]:
    """A PNG of each, or why there is none."""
    return [_drawn(one) for one in some]


def _drawn(one: Wanted) -> bytes | str:
    try:
        candidate = ranking.read(one.file)
        values = folds.features(candidate)
    except Unreadable as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except BadData as error:
        return f"it cannot be read: {error}"
    period = candidate.period
    numbers = [
        ("period", f"{period * 1000:.9g} ms" if period else ""),
        ("frequency", f"{1 / period:.9g} Hz" if period else ""),
        ("DM", "" if candidate.dm is None else f"{candidate.dm:.3f}"),
        ("S/N", "" if candidate.snr is None else f"{candidate.snr:.2f}"),
        ("RA", candidate.ra), ("Dec", candidate.dec),
        ("MJD", "" if candidate.mjd is None else f"{candidate.mjd:.6f}"),
        ("telescope", candidate.telescope), ("source", candidate.source), ("", ""),
        *((name, f"{value:.6g}") for name, value in zip(FEATURES, values, strict=True)), ("", ""),
        ("rank", one.row.get("rank", "")), ("score", one.score), ("model", one.row.get("model", "")),
        ("known pulsar", one.row.get("known_pulsar", "")), ("ratio", one.row.get("ratio", "")),
    ]  # fmt: skip
    shown = [(name, value) for name, value in numbers if value or not name]
    return sheet.draw(candidate, os.path.basename(one.file), shown)


# -- what spoke for it ----------------------------------------------------------------

_background: tuple[np.ndarray, np.ndarray] | None = None  # of a worker process


def begin(model: str, background: tuple[np.ndarray, np.ndarray]) -> None:
    """Settle a process, with what absent features are taken from."""
    global _background
    _background = background
    command.settle(model)


def explain(some: list[Wanted]) -> list[list[tuple[str, float]]]:
    """By how much each feature raised the probability of each candidate, the largest first."""
    return [_explained(one) for one in some]


def _explained(one: Wanted) -> list[tuple[str, float]]:
    row = np.array([[float(one.row[name]) for name in FEATURES]])

    def answer(rows: np.ndarray) -> np.ndarray:
        return engine.answers(rows, one.row["model"])[:, 1:]

    values, _ = shapley(answer, row, *_background)
    named = zip(FEATURES, values[0, :, 0].tolist(), strict=True)
    spoke = [pair for pair in named if abs(pair[1]) > NOTHING]
    return sorted(spoke, key=lambda pair: -abs(pair[1]))


def explained(some: list[Wanted], model: str) -> dict[int, list[tuple[str, float]]]:
    """What spoke for and against each, by its number, where a model has judged it."""
    judged = [one for one in some if one.row.get("model")]
    place = PREPARED / "train.csv"
    if not judged:
        return {}
    if not place.is_file():
        raise UserError(
            f"{place} does not exist: what spoke for a candidate is measured against it",
            "make train",
        )
    background = clusters(htru2.load(place)[0], BACKGROUND, 0)
    with Crew(explain, 1, partial(begin, model, background)) as crew:
        pairs = crew.each(([one] for one in judged), engine.AHEAD)
        return {block[0].number: result[0] for block, result in pairs if result}


# -- the page -------------------------------------------------------------------------


def page(drawn: list[tuple[Wanted, bytes]], spoke: dict[int, list[tuple[str, float]]]) -> str:
    """All sheets on one page, nothing beside it."""
    sections = []
    for place, (one, picture) in enumerate(drawn):
        before = drawn[max(0, place - 1)][0].number
        after = drawn[min(len(drawn) - 1, place + 1)][0].number
        said = f"score {one.score}, model {one.row['model']}" if one.score else ""
        words = " ".join(
            f'<span class="{"for" if value > 0 else "against"}">{name} {value:+.3f}</span>'
            for name, value in spoke.get(one.number, [])
        )
        sections.append(
            f'<section id="n{one.number}"><nav><a href="#n{before}">before</a> '
            f'<a href="#n{after}">next</a></nav><h2>{one.number}. {html.escape(one.file)}</h2>'
            f"<p>{said}</p><p>{words}</p>"
            f'<img loading="lazy" alt="the candidate\'s sheet" '
            f'src="data:image/png;base64,{base64.b64encode(picture).decode()}"/></section>'
        )
    words = (
        "<p>Beside each name: by how much that feature raised or lowered the probability, against the "
        "training candidates (exact Shapley values).</p>"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width"/><title>candidates</title>'
        f"<style>{STYLE}</style></head><body><h1>{len(drawn)} candidates</h1>{words if spoke else ''}"
        f"{''.join(sections)}</body></html>\n"
    )


def emptied(folder: Path) -> Path:
    """The folder, made, without earlier sheets; UserError where it holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file", "-o sheets")
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    if others := [path.name for path in there if not OURS.fullmatch(path.name)]:
        raise UserError(f"{folder} holds something else: {', '.join(others[:3])}", "-o sheets")
    for path in there:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    expanded = os.path.expanduser
    parser.add_argument("input", type=expanded, nargs="+", help="a ranked list, or candidate files")
    parser.add_argument("-o", "--output", type=expanded, required=True, help="a folder")
    parser.add_argument(
        "--most", type=command.at_least_one, default=50, help="sheets (default: 50)"
    )
    command.add_model(parser)
    arguments = parser.parse_args()
    some = wanted(arguments.input, arguments.most)
    is_list = "rank" in some[0].row
    spoke = {}
    if is_list:
        package = command.package(arguments)
        with command.unpacked(package) as model:
            spoke = explained(some, model)
    folder = emptied(Path(arguments.output))
    drawn, failed = [], []
    with (
        Crew(draw, command.workers(arguments), places.reach([one.file for one in some])) as crew,
        tqdm(total=len(some), unit=" sheets", desc="sheets", disable=None) as bar,
    ):
        for (one,), result in crew.each(([one] for one in some), 2 * crew.workers):
            picture = result[0] if result else "the process that drew it was killed, twice"
            if isinstance(picture, bytes):
                write_atomically(folder / one.name, picture)
                drawn.append((one, picture))
            else:
                failed.append(f"{one.file}: {picture}")
            bar.update()
    drawn.sort(key=lambda pair: pair[0].number)
    for line in sorted(failed):
        say(f"  {line}")
    if not drawn:
        raise BadData(
            "none of the files could be drawn", "run it where the list's paths lead to them"
        )
    if is_list:
        rows = ((one.name, one.row) for one, _ in drawn)
        write_atomically(folder / "candidates.csv", candyjar.table(rows))
    write_atomically(folder / "index.html", page(drawn, spoke))
    say(f"sheets: {len(drawn)} in {folder}, all of them in {folder / 'index.html'}")
    return NOT_DRAWN if failed else 0


if __name__ == "__main__":
    run(main)
