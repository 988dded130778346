"""Scoring many candidates: exact, in order, nothing lost, nothing half-written."""

import argparse
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import score
from candidates.htru2 import load
from candidates.tables import FEATURES
from clients import places
from clients.places import Source
from common.errors import BadData, UserError
from orchestrator.sandbox.hosting import confinement
from scoring import engine, shards
from scoring.packing import pack
from scoring.shards import Shard, Stretch


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
    ours, theirs = (
        np.loadtxt(io.BytesIO(text), delimiter=",", usecols=(0, 1)) for text in (output, expected)
    )
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
    scored = np.loadtxt(project.folder / "scored.csv", delimiter=",", usecols=(0, 1))
    assert np.abs(scored[:, 1] - expected).max() < 1e-9
    assert np.array_equal(scored[:, 0], expected >= threshold)


@pytest.fixture(scope="module")
def plain(project, rows):
    """The answers to the first rows, as plain numbers."""
    return run_score(project, "-", input="\n".join(rows[:500]).encode() + b"\n")


@pytest.fixture(scope="module")
def night(project, rows) -> bytes:
    """What becomes of night-long.csv, some blocks long, when nothing happens."""
    lines = [f"J{number},{row}" for number, row in enumerate(rows * (50_000 // len(rows) + 1))]
    content = "\n".join([",".join(["id", *FEATURES]), *lines[:50_000]])
    (project.folder / "night-long.csv").write_text(content)  # its last line has no end
    result = run_score(project, "night-long.csv")
    assert result.returncode == 0, result.stderr
    return result.stdout


# test_tables.py has every dialect; these are those that the blocks could be cut wrongly in.
@pytest.mark.slow
@pytest.mark.parametrize("form", ["header", "carriage-returns", "packed"])
def test_every_form_of_input_gets_the_same_answers(project, rows, plain, form):
    lines = rows[:500]
    content = {
        "header": ",".join(FEATURES) + "\n" + "\n".join(lines),
        "carriage-returns": "\r".join(lines) + "\r",
        "packed": "\n".join(lines),
    }[form].encode()
    content = gzip.compress(content) if form == "packed" else content
    result = run_score(project, "-", input=content)
    assert result.returncode == 0, result.stderr
    assert_same(result.stdout.removeprefix(b"label,probability,model\n"), plain.stdout)
    assert result.stdout.startswith(b"label,probability,model\n") == (form == "header")


def test_what_is_no_feature_goes_through_and_columns_are_told(project, rows):
    names = [*reversed(FEATURES), "beam", "class"]
    lines = [
        ",".join([*reversed(row.split(",")), f'"{n}, north"' if n == 1 else f"J{n}", "1"])
        for n, row in enumerate(rows[:4])
    ]
    result = run_score(project, "-", input="\n".join([",".join(names), *lines]).encode())
    assert result.returncode == 0, result.stderr
    scored = pd.read_csv(io.BytesIO(result.stdout))
    assert list(scored.columns) == ["beam", "label", "probability", "model"]
    assert list(scored.beam) == ["J0", "1, north", "J2", "J3"]
    plain = run_score(project, "-", input="\n".join(rows[:4]).encode())
    assert_same(
        scored[["label", "probability"]].to_csv(header=False, index=False).encode(), plain.stdout
    )
    said = result.stderr.decode()
    assert "standard input: comma-separated, columns by name" in said
    assert "the class is column 10 class" in said
    assert "carried through: column 9 beam" in said


def test_bad_rows_are_named_and_nothing_is_written_unless_they_are_to_be_left_out(project, rows):
    """Whether they are in the head of the table or far behind it."""
    lines = rows[:3000]
    lines[1] = "1,2,3"
    lines[2900] = lines[2900].replace(",", ",x", 1)
    place = project.folder / "bad.csv"
    place.write_text("\n".join(lines) + "\n")
    result = run_score(project, "bad.csv", "-o", "never.csv")
    assert result.returncode == 1
    said = result.stderr.decode()
    assert "bad.csv: row 2: has 3 columns, not 8; 2 such rows: 2, 2901" in said
    assert "--drop-bad" in said
    assert not (project.folder / "never.csv").exists()
    result = run_score(project, "bad.csv", "-o", "good.csv", "--drop-bad", "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["rows"], summary["bad_rows"]) == (2998, 2)
    assert summary["bad"][1]["reason"].startswith("column 2 (profile_std) is no number: 'x")
    good = [row for number, row in enumerate(rows[:3000]) if number not in (1, 2900)]
    plain = run_score(project, "-", input="\n".join(good).encode())
    assert_same((project.folder / "good.csv").read_bytes(), plain.stdout)


def test_a_second_table_behind_the_first_in_another_order_is_found(project, rows):
    other = [",".join([*row.split(",")[4:], *row.split(",")[:4]][::-1]) for row in rows[:500]]
    result = run_score(project, "-", input="\n".join([*rows[:3000], *other]).encode())
    assert result.returncode == 1
    assert "two tables in one file" in result.stderr.decode()


def test_an_output_folder_that_is_not_there_is_named(project, rows):
    (project.folder / "one.csv").write_text(rows[0] + "\n")
    result = run_score(project, "one.csv", "-o", "nowhere/scored.csv")
    assert result.returncode == 1
    assert b"mkdir -p" in result.stderr
    assert b"Traceback" not in result.stderr


def test_nothing_half_written_stays_under_the_name(project, rows):
    (project.folder / "kept.csv").write_text("before")
    result = run_score(project, "nowhere.csv", "-o", "kept.csv")
    assert result.returncode == 1
    assert b"nowhere.csv: No such file" in result.stderr
    assert (project.folder / "kept.csv").read_text() == "before"
    assert not list(project.folder.glob(".unfinished.*"))


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
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    got = list(engine.blocks(chunks, size))
    assert all(block.endswith(b"\n") for block in got)
    joined = b"".join(got)
    if chunks and b"\r" in chunks[0]:
        text = text.replace(b"\r", b"\n")
    if b"\r" not in text:
        assert joined.rstrip(b"\n") == text.rstrip(b"\n")


def test_a_block_does_not_end_inside_quotes():
    text = b'a,"one\ntwo"\nb,c\n' * 20
    assert all(block.count(b'"') % 2 == 0 for block in engine.blocks([text], 20))


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
    (project.folder / "one.csv").write_text("99.4,41.6,1.5,4.2,27.6,61.7,2.2,3.7\n")
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


# -- killed processes -----------------------------------------------------------------


def test_workers_that_are_killed_cost_no_row(project, night):
    """The first while it loads the model, another while both are at work."""
    with subprocess.Popen(
        [sys.executable, "scripts/score.py", "night-long.csv", "--workers", "2"],
        cwd=project.folder, env=project.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stderr.readline()  # the package is unpacked, by a process of its own
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for there in (1, 2):
            deadline = time.monotonic() + 60
            while len(ids := children.read_text().split()) < there and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(int(ids[-1]), signal.SIGKILL)
        out, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert out == night


DEADLY = """
import os, signal
class BadInput: pass
def model_fn(folder): return 1
def predict_fn(data, model):
    if (data[:, 0] == 77).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return data[:, :2]
"""


def test_a_row_that_ends_its_process_ends_the_run_and_is_told(project, rows, tmp_path):
    archive = tmp_path / "deadly.tar.gz"
    archive.write_bytes(pack({"code/inference.py": DEADLY.encode()}))
    lines = rows[:3000]
    lines[2500] = ",".join(["77", *lines[2500].split(",")[1:]])
    (project.folder / "deadly.csv").write_text("\n".join(lines) + "\n")
    result = run_score(
        project, "deadly.csv", "-o", "never.csv", "--drop-bad", "--model", str(archive), "--trust"
    )
    assert result.returncode == 1
    first, last = map(int, re.search(rb"deadly.csv: rows (\d+) to (\d+):", result.stderr).groups())
    assert 1 < first <= 2501 <= last == 3000
    assert b"was killed, twice" in result.stderr
    assert b"Traceback" not in result.stderr
    assert not (project.folder / "never.csv").exists()


# -- shards ---------------------------------------------------------------------------


@pytest.mark.parametrize("of", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_shards_make_the_same_table_to_the_byte(project, night, tmp_path, of):
    """Also where there are more shards than blocks."""
    places = [str(tmp_path / f"{number}.csv") for number in range(1, of + 1)]
    for number, place in enumerate(places, start=1):
        result = run_score(project, "night-long.csv", "-o", place, "--shard", f"{number}/{of}")
        assert result.returncode == 0, result.stderr
    merged = str(tmp_path / "merged.csv")
    result = run_score(project, "--merge", *places[::-1], "-o", merged, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["rows"] == 50_000
    assert Path(merged).read_bytes() == night


LINES = st.lists(st.text('ab,"', max_size=12), min_size=1, max_size=30)


@given(LINES, st.booleans(), st.integers(1, 60), st.integers(1, 9))
def test_shards_have_the_blocks_of_the_whole_or_are_refused(lines, ends, size, of):
    """Refused is only what has quotes that go on over the end of a shard."""
    text = "\n".join(lines).encode() + b"\n" * ends
    whole, parts, refused = list(engine.blocks([text], size)), [], False
    with tempfile.TemporaryFile() as file:
        file.write(text)
        for number in range(1, of + 1):
            source = Source(file, len(text), "")
            stretch = Stretch(source, "night.csv", *Shard(number, of).bytes_of(len(text), size))
            try:
                parts += engine.blocks(stretch, size, stretch.begin)
            except BadData as error:
                assert "in quotes" in str(error)
                refused = True
    assert refused or parts == whole
    assert not refused or any(text[: at + 1].count(b'"') % 2 for at in range(len(text)))


@pytest.mark.parametrize(
    "content, reason",
    [
        (gzip.compress(b"1,2\n", mtime=0), "it is packed"),
        (b"PAR1", "it is packed"),
        (b"1,2\r3,4\r", "bare carriage returns"),
        ("1,2\n".encode("utf-16"), "its text is utf-16"),
        (b"\xef\xbb\xbf1,2\n", "its text is utf-8-sig"),
    ],
)
def test_what_has_no_shards_is_refused_and_told(content, reason, tmp_path):
    place = tmp_path / "night.csv"
    place.write_bytes(content)
    with places.opened(str(place)) as source, pytest.raises(BadData, match=reason) as refused:
        Stretch(source, "night.csv", 0, 10)
    assert refused.value.remedy == "score it without --shard and --cluster"


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (("-", "-o", "a.csv", "--shard", "1/2"), b"standard input has no parts"),
        (("-", "-o", "a.csv", "--cluster", "local"), b"standard input has no parts"),
        (("night.csv", "--shard", "1/2"), b"--shard and --cluster want -o"),
        (("night.csv", "--cluster", "local"), b"--shard and --cluster want -o"),
        (("night.csv", "-o", "a.csv", "--shard", "1/2", "--cluster", "local"), b"shares the work"),
        (("night.csv", "-o", "a.csv.gz"), b"written as CSV or Parquet, not as .gz"),
        (("night.csv", "-o", "a.parquet", "--shard", "1/2"), b"lists of shards are CSV"),
        (("night.csv", "-o", "a.csv", "--cluster", "slurm"), b"how many jobs: --workers 20"),
        (("night.csv", "-o", "a.csv", "--cluster", "tls://h:1", "--workers", "2"), b"its own"),
        (("night.csv", "-o", "a.csv", "--cluster", "tcp://head:8786"), b"start it with TLS"),
        (("night.csv", "-o", "a.csv", "--cluster", "moon"), b"one of local, slurm, htcondor"),
        (("a.csv", "b.csv", "-o", "c.csv"), b"several are for --merge"),
        (("--merge", "a.csv", "--drop-bad"), b"--merge takes what its shards were made with"),
        (("--merge", "a.csv", "--workers", "2"), b"--merge takes what its shards were made with"),
    ],
)
def test_options_that_do_not_go_together_are_refused_by_name(
    arguments, reason, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["score.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        score.parsed()
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err.encode()


def signed(
    place: Path, number: int, begin: int, end: int, impossible=0, content=b"t", script="score"
):
    place.write_bytes(b"1,0.9,eight\n")
    summary = {"rows": 1, "bad_rows": 0, "bad": [], "outside": [], "impossible": impossible}
    more = {"begin": begin, "end": end, "summary": summary, "columns": [], "has_header": False}
    shards.sign(str(place), Shard(number, 2), [content.hex()], [b"model"], script, **more)
    return str(place)


def test_shards_that_are_missing_or_of_another_table_or_command_are_refused(tmp_path):
    one = signed(tmp_path / "1.csv", 1, 0, 100)
    for second, reason in (
        ({"begin": 100, "end": 200, "content": b"x"}, "different files"),
        ({"begin": 104, "end": 200}, "has changed between shard 1 and shard 2/2"),
        ({"begin": 100, "end": 200, "script": "rank"}, "is a list of scripts/rank.py"),
        ({"begin": 100, "end": 200, "impossible": 99}, "two tables in one file"),
    ):
        two = signed(tmp_path / "2.csv", 2, **second)
        output = tmp_path / "merged.csv"
        with pytest.raises(UserError, match=reason):
            score.merge(argparse.Namespace(input=[one, two], output=str(output)))
        assert not output.exists()
    with pytest.raises(UserError, match="of 2 shards 1 are missing: 2") as refused:
        score.merge(argparse.Namespace(input=[one], output=str(output)))
    assert "scripts/score.py INPUT --shard 2/2" in refused.value.remedy
