"""The DVC pipeline, its scripts run as processes in a checkout of their own."""

import ast
import gzip
import io
import json
import shutil
import tarfile
import uuid
import xml.etree.ElementTree as ElementTree

import joblib
import pandas as pd
import pytest
import yaml
from conftest import ROOT, needs_htru2, new_project, real_htru2
from hypothesis import given
from hypothesis import strategies as st

import package
import upload
from common import params as rules
from common.errors import BadParams, GateFailed, UserError
from common.files import INFERENCE, READERS
from common.params import load_params
from scoring.packing import member, pack


def test_a_second_repro_does_nothing(project):
    result = project.run("dvc", "status")
    assert "up to date" in result.stdout, result.stdout


def test_the_archive_is_the_same_bytes_for_the_same_inputs(project, archive):
    (project.folder / "models" / "model.tar.gz").unlink()
    assert project.script("package").returncode == 0
    assert (project.folder / "models" / "model.tar.gz").read_bytes() == archive


def test_the_archive_holds_model_code_and_provenance_and_no_times_or_owners(project, archive):
    assert gzip.decompress(archive)
    assert archive[4:8] == b"\0\0\0\0"  # gzip's own time stamp
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {member.name: member for member in tar}
        provenance = json.load(tar.extractfile("provenance.json"))
    assert sorted(members) == list(members)
    assert {"model_pulsar.joblib", "model_six.joblib", "model.json", "code/inference.py"} < set(
        members
    )
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members.values()} == {
        (0, 0, 0, "", "")
    }
    assert provenance["data"] == project.read("data/source.json")
    scores = project.read("evaluation/scores.json")
    kinds = ("holdout", "cross_validation", "blocks", "six")
    assert provenance["scores"] == {kind: scores[kind] for kind in kinds}
    assert provenance["params"]["train"]["networks"]["seeds"] == 1
    assert provenance["folds"] == project.read("evaluation/folds.json")
    assert len(provenance["locked_stages_sha256"]) == 64


def test_the_hold_out_is_stratified_and_apart(project):
    lines = {
        name: (project.folder / "data" / "prepared" / f"{name}.csv").read_text().splitlines()[1:]
        for name in ("train", "test")
    }
    assert not set(lines["train"]) & set(lines["test"])
    shares = [sum(line.endswith(",1") for line in part) / len(part) for part in lines.values()]
    assert abs(shares[0] - shares[1]) < 0.001


def test_the_model_is_a_plain_estimator(project):
    estimator = joblib.load(project.folder / "models" / "model_pulsar.joblib")
    assert hasattr(estimator, "predict_proba")


def test_dvc_shows_eleven_metrics_and_the_rest_is_beside_them(project):
    shown = json.loads(project.run("dvc", "metrics", "show", "--json").stdout)
    [(name, metrics)] = shown[""]["data"].items()
    assert name == "evaluation/metrics.json" and len(metrics["data"]) == 11
    assert len(pd.json_normalize(project.read("evaluation/scores.json")).columns) > 60


def test_the_report_is_the_same_bytes_when_it_is_made_again(project):
    path = project.folder / "evaluation" / "report.html"
    page = path.read_bytes()
    path.unlink()
    result = project.script("report")
    assert result.returncode == 0, result.stderr
    assert path.read_bytes() == page
    ElementTree.fromstring(page)


@pytest.mark.slow
def test_simulated_data_never_passes_for_real(tmp_path):
    project = new_project(tmp_path)
    project.set_params({"data": {"source": "simulated"}})
    names = ("fetch", "prepare", "train", "evaluate", "report", "package")
    steps = {name: project.script(name) for name in names}
    assert [step.returncode for step in steps.values()] == [0] * 6, steps["package"].stderr
    assert all("SIMULATED" in steps[name].stderr for name in names if name != "prepare")
    page = (project.folder / "evaluation" / "report.html").read_text()
    assert "Simulated data" in page
    assert "Lyon et al." not in page + steps["report"].stderr
    assert project.read("evaluation/scores.json")["data"]["simulated"] is True
    assert project.read("evaluation/metrics.json")["data"] == "simulated candidates"


