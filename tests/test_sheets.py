"""Sheets: a picture of each candidate, and a page of the best that needs nothing beside it."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_candidate_files import pfd, phcx

import sheets
from candidates import folds, sheet
from common.errors import BadData, UserError
from scoring import ranking
from scoring.ranking import Row

PNG = b"\x89PNG\r\n\x1a\n"


def run(project, script: str, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, f"scripts/{script}.py", *map(str, arguments)], cwd=project.folder,
        env=project.environment, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


@pytest.mark.slow
def test_a_list_becomes_a_page_of_its_best_with_what_spoke_for_each(project, tmp_path):
    (tmp_path / "a <b>.phcx").write_bytes(phcx())
    (tmp_path / "fold.pfd").write_bytes(pfd())
    (tmp_path / "none.pfd").write_bytes(b"")
    assert run(project, "rank", tmp_path, "-o", tmp_path / "ranked.csv").returncode == 3
    result = run(project, "sheets", tmp_path / "ranked.csv", "-o", tmp_path / "sheets")
    assert result.returncode == 0, result.stderr
    names = sorted(path.name for path in (tmp_path / "sheets").iterdir())
    assert names == ["00001_a--b-.phcx.png", "00002_fold.pfd.png", "index.html"]
    page = (tmp_path / "sheets" / "index.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "a &lt;b&gt;.phcx" in page
    (row, *_) = csv.DictReader((tmp_path / "ranked.csv").open())
    assert f"score {float(row['score']):.6f}, model eight" in page
    spoke = re.findall(r'<span class="(for|against)">\w+ ([+-]\d\.\d{3})</span>', page)
    assert len(spoke) == 8
    assert all((word == "for") == value.startswith("+") for word, value in spoke)
    sizes = [abs(float(value)) for _, value in spoke]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("content", [phcx(), pfd()], ids=["phcx", "pfd"])
def test_a_sheet_is_a_png_and_the_same_bytes_each_time(content):
    found = folds.read(content)
    words = [("source", "$x_1$ " + "long " * 20), ("", ""), ("DM", "1")]
    first, again = (sheet.draw(found, "a_$b$.pfd" * 20, words) for _ in range(2))
    assert first.startswith(PNG)
    assert first == again


def test_candidates_need_no_list_and_what_cannot_be_drawn_is_said(tmp_path):
    (tmp_path / "a.phcx").write_bytes(phcx())
    (tmp_path / "b.pfd").write_bytes(b"")
    first, second = sheets.wanted([str(tmp_path)], 50)
    picture, reason = sheets.draw([first, second])
    assert picture.startswith(PNG)
    assert reason == "it is empty"
    assert len(sheets.wanted([str(tmp_path)], 1)) == 1


def test_a_list_without_a_candidate_is_refused(tmp_path):
    place = tmp_path / "ranked.csv"
    place.write_bytes(b"".join(ranking.lines([Row("a.pfd", reason="it is empty")])))
    with pytest.raises(BadData, match="no file in it could be read"):
        sheets.wanted([str(place)], 50)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    folder = tmp_path / "sheets"
    assert sheets.emptied(folder) == folder
    (folder / "00001_old.png").write_bytes(PNG)
    sheets.emptied(folder)
    assert list(folder.iterdir()) == []
    (folder / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"something else: thesis\.tex"):
        sheets.emptied(folder)
    assert (folder / "thesis.tex").exists()
    with pytest.raises(UserError, match="is a file"):
        sheets.emptied(Path(folder, "thesis.tex"))
