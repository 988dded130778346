"""From a folder of candidate files to a ranked list: every file a line, whatever happens to the rest."""

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from test_candidate_files import CURVE, DRAW, GIVEN, moments, needs_given, pfd, phcx

from candidates import finding
from candidates.tables import FEATURES
from clients import places
from common.errors import BadData
from scoring import forms, ranking
from scoring.crew import Crew
from scoring.ranking import Row

NOISE = DRAW.integers(0, 256, 128).astype(np.uint8), (DRAW.random(1196) * 30).astype(np.uint8)


def run_rank(project, *arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "scripts/rank.py", *map(str, arguments)], cwd=project.folder,
        env=project.environment, capture_output=True, timeout=100, **options,
    )  # fmt: skip


def as_list(rows: list[Row], more=(), of=None) -> bytes:
    return forms.header(ranking.columns(more)) + b"".join(ranking.lines(rows, of))


def listed(content: bytes) -> list[dict]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


@pytest.fixture(scope="module")
def night(tmp_path_factory) -> Path:
    """A folder as surveys leave them: two beams, a fold at another scale, and what is none."""
    folder = tmp_path_factory.mktemp("night")
    (folder / "beam 2").mkdir()
    (folder / "noise.phcx").write_bytes(phcx(*NOISE))
    (folder / "beam 2" / "pulsar, 1.phcx.gz").write_bytes(gzip.compress(phcx()))
    (folder / "beam 2" / "renamed.PFD").write_bytes(phcx(NOISE[0], CURVE))
    (folder / "fold.pfd").write_bytes(pfd())
    (folder / "cut.pfd").write_bytes(pfd()[:-100])
    (folder / "empty.phcx").write_bytes(b"")
    (folder / "pulsar.pfd.bestprof").write_bytes(b"# Input file = x")
    (folder / "readme.txt").write_bytes(phcx())
    return folder


@pytest.fixture(scope="module")
def ranked(project, night) -> subprocess.CompletedProcess:
    return run_rank(project, night, "--workers", "2")


def test_every_file_is_a_line_and_the_best_is_the_first(project, night, ranked):
    assert ranked.returncode == 3, ranked.stderr
    rows = listed(ranked.stdout)
    assert list(rows[0]) == ranking.COLUMNS
    names = [os.path.relpath(row["file"], night) for row in rows]
    packed = ["beam 2/pulsar, 1.phcx.gz", "beam 2/renamed.PFD", "noise.phcx"]
    assert sorted(names[:4]) == sorted([*packed, "fold.pfd"])
    assert names[4:] == ["cut.pfd", "empty.phcx"]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "", ""]
    scores = [float(row["score"]) for row in rows[:4]]
    assert scores == sorted(scores, reverse=True)
    card = project.read("models/model.json")
    models = {"eight": ("model_pulsar", card), "six": ("model_six", card["six"])}
    for row, score in zip(rows, scores, strict=False):
        name, told = models[row["model"]]
        estimator = joblib.load(project.folder / "models" / f"{name}.joblib")
        values = [[float(row[feature]) for feature in told["features"]]]
        assert abs(estimator.predict_proba(values)[0, 1] - score) < 1e-9
        assert row["label"] == str(int(score >= told["threshold"]))
        assert row["model"] == ("six" if row["file"].endswith("fold.pfd") else "eight")
        if row["model"] == "six":
            continue
        assert (row["period_s"], row["dm"], row["snr"]) == ("0.0715", "-0.25", "9.5")
        assert (row["ra"], row["dec"], row["mjd"]) == ("237.657000", "-40.782861", "55212.116436")
        assert (row["telescope"], row["reason"]) == ("parkes", "")
    pulsar = next(row for row in rows if "pulsar" in row["file"])
    np.testing.assert_allclose(
        [float(pulsar[name]) for name in FEATURES[4:]], moments(CURVE), rtol=1e-12
    )


def test_what_has_no_score_has_a_reason_and_no_number_of_the_model(ranked):
    cut, empty = listed(ranked.stdout)[4:]
    for row in (cut, empty):
        assert not any(
            row[column] for column in ranking.COLUMNS if column not in ("file", "reason")
        )
    assert "cut or damaged" in cut["reason"]
    assert empty["reason"] == "it is empty"
    said = ranked.stderr.decode()
    assert "2 files have no rank" in said
    assert "2 files of other names were passed over" in said
    assert "Traceback" not in said


def test_the_list_is_the_same_bytes_for_any_number_of_workers_and_order_of_names(
    project, night, ranked
):
    names = sorted(map(str, finding.find([str(night)], places.listed).files), reverse=True)
    again = run_rank(
        project, "-", "--workers", "1", "-o", "again.csv", "--json", input="\n".join(names).encode()
    )
    assert (project.folder / "again.csv").read_bytes() == ranked.stdout
    summary = json.loads(again.stdout)
    assert (summary["files"], summary["ranked"], summary["without_rank"]) == (6, 4, 2)
    assert summary["models"] == {"eight": 3, "six": 1}


