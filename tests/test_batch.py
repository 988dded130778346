"""Batch pipelines: provisioned, run, asked about, over HTTP; and `scripts/batch.py`."""

import csv
import json

import numpy as np
import pytest
from conftest import IMAGE

from scoring.packing import pack

ECHO = b"""
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    if "bad" in body:
        raise ValueError("a bad row")
    return "".join(f"{line.split(',')[0]}\\n" for line in body.splitlines()), "text/csv"
"""


def payload(sandbox, name: str, **changes) -> dict:
    return {
        "pipeline_type": "byom_batch_builtin",
        "model_name": name,
        "model_framework": "sklearn",
        "model_framework_version": IMAGE,
        "model_artifact_location": "echo.tar.gz",
        "batch_inference_data": f"{sandbox.bucket}/{name}/in",
        "batch_job_output_location": f"{sandbox.bucket}/{name}/out",
        "inference_instance": "ml.m5.large",
    } | changes


def put(sandbox, key: str, content: bytes) -> None:
    sandbox.client("s3").put_object(Bucket=sandbox.bucket, Key=key, Body=content)


def get(sandbox, key: str) -> bytes:
    return sandbox.client("s3").get_object(Bucket=sandbox.bucket, Key=key)["Body"].read()


def refusal(sandbox, body: dict) -> str:
    status, text = sandbox.post("/provisionpipeline", body)
    assert status == 400, text
    return json.loads(text)["detailedMessage"]


@pytest.fixture(autouse=True)
def nothing_left(sandbox):
    """Failed pipelines are in nobody's way."""
    yield
    sandbox.delete("batch")


@pytest.fixture(scope="module")
def echo(sandbox):
    sandbox.upload(pack({"code/inference.py": ECHO}), "echo.tar.gz")
    return sandbox


def test_a_pipeline_runs_its_job_and_does_so_again_when_it_is_asked_again(echo):
    put(echo, "again/in/a.csv", b"1,2\n3,4\n")
    first = echo.provision(payload(echo, "again"))
    state, answer = echo.wait(first)
    assert (state, answer["stageStates"][-1]["stageName"]) == ("Succeeded", "RunJob"), answer
    assert answer["outputs"]["BatchTransformJobName"].startswith("again-batch-transform-")
    assert get(echo, "again/out/a.csv.out") == b"1\n3\n"
    put(echo, "again/in/a.csv", b"5,6\n")
    assert echo.provision(payload(echo, "again")) == first
    state, later = echo.wait(first)
    assert state == "Succeeded"
    assert later["outputs"]["BatchTransformJobName"] != answer["outputs"]["BatchTransformJobName"]
    assert get(echo, "again/out/a.csv.out") == b"5\n"


