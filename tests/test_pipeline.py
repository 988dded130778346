"""The DVC pipeline, its scripts run as processes in a checkout of their own."""

import gzip
import io
import json
import shutil
import tarfile

import joblib
import pytest
from conftest import needs_htru2, new_project, real_htru2

import package
from common.errors import BadParams, GateFailed
from common.params import load_params


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
    assert {"model_pulsar.joblib", "model.json", "code/inference.py"} < set(members)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members.values()} == {
        (0, 0, 0, "", "")
    }
    assert provenance["data"] == project.read("data/source.json")
    assert provenance["scores"]["holdout"] == project.read("evaluation/metrics.json")["holdout"]
    assert provenance["params"]["train"]["networks"]["seeds"] == 1
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


def test_the_report_is_one_self_contained_page(project):
    page = (project.folder / "evaluation" / "report.html").read_text()
    assert "<script" not in page
    assert 'src="http' not in page and "href=" not in page
    assert page.count("data:image/svg+xml;base64,") == 5


def test_simulated_data_never_passes_for_real(tmp_path):
    project = new_project(tmp_path)
    project.set_params({"data": {"source": "simulated"}})
    steps = [project.script(name) for name in ("fetch", "prepare", "train", "evaluate", "package")]
    assert [step.returncode for step in steps] == [0] * 5, steps[-1].stderr
    assert all("SIMULATED" in steps[i].stderr for i in (0, 2, 3, 4))
    page = (project.folder / "evaluation" / "report.html").read_text()
    assert "Simulated data" in page
    assert "Lyon et al." not in page + steps[3].stderr
    assert project.read("evaluation/metrics.json")["data"]["simulated"] is True


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
    assert project.script("fetch", "--stale", **named).returncode == 1


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
def test_the_gate_stops_a_worse_model_and_says_by_how_much(
    changed, complaint, tmp_path, monkeypatch
):
    monkeypatch.setattr(package, "RELEASED", tmp_path / "released.json")
    package.check_gate(GATE, {"cross_validation": {"mean": SCORES}}, FOLDS)
    with pytest.raises(GateFailed, match=complaint):
        package.check_gate(GATE, {"cross_validation": {"mean": SCORES | changed}}, FOLDS)


def test_the_gate_compares_with_the_released_model_on_paired_folds(tmp_path, monkeypatch):
    released = tmp_path / "released.json"
    monkeypatch.setattr(package, "RELEASED", released)
    metrics = {"cross_validation": {"mean": SCORES}}
    released.write_text(json.dumps(FOLDS | {"average_precision": [0.95, 0.94]}))
    with pytest.raises(GateFailed, match=r"fell by 0.0150 .*2 of 2 paired folds"):
        package.check_gate(GATE, metrics, FOLDS)
    released.write_text(json.dumps(FOLDS | {"average_precision": [0.95, 0.94], "data": "other"}))
    package.check_gate(GATE, metrics, FOLDS)  # other data: not comparable


def test_a_model_for_another_image_is_not_packaged(project, tmp_path):
    other = tmp_path / "checkout"
    shutil.copytree(
        project.folder, other, ignore=shutil.ignore_patterns(".dvc", ".git", ".sandbox")
    )
    card = json.loads((other / "models" / "model.json").read_text())
    card["versions"]["scikit-learn"] = "0.23.2"
    (other / "models" / "model.json").write_text(json.dumps(card))
    result = type(project)(other, project.environment).script("package")
    assert result.returncode == 1
    assert "trained with scikit-learn 0.23.2" in result.stderr
    assert "make setup" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("folds: 5", "folds: five", "evaluate.folds must be int"),
        ("  folds: 5", "  folds: 5\n  fold: 5", "unknown key evaluate.fold"),
        ("test_share: 0.2", "tests: 0.2", "unknown key prepare.tests"),
        ("image: 1.9-0", "", "image is missing"),
        ("image: 1.9-0", "image: [", "cannot be read"),
    ],
)
def test_a_wrong_parameter_stops_the_run_with_the_key_named(old, new, complaint, tmp_path):
    from common import ROOT

    text = (ROOT / "params.yaml").read_text()
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BadParams, match=complaint):
        load_params(path)