def test_a_package_without_the_model_of_six_features_scores_no_fold_of_another_scale(
    project, night, tmp_path
):
    package = tmp_path / "one.tar.gz"
    with (
        tarfile.open(project.folder / "models" / "model.tar.gz") as whole,
        tarfile.open(package, "w:gz") as part,
    ):
        for member in whole.getmembers():
            if member.name != "model_six.joblib":
                part.addfile(member, whole.extractfile(member))
    fold = str(night / "fold.pfd")
    done = run_rank(project, fold, "--model", package, "--trust", "--workers", "1")
    (row,) = listed(done.stdout)
    assert (done.returncode, row["reason"]) == (3, ranking.NO_MODEL)
    assert not row["score"] + row["label"] + row["model"]
    assert float(row["dm_kurtosis"])


@needs_given
def test_the_given_folder_is_measured_as_its_own_check_wants(tmp_path):
    found = finding.find([str(GIVEN)], places.listed)
    assert (len(found.files), found.passed_over) == (17, 5)
    rows = ranking.measure(list(found.files))
    (tmp_path / "ranked.csv").write_bytes(as_list(rows))
    check = subprocess.run(
        [sys.executable, GIVEN / "check.py", tmp_path / "ranked.csv", GIVEN / "expected.csv"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert check.returncode == 0, check.stdout


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_file(project, tmp_path):
    for number in range(600):
        (tmp_path / f"{number}.phcx").write_bytes(phcx(*NOISE) if number == 0 else b"")
        if number:
            os.unlink(tmp_path / f"{number}.phcx")
            os.link(tmp_path / "0.phcx", tmp_path / f"{number}.phcx")
    with subprocess.Popen(
        [sys.executable, "scripts/rank.py", str(tmp_path), "--workers", "2"], cwd=project.folder,
        env=project.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60
        while len(before := children.read_text().split()) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(int(before[-1]), signal.SIGKILL)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    rows = listed(out)
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 601)]
    assert len({row["score"] for row in rows}) == 1


# -- work that is shared --------------------------------------------------------------


def doubled(items: list) -> list:
    """What a crew does here: an item that says so ends its process, another only the first time."""
    for item in items:
        if item == "deadly" or (isinstance(item, Path) and not item.exists()):
            if isinstance(item, Path):
                item.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
    return [item * 2 if isinstance(item, int) else item for item in items]


def test_what_ends_its_process_twice_costs_only_itself(tmp_path):
    once = tmp_path / "once"
    blocks = [[1, 2], [3, "deadly", 4], [once], [5], [6]]
    with Crew(doubled, 2) as crew:
        pairs = list(crew.each(blocks, 3))
    assert sorted(item for block, _ in pairs for item in block if isinstance(item, int)) == [
        1, 2, 3, 4, 5, 6
    ]  # fmt: skip
    found = {item: result for block, results in pairs if results for item, result in
             zip(block, results, strict=True)}  # fmt: skip
    assert found == {1: 2, 2: 4, 3: 6, 4: 8, 5: 10, 6: 12, once: once}
    assert [block for block, results in pairs if results is None] == [["deadly"]]


def unsettled() -> None:
    raise SystemExit(3)


def test_a_crew_that_cannot_settle_says_so():
    with Crew(doubled, 1, unsettled) as crew:
        assert not crew.ready()


def test_equal_scores_are_in_the_order_of_their_names():
    rows = [Row("c"), Row("b", score=0.5), Row("d", score=0.9), Row("a", score=0.5), Row("A")]
    assert [row.file for row in ranking.ordered(rows)] == ["d", "a", "b", "A", "c"]


def test_names_that_are_no_text_or_no_line_stay_one_row():
    names = ["a\nb,c", "a\rb", os.fsdecode(b"\xff.pfd")]
    content = as_list([Row(name, reason="cut") for name in names])
    assert [row["file"] for row in listed(content)] == ["a\nb,c", "a\rb", "\\udcff.pfd"]


# -- what is taken --------------------------------------------------------------------


def test_folders_patterns_and_lists_are_taken_once_each(night, tmp_path):
    (tmp_path / "list").write_text(f"{night}/noise.phcx\n\n{night}/none.phcx\n{night}/readme.txt\n")
    found = finding.find(
        [f"@{tmp_path}/list", f"{night}/*.pfd", f"{night}/beam 2", f"{night}/fold.pfd"],
        places.listed,
    )
    assert [os.path.relpath(place, night) for place in found.files] == [
        "noise.phcx", "none.phcx", "readme.txt", "cut.pfd", "fold.pfd", "beam 2/pulsar, 1.phcx.gz",
        "beam 2/renamed.PFD",
    ]  # fmt: skip
    assert found.files[f"{night}/beam 2/renamed.PFD"] == "renamed.PFD"


@pytest.mark.parametrize("name", ["none", "none*.pfd", "@none"])
def test_what_is_not_there_is_an_error(tmp_path, name):
    with pytest.raises(BadData, match="none"):
        finding.find([name.replace("none", f"{tmp_path}/none")], places.listed)
    with pytest.raises(BadData, match="0 others were passed over"):
        finding.find([str(tmp_path)], places.listed)


def test_a_file_that_was_listed_and_is_gone_is_a_line():
    (row,) = ranking.measure(["/nowhere/a.pfd"])
    assert row.reason == "it cannot be read: No such file or directory"
