"""Candidate files at the endpoint and in batch: what is answered is what `rank` says of them."""

import gzip
import io
import json
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from botocore.exceptions import ClientError
from test_candidate_files import GIVEN, PROFILE, pfd, phcx
from test_rank import NOISE, listed, run_rank

from batch import candidates_in, check_folder, payload_for
from candidates import folds
from clients.payloads import BATCH
from clients.target import Target
from common.errors import BadData, TargetError, UserError
from predict import read_input
from scoring import inference

ENTITY = b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM '/etc/passwd'>]><phcf>&e;</phcf>"
HERE = Target(url="", bucket="pulsar-assets", session=None)
BOMB = gzip.compress(b"<phcf>" + bytes(20_000_000), 1)


@pytest.fixture(scope="module")
def night(tmp_path_factory) -> Path:
    """A folder of candidates, those of real surveys among them where they are at hand."""
    folder = tmp_path_factory.mktemp("night")
    (folder / "beam 2").mkdir()
    (folder / "noise.phcx").write_bytes(phcx(*NOISE))
    (folder / "beam 2" / "pulsar, 1.phcx.gz").write_bytes(gzip.compress(phcx()))
    (folder / "fold.pfd").write_bytes(pfd(order=">"))
    (folder / "readme.txt").write_bytes(b"two beams")
    for names in ("HTRU_2*", "LOTAAS*", "Ter5*.pfd"):
        for place in GIVEN.glob(names):
            (folder / place.name).write_bytes(place.read_bytes())
    (folder / "cut.pfd").write_bytes(pfd()[:-100])
    return folder


@pytest.fixture(scope="module")
def ranks(project, night) -> dict[str, dict]:
    """What `rank` says of each file that it can read."""
    rows = listed(run_rank(project, night).stdout)
    return {os.path.relpath(row["file"], night): row for row in rows if row["rank"]}


def asked(sandbox, body: bytes, accept: str = "text/csv") -> tuple[np.ndarray, str]:
    """Label and probability, and what the answer says of its model."""
    answer = sandbox.invoke("shared", body, inference.FILE, Accept=accept)
    content, said = answer["Body"].read(), answer["CustomAttributes"]
    if accept == inference.JSON:
        ((label, probability),) = (row.values() for row in json.loads(content)["predictions"])
        return np.array([label, probability]), said
    if accept == inference.NPY:
        return np.load(io.BytesIO(content))[0], said
    return np.loadtxt(io.BytesIO(content), delimiter=","), said


def test_the_endpoint_says_of_a_file_what_rank_says(sandbox, endpoint, night, ranks):
    assert {row["model"] for row in ranks.values()} == {"eight", "six"}
    for name, row in ranks.items():
        for accept in (inference.CSV, inference.JSON, inference.NPY):
            found, said = asked(sandbox, (night / name).read_bytes(), accept)
            assert said == f"model={row['model']}"
            assert found[0] == int(row["label"])
            assert abs(found[1] - float(row["score"])) <= 1e-12


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "it is empty"),
        (b"99.4,41.6,1.5,4.2,27.6,61.7,2.2,3.7\n", "neither PHCX nor PFD"),
        (phcx()[:-9], "its XML is damaged or cut"),
        (gzip.compress(phcx(), mtime=0)[:-9], "its gzip is cut"),
        (pfd()[:-8], "it is cut or damaged"),
        (phcx(np.full_like(PROFILE, 7)), "the profile is constant"),
        (ENTITY, "a DOCTYPE or entities"),
        (BOMB, "more than 16777216 bytes when it is unpacked"),
    ],
    ids=["empty", "table", "xml", "gzip", "pfd", "constant", "entity", "bomb"],
)
def test_what_is_no_candidate_is_a_400_with_its_reason(sandbox, endpoint, body, words):
    with pytest.raises(ClientError) as refused:
        sandbox.invoke(endpoint, body, inference.FILE)
    answer = refused.value.response
    assert (answer["Error"]["Code"], answer["OriginalStatusCode"]) == ("ModelError", 400)
    assert words in answer["OriginalMessage"]
    assert asked(sandbox, phcx())[1] == "model=eight"


