"""Sheets: a picture of each candidate, and a page of the best that needs nothing beside it."""

import csv
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_candidate_files import pfd, phcx
from test_rank import as_list

import labels
import sheets
from candidates import candyjar, files, folds, htru2, sheet, sky
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
    assert names == [
        "000001_a--b-.phcx.png", "000002_fold.pfd.png", "candidates.csv", "index.html"
    ]  # fmt: skip
    page = (tmp_path / "sheets" / "index.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "a &lt;b&gt;.phcx" in page
    rows = list(csv.DictReader((tmp_path / "ranked.csv").open()))[:2]
    for row, part in zip(rows, page.split("<section")[1:], strict=True):
        assert f"score {float(row['score']):.6f}, model {row['model']}" in part
        spoke = re.findall(r'<span class="(for|against)">\w+ ([+-]\d\.\d{3})</span>', part)
        assert len(spoke) == {"eight": 8, "six": 6}[row["model"]]
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
    place.write_bytes(as_list([Row("a.pfd", reason="it is empty")]))
    with pytest.raises(BadData, match="no file in it could be read"):
        sheets.wanted([str(place)], 50)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    folder = tmp_path / "sheets"
    assert sheets.emptied(folder) == folder
    (folder / "000001_old.png").write_bytes(PNG)
    sheets.emptied(folder)
    assert list(folder.iterdir()) == []
    (folder / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"something else: thesis\.tex"):
        sheets.emptied(folder)
    assert (folder / "thesis.tex").exists()
    with pytest.raises(UserError, match="is a file"):
        sheets.emptied(Path(folder, "thesis.tex"))


# -- CandyJar -------------------------------------------------------------------------


@pytest.fixture
def a_list(tmp_path) -> Path:
    """A ranked list of four files, one of which cannot be read."""
    names = ["a.phcx", "b, north_1.phcx", "c.phcx", "none.phcx"]
    for name in names[:3]:
        (tmp_path / name).write_bytes(phcx())
    rows = ranking.measure([str(tmp_path / name) for name in names])
    scored = [
        replace(row, score=0.9 - place / 10, label=1, model="eight") if row.kind else row
        for place, row in enumerate(rows)
    ]
    place = tmp_path / "ranked.csv"
    place.write_bytes(as_list(ranking.ordered(scored)))
    return place


def test_the_table_is_one_that_candyjar_can_split_at_commas(a_list):
    some = sheets.wanted([str(a_list)], 50)
    head, *lines = candyjar.table((one.name, one.row) for one in some).splitlines()
    assert head.split(",") == candyjar.COLUMNS
    rows = [dict(zip(candyjar.COLUMNS, line.split(","), strict=True)) for line in lines]
    assert len(rows) == 3
    texts = {
        "beam_name", "source_name", "ra", "dec", "utc_start", "png_path", "metafile_path",
        "filterbank_path", "candidate_tarball_path",
    }  # fmt: skip
    for row in rows:
        assert all(row.values())
        for name in set(row) - texts:
            float(row[name])
        assert "pointing_id" not in row["png_path"] + row["source_name"]
    first = rows[0]
    assert (first["ra"], first["dec"]) == ("15:50:37.68", "-40:46:58.3")
    assert (float(first["gl"]), float(first["gb"])) == pytest.approx((335.780, 10.390), abs=1e-3)
    assert first["utc_start"] == "2010-01-16T02:47:40"
    assert (first["pics_palfa"], first["pics_trapum_ter5"], first["sn_fold"]) == (
        "0.9",
        "0.9",
        "9.5",
    )
    assert float(first["f0_opt"]) == pytest.approx(1 / 0.0715)
    names = [row["png_path"] for row in rows]
    assert not any(one in other for one in names for other in names if one is not other)


@pytest.mark.parametrize("column", ["png", "png_path"])
def test_what_people_said_becomes_a_table_to_train_on(
    a_list, tmp_path, monkeypatch, capsys, column
):
    names = [one.name for one in sheets.wanted([str(a_list)], 50)]
    said = zip(names, ["KNOWN_PSR", "RFI", "UNCAT"], strict=True)
    lines = [f"0,2010-01-16T02:47:40,plots/{name},{label}" for name, label in said]
    (tmp_path / "said.csv").write_text("\n".join([f"beamid,utc,{column},classification", *lines]))
    place = tmp_path / "labelled.csv"
    monkeypatch.setattr(
        sys, "argv", ["labels.py", str(tmp_path / "said.csv"), str(a_list), "-o", str(place)]
    )
    labels.main()
    assert "2 candidates, 1 pulsars" in capsys.readouterr().err
    data = files.labelled(*files.read(place, "excess"), place.name)
    htru2.check(data, place.name)
    assert data[:, 8].tolist() == [1, 0]
    wanted = folds.features(folds.read(phcx()))
    assert (data[:, :8] == wanted).all()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("a,b\n1,2\n", "no columns png"),
        ("png,classification\n000009_z.png,RFI\n", "no candidate whose picture is 000009_z.png"),
        ("png,classification\n000001_a.phcx.png,PULSAR\n", "'PULSAR' is no classification"),
        ("png,classification\n000001_a.phcx.png,UNCAT\n", "nothing in it is decided"),
    ],
)
def test_labels_that_do_not_fit_are_refused(a_list, tmp_path, said, reason):
    (tmp_path / "said.csv").write_text(said)
    drawn = {one.name: one.row for one in sheets.wanted([str(a_list)], 50)}
    with pytest.raises(BadData, match=reason):
        candyjar.training(candyjar.labels(tmp_path / "said.csv"), drawn)


def test_features_of_two_scales_make_no_table(a_list):
    drawn = {one.name: one.row for one in sheets.wanted([str(a_list)], 50)}
    first, second, _ = drawn
    drawn[first]["model"] = ""
    with pytest.raises(BadData, match="no model can learn both"):
        candyjar.training({first: "RFI", second: "RFI"}, drawn)


def test_a_list_that_was_damaged_is_refused_by_row(a_list):
    rows = list(csv.reader(io.StringIO(a_list.read_text())))
    rows[2][ranking.COLUMNS.index("dm")] = "much"
    with a_list.open("w") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(BadData, match="row 2: its dm is no finite number: 'much'"):
        sheets.wanted([str(a_list)], 50)


# -- places in the sky ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("ra", "dec", "degrees"),
    [
        ("237.657000", "-40.782861", (237.657, -40.782861)),
        ("17:48:04.8480", "-24:46:46.2000", (267.0202, -24.7795)),
        ("00:00:01.5", "-00:00:36", (0.00625, -0.01)),
        ("Unknown", "Unknown", None),
        ("25:00:00", "10", None),
        ("", "", None),
    ],
)
def test_places_are_read_as_they_are_printed(ra, dec, degrees):
    assert sky.position(ra, dec) == (degrees and pytest.approx(degrees))


def test_places_are_printed_with_their_carries_and_signs():
    assert sky.printed(359.99999999, -0.005) == ("00:00:00.00", "-00:00:18.0")
    assert sky.printed(267.0202, -24.7795) == ("17:48:04.85", "-24:46:46.2")


def test_the_galaxys_centre_is_where_it_is():
    longitude, latitude = sky.galactic(266.41683, -29.00781)
    assert (longitude, latitude) == pytest.approx((359.94423, -0.04616), abs=1e-4)