@needs_htru2
def test_a_named_file_replaces_simulated_data(tmp_path):
    project = new_project(tmp_path)
    project.set_params({"data": {"source": "auto"}})
    project.script("fetch", "--source", "simulated")
    assert project.read("data/source.json")["simulated"] is True
    named = {"HTRU2": str(real_htru2())}
    assert project.script("fetch", "--stale", **named).returncode == 0
    assert project.script("fetch", **named).returncode == 0
    assert project.read("data/source.json") == {
        "source": "HTRU2",
        "simulated": False,
        "content_sha256": "bff7e0d962f5762938f833075d6bbfd3ce229cdcfb30091b4ecaa7dca4a81a74",
        "published_values": True,
        "candidates": 17898,
        "pulsars": 1639,
    }
    assert project.script("fetch", "--stale", **named).returncode == 3


def test_a_wrong_file_is_refused_and_leaves_nothing(tmp_path):
    project = new_project(tmp_path)
    wrong = tmp_path / "HTRU_2.csv"
    wrong.write_text("1,2,3\n")
    result = project.script("fetch", HTRU2=str(wrong))
    assert result.returncode == 1
    assert "row 1 has 3 columns" in result.stderr
    assert "Traceback" not in result.stderr
    assert list((tmp_path / "data").iterdir()) == []


SCORES = {"recall": 0.9, "fpr": 0.005, "average_precision": 0.93}
GATE = {"min_recall": 0.8, "max_fpr": 0.015, "min_average_precision": 0.9, "max_drop": 0.005}
FOLDS = {"data": "d", "split": {"folds": 2}, "average_precision": [0.93, 0.93]}


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"recall": 0.75}, "recall 0.7500 is 0.0500 below"),
        ({"fpr": 0.02}, "false-positive rate 0.0200 is 0.0050 above"),
        ({"average_precision": 0.8}, "average precision 0.8000 is 0.1000 below"),
    ],
)
def test_the_gate_stops_a_worse_model_and_says_by_how_much(changed, complaint):
    package.check_gate(GATE, {"cross_validation": {"mean": SCORES}})
    with pytest.raises(GateFailed, match=complaint):
        package.check_gate(GATE, {"cross_validation": {"mean": SCORES | changed}})


def test_a_release_is_compared_with_the_released_model_on_paired_folds(capsys):
    better = FOLDS | {"average_precision": [0.95, 0.94]}
    with pytest.raises(GateFailed, match=r"fell by 0.0150 .*2 of 2 paired folds"):
        upload.check_release({"folds": better}, FOLDS, 0.005)
    upload.check_release({"folds": better}, FOLDS, 0.02)
    upload.check_release({"folds": FOLDS}, better, 0.0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (None, "does not say how it was scored"),
        ({}, "does not say how it was scored"),
        ({"folds": FOLDS | {"average_precision": ["0.9", None]}}, "does not say how it was scored"),
        ({"folds": FOLDS | {"average_precision": [0.99, float("nan")]}}, "does not say how"),
        ({"folds": FOLDS | {"average_precision": [0.99]}}, "other data or folds"),
        (
            {"folds": FOLDS | {"average_precision": [0.99, 0.99], "data": "e"}},
            "other data or folds",
        ),
        ({"folds": {"average_precision": [0.99, 0.99]}}, "other data or folds"),
    ],
)
def test_what_cannot_be_compared_is_not_and_that_is_said(before, said, capsys):
    upload.check_release(before, FOLDS, 0.0)
    assert said in capsys.readouterr().err


@given(st.binary(max_size=3000), st.booleans())
def test_no_archive_at_all_is_taken_for_a_package_of_ours(content, compressed):
    archive = io.BytesIO(gzip.compress(content) if compressed else content)
    assert upload.provenance_of(archive) is None