def test_a_package_without_a_model_for_pfds_says_so(project, tmp_path):
    for name in ("model_pulsar.joblib", "model.json"):
        (tmp_path / name).write_bytes((project.folder / "models" / name).read_bytes())
    alone = inference.model_fn(str(tmp_path))
    refused = inference.predict_fn(inference.input_fn(pfd(), inference.FILE), alone)
    assert (refused.status, "no model of six features" in refused.message) == (422, True)
    taken = inference.predict_fn(inference.input_fn(phcx(), inference.FILE), alone)
    assert taken.model == "eight"


def test_a_row_of_csv_does_not_wait_for_the_reader_of_files(project):
    """It is imported by the first file that is asked about."""
    code = (
        "import sys, inference; inference.input_fn('1,2,3,4,5,6,7,8', 'text/csv');"
        "assert 'candidates.folds' not in sys.modules and 'pyexpat' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project.folder / "scripts" / "scoring",
        env=project.environment | {"PYTHONPATH": f"{project.folder}/scripts"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()


# -- predict --------------------------------------------------------------------------


def predict(sandbox, *arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "scripts/predict.py", "--endpoint", "shared", *map(str, arguments)],
        cwd=sandbox.project.folder, env=sandbox.project.environment, capture_output=True, **options,
    )  # fmt: skip


def test_predict_sends_a_file_as_it_is_and_names_model_and_file(sandbox, endpoint, night, ranks):
    name = "beam 2/pulsar, 1.phcx.gz"
    shown = predict(sandbox, "--input", night / name)
    assert shown.returncode == 0, shown.stderr
    _, titles, line = shown.stdout.decode().splitlines()
    assert titles.split() == ["row", "answer", "probability", "model", "file"]
    assert f"{float(ranks[name]['score']):.6f}  eight  pulsar, 1.phcx.gz" in line
    piped = predict(sandbox, "--json", "--input", "-", input=(night / "fold.pfd").read_bytes())
    (answer,) = json.loads(piped.stdout)["predictions"]
    assert answer["model"] == "six" and answer["carried"] == {"file": "standard input"}
    assert abs(answer["probability"] - float(ranks["fold.pfd"]["score"])) <= 1e-12


def test_predict_says_what_is_wrong_with_a_file(sandbox, endpoint, night):
    done = predict(sandbox, "--input", night / "cut.pfd")
    said = done.stderr.decode()
    assert (done.returncode, "it is cut or damaged" in said) == (1, True), said
    assert "Traceback" not in said


def test_a_folder_is_for_rank(tmp_path):
    with pytest.raises(UserError, match="is a folder") as refused:
        read_input(Namespace(values=[], input=tmp_path))
    assert refused.value.remedy == f"make rank INPUT={tmp_path} OUTPUT=ranked.csv"


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        (
            b"<phcf/>",
            {"kurtosis": "pearson"},
            "--kurtosis is for tables, and a.phcx is a candidate",
        ),
        (b"<phcf/>", {"drop_bad": True}, "--drop-bad is for tables"),
        (b"<phcf/>", {"api": True}, "--api is for tables"),
        (b"<" * (6 * 1024**2 + 1), {}, "a.phcx: 6291457 bytes are more than a request's 6291456"),
    ],
)
def test_what_cannot_be_asked_about_a_file_is_refused_by_name(tmp_path, content, changes, words):
    (tmp_path / "a.phcx").write_bytes(content)
    usual = {"values": [], "input": tmp_path / "a.phcx", "kurtosis": None, "drop_bad": False}
    with pytest.raises(UserError, match=words):
        read_input(Namespace(**usual | {"api": False} | changes))