def test_a_failed_job_is_a_failed_stage_with_its_reason(echo):
    put(echo, "fails/in/a.csv", b"1\nbad\n")
    state, answer = echo.wait(echo.provision(payload(echo, "fails")))
    latest = answer["stageStates"][-1]["actionStates"][0]["latestExecution"]
    assert state == "Failed"
    assert f"{echo.bucket}/fails/in/a.csv" in latest["errorDetails"]["message"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_inference_data": "{bucket}/absent.csv"}, "batch_inference_data: there is nothing"),
        ({"batch_inference_data": "no-such-bucket/a"}, "batch_inference_data: there is no bucket"),
        ({"batch_inference_data": "{bucket}"}, "batch_inference_data must be bucket/key"),
        ({"batch_job_output_location": "{bucket}/night/in/out"}, "must not lie in one another"),
        ({"batch_job_output_location": "{bucket}/night"}, "must not lie in one another"),
        ({"batch_job_output_location": "s3://{bucket}/x"}, "batch_job_output_location must be"),
        (
            {"batch_content_type": "image/png"},
            "batch_content_type must be one of text/csv, application/octet-stream",
        ),
        ({"model_artifact_location": "absent.tar.gz"}, "does not exist; upload it first"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(echo, changes, words):
    put(echo, "night/in/a.csv", b"1\n")
    changes = {key: value.format(bucket=echo.bucket) for key, value in changes.items()}
    assert words in refusal(echo, payload(echo, "night") | changes)


def test_a_custom_image_that_nothing_stands_for_is_a_failed_job(echo):
    put(echo, "custom/in/a.csv", b"1\n")
    body = payload(
        echo, "custom", pipeline_type="byom_batch_custom", custom_image_uri="registry/mine:1"
    )
    for key in ("model_framework", "model_framework_version"):
        del body[key]
    state, answer = echo.wait(echo.provision(body))
    assert state == "Failed"
    assert "has nothing to run in place of the image registry/mine:1" in json.dumps(answer)


def test_the_package_scores_a_night_as_its_endpoint_does(sandbox, endpoint, archive):
    """Enough rows for the faster reader and writer of the package."""
    rng = np.random.default_rng(3)
    rows = rng.normal([100, 45, 0.5, 2, 10, 25, 8, 100], [20, 5, 0.3, 1, 5, 5, 1, 20], (3000, 8))
    rows[:, 3] = rows[:, 2] ** 2 - 1  # what the moments of a sample can be
    rows[:, 7] = rows[:, 6] ** 2 + 5
    body = "".join(",".join(map(repr, row)) + "\n" for row in rows.tolist())
    put(sandbox, "exact/in/night.csv", body.encode())
    changes = {"model_artifact_location": "model.tar.gz"}
    state, answer = sandbox.wait(sandbox.provision(payload(sandbox, "exact", **changes)))
    assert state == "Succeeded", answer
    batch = np.loadtxt(get(sandbox, "exact/out/night.csv.out").decode().splitlines(), delimiter=",")
    parts = []
    for start in range(0, 3000, 100):  # so short that they are read one by one
        piece = "".join(body.splitlines(keepends=True)[start : start + 100])
        parts.append(sandbox.invoke(endpoint, piece, Accept="text/csv")["Body"].read().decode())
    asked = np.loadtxt("".join(parts).splitlines(), delimiter=",")
    np.testing.assert_array_equal(batch[:, 0], asked[:, 0])
    np.testing.assert_allclose(batch[:, 1], asked[:, 1], rtol=0, atol=1e-12)


def test_a_header_is_refused_for_later_pieces_have_none(sandbox, archive, examples):
    sandbox.upload(archive)
    header = "profile_mean,profile_std,profile_skewness,profile_kurtosis,dm_mean,dm_std,dm_skewness,dm_kurtosis\n"
    put(sandbox, "header/in/a.csv", (header + examples[0] + "\n").encode())
    changes = {"model_artifact_location": "model.tar.gz"}
    state, answer = sandbox.wait(sandbox.provision(payload(sandbox, "header", **changes)))
    assert state == "Failed"
    assert "line 1: the model answered 400: it is a header" in json.dumps(answer)


def test_the_script_takes_a_table_as_it_is_and_puts_the_answers_beside_its_ids(
    sandbox, archive, project, tmp_path
):
    sandbox.upload(archive)
    lines = (project.folder / "data" / "prepared" / "test.csv").read_text().splitlines()[:51]
    named = [f"id;{lines[0].replace(',', ';')}"]
    named += [f"J{n:04d};{line.replace(',', ';')}" for n, line in enumerate(lines[1:])]
    (tmp_path / "night.csv").write_text("\n".join(named) + "\n")
    done = sandbox.project.script(
        "batch", str(tmp_path / "night.csv"), "-o", str(tmp_path / "batch.csv"), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 50
    scored = sandbox.project.script(
        "score", str(tmp_path / "night.csv"), "-o", str(tmp_path / "score.csv")
    )
    assert scored.returncode == 0, scored.stderr
    tables = []
    for name in ("batch.csv", "score.csv"):
        with open(tmp_path / name) as file:
            tables.append(list(csv.DictReader(file)))
    for batch, local in zip(*tables, strict=True):
        assert (batch["id"], batch["label"]) == (local["id"], local["label"])
        assert float(batch["probability"]) == pytest.approx(float(local["probability"]), abs=1e-12)


def test_the_script_names_what_is_wrong_with_a_table(sandbox, project, tmp_path):
    (tmp_path / "night.csv").write_text("1,2,3\n")
    done = sandbox.project.script(
        "batch", str(tmp_path / "night.csv"), "-o", str(tmp_path / "out.csv")
    )
    assert done.returncode == 1
    assert "night.csv" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.csv").exists()