@given(st.data())
def test_a_package_that_was_changed_anywhere_is_read_or_not_but_breaks_nothing(data):
    tar = bytearray(gzip.decompress(pack({"a": b"x" * 700, "provenance.json": b'{"a": 1}'})))
    for _ in range(data.draw(st.integers(1, 5))):
        tar[data.draw(st.integers(0, len(tar) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(tar)))
    assert isinstance(upload.provenance_of(io.BytesIO(gzip.compress(tar[:cut]))), dict | None)


def test_an_archive_that_claims_much_is_read_no_further_than_is_wanted(monkeypatch):
    def claims(name: str, size: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.GNU_FORMAT)

    provenance = claims("provenance.json", 2) + b"{}" + bytes(510)
    for size in (-5, 1 << 50):
        forged = gzip.compress(claims("provenance.json", size) + b"{}")
        assert member(io.BytesIO(forged), "provenance.json", 100) is None
    far = gzip.compress(claims("zeros", 1 << 20) + bytes(1 << 20) + provenance)
    assert member(io.BytesIO(far), "provenance.json", 100) == b"{}"
    assert member(io.BytesIO(far), "provenance.json", 1) is None
    monkeypatch.setattr("scoring.packing.SEARCHED_BYTES", 1 << 19)
    assert member(io.BytesIO(far), "provenance.json", 100) is None


def test_a_package_that_never_answers_is_no_package(project, monkeypatch):
    monkeypatch.setattr(package, "TRY_OUT_SECONDS", 0.5)
    monkeypatch.setattr(package, "PREPARED", project.folder / "data" / "prepared")
    with pytest.raises(UserError, match="more than 0.5 s"):
        package.try_out({"code/inference.py": b"while True: pass"})
    monkeypatch.setattr(package, "TRY_OUT_SECONDS", 60)
    with pytest.raises(UserError, match="exit code -9"):
        package.try_out({"code/inference.py": b"import os; os.kill(os.getpid(), 9)"})


def copy_of(project, folder):
    shutil.copytree(
        project.folder, folder, ignore=shutil.ignore_patterns(".sandbox"), symlinks=True
    )
    return type(project)(folder, project.environment)


def test_a_model_for_another_image_is_not_packaged(project, tmp_path):
    other = copy_of(project, tmp_path / "checkout")
    card = other.read("models/model.json")
    card["versions"]["scikit-learn"] = "0.23.2"
    (other.folder / "models" / "model.json").write_text(json.dumps(card))
    result = other.script("package")
    assert result.returncode == 1
    assert "trained with scikit-learn 0.23.2" in result.stderr
    assert "make setup" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "folds: 5",
            "folds: five",
            "evaluate.folds must be a whole number from 2 to 50, not 'five'",
        ),
        ("  folds: 5", "  folds: 5\n  fold: 5", "unknown key evaluate.fold"),
        ("test_share: 0.2", "tests: 0.2", "unknown key prepare.tests"),
        (
            "test_share: 0.2",
            "test_share: 2.0",
            "prepare.test_share must be a number from 0.01 to 0.9",
        ),
        (
            "max_drop: 0.005",
            "max_drop: .nan",
            "gate.max_drop must be a number from 0 to 1, not nan",
        ),
        ("estimator: networks", "estimator: oracle", "train.estimator must be one of networks, "),
        ("threshold: fpr", "threshold: best", "train.threshold must be one of fpr, g_mean, f1"),
        ("activation: relu", "activation: step", "train.networks.power.activation must be one of"),
        ("commands: {}", "commands: {a: 1}", "sandbox.commands must be a mapping from image URIs"),
        ("seed: 11", "seed: true", "evaluate.seed must be a whole number"),
        ("seed: 11", "seed: 9223372036854775808", "evaluate.seed must be a whole number"),
        ("image: 1.9-0", "", "image is missing"),
        ("image: 1.9-0", "image: [", "cannot be read"),
        ("image: 1.9-0", "image: 2020-13-45", "cannot be read"),
    ],
)
def test_a_wrong_parameter_stops_the_run_with_the_key_named(old, new, complaint, tmp_path):
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BadParams, match=complaint):
        load_params(path)