@pytest.mark.parametrize(
    ("content", "is_one"),
    [
        (phcx(), True),
        (gzip.compress(phcx(), mtime=0), True),
        (pfd(), True),
        (pfd(order=">"), True),
        (b"\xef\xbb\xbf\n <phcf/>", True),
        (b"", False),
        (b"99.4,41.6,1.5\n" * 9, False),
        ("1\t2\t3\t4\t5\t6\t7\t8\n".encode("utf-16-le") * 9, False),
        (gzip.compress(b"99.4,41.6,1.5\n", mtime=0), False),
        (b"\x1f\x8bno", False),
        (b"PAR1" * 20, False),
        (bytes(100), False),
    ],
)
def test_a_candidate_file_is_told_from_a_table_by_how_it_begins(content, is_one):
    assert folds.recognised(content) is is_one


# -- batch ----------------------------------------------------------------------------


def batch(sandbox, *arguments) -> subprocess.CompletedProcess:
    return sandbox.project.script("batch", *map(str, arguments))


def test_a_folder_goes_through_a_batch_pipeline_file_by_file(
    sandbox, archive, night, ranks, tmp_path
):
    """The file that the model refuses fails the job and is named; the others have their answers."""
    sandbox.upload(archive)
    output = tmp_path / "scored"
    output.mkdir()
    (output / "cut.pfd.out").write_text("1,1\n")  # another job's
    done = batch(sandbox, night, "-o", output)
    assert done.returncode == 1
    assert "/cut.pfd: the model answered 400: no candidate can be scored from" in done.stderr
    assert f"Without an answer are 1 of {len(ranks) + 1} files: cut.pfd; the" in done.stderr
    assert "Traceback" not in done.stderr
    answers = {
        path.relative_to(output).as_posix().removesuffix(".out"): path.read_text()
        for path in output.rglob("*.out")
    }
    assert answers.keys() == ranks.keys()
    for name, row in ranks.items():
        label, probability = answers[name].rstrip("\n").split(",")
        assert label == row["label"]
        assert abs(float(probability) - float(row["score"])) <= 1e-12


@pytest.mark.slow
def test_a_folder_of_good_files_is_scored_and_counted(sandbox, archive, tmp_path):
    sandbox.upload(archive)
    for place in ("a.phcx", "b/a.phcx"):
        (tmp_path / "night" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "night" / place).write_bytes(phcx())
    done = batch(sandbox, tmp_path / "night", "-o", tmp_path / "scored", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 2
    answers = [
        (tmp_path / "scored" / f"{place}.out").read_text() for place in ("a.phcx", "b/a.phcx")
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": "taken"}, "taken is no folder"),
        ({"drop_bad": True}, "are for tables"),
        ({"kurtosis": "excess"}, "are for tables"),
    ],
)
def test_what_cannot_be_done_with_a_folder_is_refused(tmp_path, monkeypatch, changes, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    usual = {"input": ".", "output": "out", "kurtosis": None, "drop_bad": False}
    with pytest.raises(UserError, match=words):
        check_folder(HERE, Namespace(**usual | changes))


def test_the_original_orchestrator_is_not_asked_about_files(tmp_path):
    arguments = Namespace(input=".", output=tmp_path, kurtosis=None, drop_bad=False)
    with pytest.raises(TargetError, match="takes tables alone"):
        check_folder(replace(HERE, is_original=True), arguments)


def test_a_payload_for_what_the_input_is_not_is_refused(tmp_path):
    payload = json.loads(BATCH.read_text()) | {"batch_content_type": "text/csv"}
    (tmp_path / "csv.json").write_text(json.dumps(payload))
    with pytest.raises(TargetError, match="is text/csv, and the input application/octet-stream"):
        payload_for(HERE, tmp_path / "csv.json", inference.FILE, "0" * 64)


def test_a_name_that_is_no_text_and_what_is_no_file_are_not_sent(tmp_path):
    for name, words in ((b"a\xff.pfd", "cannot be a key"), (b"pipe.pfd", "is no file")):
        folder = tmp_path / words
        folder.mkdir()
        os.mkfifo(os.path.join(os.fsencode(folder), name))
        with pytest.raises(BadData, match=words):
            candidates_in(str(folder))
