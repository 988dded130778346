"""Scoring many candidates: exact, in order, nothing lost, nothing half-written."""

import io
import json
import subprocess
import sys

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candidates.htru2 import load
from orchestrator.sandbox.hosting import confinement
from scoring import engine
from scoring.packing import pack


@pytest.fixture(scope="module")
def rows(project) -> list[str]:
    lines = (project.folder / "data" / "candidates.csv").read_text().splitlines()[1:]
    return [line.rpartition(",")[0] for line in lines]


def run_score(project, *arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "scripts/score.py", *arguments], cwd=project.folder,
        env=project.environment, capture_output=True, **options,
    )  # fmt: skip


def assert_same(output: bytes, expected: bytes) -> None:
    """The same labels, the same probabilities; a matrix product's last bit may differ."""
    ours, theirs = (np.loadtxt(io.BytesIO(text), delimiter=",") for text in (output, expected))
    assert np.array_equal(ours[:, 0], theirs[:, 0])
    assert np.abs(ours[:, 1] - theirs[:, 1]).max() < 1e-9


def test_every_answer_is_predict_probas_in_the_inputs_order(project, rows):
    estimator = joblib.load(project.folder / "models" / "model_pulsar.joblib")
    threshold = project.read("models/model.json")["threshold"]
    features, _ = load(project.folder / "data" / "candidates.csv")
    expected = estimator.predict_proba(features)[:, 1]
    (project.folder / "night.csv").write_text("\n".join(rows) + "\n")
    result = run_score(project, "night.csv", "-o", "scored.csv")
    assert result.returncode == 0, result.stderr
    scored = np.loadtxt(project.folder / "scored.csv", delimiter=",")
    assert np.abs(scored[:, 1] - expected).max() < 1e-9
    assert np.array_equal(scored[:, 0], expected >= threshold)


@pytest.mark.parametrize(
    "form", ["header", "class", "carriage-returns", "no-final-newline", "stdin"]
)
def test_every_form_of_input_gets_the_same_answers(project, rows, form):
    plain = run_score(project, "-", input="\n".join(rows[:500]).encode() + b"\n")
    text = {
        "header": ",".join("abcdefgh") + "\n" + "\n".join(rows[:500]) + "\n",
        "class": "\n".join(row + ",1" for row in rows[:500]) + "\n",
        "carriage-returns": "\r".join(rows[:500]) + "\r",
        "no-final-newline": "\n".join(rows[:500]),
        "stdin": "\n".join(rows[:500]) + "\n",
    }[form]
    result = run_score(project, "-", input=text.encode())
    assert result.returncode == 0, result.stderr
    assert_same(result.stdout.removeprefix(b"label,probability\n"), plain.stdout)
    assert result.stdout.startswith(b"label,probability\n") == (form == "header")


def test_bad_rows_are_told_by_line_and_the_others_keep_their_place(project, rows):
    lines = rows[:6].copy()
    lines[1] = "1,2,3"
    lines[3] = lines[3].replace(",", ",x", 1)
    lines[4] = ""
    text = ("label,of,a,header,with,eight,columns,here\n" + "\n".join(lines) + "\n").encode()
    result = run_score(project, "-", input=text)
    assert result.returncode == 1
    output = result.stdout.decode().splitlines()
    assert len(output) == 7
    assert [line == "," for line in output[1:]] == [False, True, False, True, True, False]
    said = result.stderr.decode()
    assert "line 3: has 3 columns, not 8" in said
    assert "line 5: column 2 is no number" in said
    assert "line 6: the line is empty" in said
    assert "3 rows could not be scored" in said


def test_nothing_half_written_stays_under_the_name(project, rows):
    (project.folder / "kept.csv").write_text("before")
    result = run_score(project, "nowhere.csv", "-o", "kept.csv")
    assert result.returncode == 1
    assert b"nowhere.csv: No such file" in result.stderr
    assert (project.folder / "kept.csv").read_text() == "before"
    assert not list(project.folder.glob(".score.*"))


def test_it_reads_from_and_writes_to_the_sandboxs_s3(project, sandbox, rows):
    content = ("\n".join(rows[:50]) + "\n").encode()
    sandbox.client("s3").put_object(Bucket=sandbox.bucket, Key="night.csv", Body=content)
    there = f"s3://{sandbox.bucket}/"
    result = run_score(project, there + "night.csv", "-o", there + "scored.csv")
    assert result.returncode == 0, result.stderr
    scored = sandbox.client("s3").get_object(Bucket=sandbox.bucket, Key="scored.csv")["Body"].read()
    assert_same(scored, run_score(project, "-", input=content).stdout)


@pytest.mark.fuzz
@given(
    st.lists(st.text("0123456789.,-e x\t", max_size=30), max_size=30),
    st.sampled_from(["\n", "\r"]),
    st.integers(1, 40),
)
def test_blocks_are_whole_lines_and_lose_nothing(lines, end, size):
    text = end.join(lines).encode()
    got = list(engine.blocks(io.BytesIO(text), size))
    assert all(block.endswith(b"\n") for block in got)
    joined = b"".join(got)
    if b"\r" in text[:size]:
        text = text.replace(b"\r", b"\n")
    if b"\r" not in text:
        assert joined.rstrip(b"\n") == text.rstrip(b"\n")


def test_the_summary_is_json_for_a_script(project, rows):
    (project.folder / "few.csv").write_text("\n".join(rows[:10]) + "\n")
    result = run_score(project, "few.csv", "-o", "few.out", "--json")
    assert json.loads(result.stdout)["rows"] == 10


FOREIGN = """
import os
class BadInput: pass
open({place!r}, "w").write("x")
def model_fn(folder): return 1
def predict_fn(data, model): raise ValueError
"""


def test_a_package_from_elsewhere_wants_trust(project, tmp_path):
    """And gets no files even then, where the kernel can see to it."""
    place, archive = tmp_path / "outside", tmp_path / "foreign.tar.gz"
    archive.write_bytes(pack({"code/inference.py": FOREIGN.format(place=str(place)).encode()}))
    (project.folder / "one.csv").write_text("1,2,3,4,5,6,7,8\n")
    result = run_score(project, "one.csv", "-o", "out.csv", "--model", str(archive))
    assert result.returncode == 1
    assert b"was not made here" in result.stderr
    assert b"--trust" in result.stderr
    assert not place.exists()
    result = run_score(project, "one.csv", "-o", "out.csv", "--model", str(archive), "--trust")
    assert result.returncode != 0
    assert place.exists() is (not all(confinement.in_force().values()))
    copy = tmp_path / "copy.tar.gz"
    copy.write_bytes((project.folder / "models" / "model.tar.gz").read_bytes())
    assert run_score(project, "one.csv", "-o", "out.csv", "--model", str(copy)).returncode == 0