def leaves(schema, where=()):
    for key, below in schema.items():
        if isinstance(below, rules.Rule):
            yield (*where, key)
        else:
            yield from leaves(below, (*where, key))


LEAVES = list(leaves(rules.SCHEMA))
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=True))
VALUES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5), st.lists(NUMBERS),
                   st.dictionaries(st.text(max_size=3), NUMBERS))  # fmt: skip


@given(st.sampled_from(LEAVES), VALUES)
def test_whatever_a_key_is_set_to_is_in_bounds_or_refused_by_name(path, value):
    """And what is let through is a number that can be reckoned with, a word, or commands."""
    changed = load_params()
    place = changed
    for key in path[:-1]:
        place = place[key]
    usual, place[path[-1]] = place[path[-1]], value
    try:
        rules._check(changed, rules.SCHEMA, "")
    except BadParams as error:
        assert f"params.yaml: {'.'.join(path)} must be " in str(error)
        assert repr(value) in str(error)
    else:
        same = isinstance(value, type(usual)) or (type(usual), type(value)) == (float, int)
        assert same and not isinstance(value, bool)
        if isinstance(value, int | float):
            assert 0 <= value < 2**31


@given(start=st.integers(0, 2000), length=st.integers(0, 40), replacement=st.binary(max_size=20))
def test_a_file_of_parameters_with_anything_in_it_is_read_or_refused(
    tmp_path_factory, start, length, replacement
):
    content = bytearray((ROOT / "params.yaml").read_bytes())
    content[start : start + length] = replacement
    path = tmp_path_factory.getbasetemp() / "params.yaml"
    path.write_bytes(content)
    try:
        load_params(path)
    except BadParams as error:
        assert str(error).startswith("params.yaml")


PLUMBING = ROOT / "scripts" / "common"


def imported(path) -> set:
    """The files of ours that a script imports, directly or not, wherever in them."""
    found, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file in found or file.name == "__init__.py" or PLUMBING in file.parents:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                roots = [root / name.replace(".", "/") for root in (ROOT, ROOT / "scripts")]
                places = [path.with_name(f"{path.name}.py") for path in roots]
                places += [
                    file for path in roots for file in path.glob("*.py") if path.name == "tables"
                ]
                waiting += [place for place in places if place.is_file()]
    return found


STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_what_its_script_imports_and_on_nothing_that_it_does_not(stage):
    script = ROOT / STAGES[stage]["cmd"].split()[1]
    named = set()
    for path in (ROOT / dep for dep in STAGES[stage]["deps"]):
        named |= {path} if path.suffix == ".py" else set(path.rglob("*.py"))
    named = {path for path in named if path.name != "__init__.py"}
    carried = {INFERENCE, *READERS} if stage == "package" else set()
    carried = {path for path in carried if path.name != "__init__.py"}
    assert named == imported(script) | carried


def test_a_change_of_the_reports_style_renders_it_again_and_measures_nothing(project, tmp_path):
    changed = copy_of(project, tmp_path / "checkout")
    style = changed.folder / "scripts" / "learning" / "report.py"
    style.write_text(style.read_text().replace("--ink: #222", "--ink: #333"))
    shown = changed.run("dvc", "status", "--json").stdout
    assert list(json.loads(shown)) == ["report"]


def test_the_scores_are_shown_before_the_gate_refuses_them(project, tmp_path):
    changed = copy_of(project, tmp_path / "checkout")
    changed.set_params({"gate": {"min_recall": 1}})
    with open(changed.folder / "scripts" / "report.py", "a") as file:
        file.write(f"# {uuid.uuid4()}\n")  # no cache knows it
    result = changed.run("dvc", "repro", "-q")
    assert result.returncode != 0
    assert result.stderr.index("original model, RF(10)") < result.stderr.index("gate: recall")
    shown = changed.script("report", "--show").stderr
    assert "original model, RF(10)" in shown
