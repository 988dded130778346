"""The code that travels in the package: reading requests, scoring, answering."""

import io
import json

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.ensemble import (
    AdaBoostClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression

from candidates import tables
from candidates.htru2 import load
from scoring import inference

ROW = [99.3671875, 41.57220208, 1.547196967, 4.154106043, 27.55518395, 61.71901588, 2.2, 3.66]
CSV_ROW = ",".join(map(str, ROW))


@pytest.fixture(scope="module")
def model(project):
    return inference.model_fn(str(project.folder / "models"))


def ask(model, body, content_type="text/csv", accept="application/json"):
    prediction = inference.predict_fn(inference.input_fn(body, content_type), model)
    return inference.output_fn(prediction, accept)


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_the_fast_evaluation_is_predict_proba(project, model):
    estimator = joblib.load(project.folder / "models" / "model_pulsar.joblib")
    features, _ = load(project.folder / "data" / "candidates.csv")
    expected = estimator.predict_proba(features)[:, 1]
    assert model.probability.__name__ == "probability", "the networks were not fused"
    assert np.abs(model.probability(features) - expected).max() < 1e-9


def noise():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 8)), rng.integers(0, 2, 200)


def test_the_fast_evaluation_of_a_forest_is_predict_proba():
    rows, classes = noise()
    forest = RandomForestClassifier(10, random_state=0).fit(rows, classes)
    fused = inference.evaluator(forest, 8)
    assert fused.__name__ == "probability", "the trees were not fused"
    assert np.array_equal(fused(rows), forest.predict_proba(rows)[:, 1])
    with np.errstate(over="ignore"):
        assert np.isnan(fused(np.full((1, 8), 1e300)))


@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingClassifier(max_iter=5),
        GradientBoostingClassifier(n_estimators=5),
        AdaBoostClassifier(n_estimators=5),
        LogisticRegression(),
        RandomForestClassifier(5, class_weight="balanced_subsample"),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_any_estimator_is_evaluated_as_predict_proba(estimator):
    rows, classes = noise()
    estimator.fit(rows, classes)
    probability = inference.evaluator(estimator, 8)(rows)
    assert np.abs(probability - estimator.predict_proba(rows)[:, 1]).max() < 1e-9


@pytest.mark.parametrize("lambdas", [[0.0, 2.0, 1.0, -0.5, 0.5, 3.0, 1e-16, 2 + 1e-16]])
def test_the_power_transform_is_scikit_learns(lambdas):
    from sklearn.preprocessing import PowerTransformer

    rows = np.random.default_rng(1).normal(0, 5, (50, 8))
    transformer = PowerTransformer(standardize=False).fit(rows)
    transformer.lambdas_ = np.array(lambdas)
    ours = inference.yeo_johnson(rows, transformer.lambdas_)
    assert np.allclose(ours, transformer.transform(rows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (CSV_ROW, "text/csv"),
        (CSV_ROW + "\n", "text/csv; charset=utf-8"),
        (CSV_ROW.encode(), "TEXT/CSV"),
        ("\ufeff" + CSV_ROW + "\r\n", "text/csv"),
        ("\n" + CSV_ROW + "\n\n", "text/csv"),
        (",".join(tables.FEATURES) + "\n" + CSV_ROW, "text/csv"),
        (",".join("01234567") + "\n" + CSV_ROW, "text/csv"),
        (CSV_ROW.replace(",", ";"), "text/csv"),
        (CSV_ROW + ",1", "text/csv"),
        (CSV_ROW.replace(",", " , "), "text/csv"),
        (",".join(f'"{value}"' for value in ROW), "text/csv"),
        (json.dumps(ROW), "application/json"),
        (json.dumps([ROW]), "application/json;charset=utf-8"),
        (json.dumps({"instances": [ROW]}), "application/json"),
        (json.dumps([str(value) for value in ROW]), "application/json"),
        (npy(np.array(ROW)), "application/x-npy"),
        (npy(np.array([ROW], dtype=">f8")), "application/x-npy"),
    ],
)
def test_every_way_to_send_a_row_gets_the_same_answer(model, body, content_type):
    expected = model.probability(np.array([ROW]))[0]
    answer = ask(model, body, content_type)
    assert answer.status_code == 200, answer.get_data()
    prediction = json.loads(answer.get_data())["predictions"]
    assert prediction == [{"label": int(expected >= model.threshold), "probability": expected}]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        ("1,2,3", "text/csv", 400, "row 1 has 3 columns, not 8"),
        (CSV_ROW + ",7.5", "text/csv", 400, "nine columns"),
        (",".join("abcdefgh") + "\n" + CSV_ROW, "text/csv", 400, "no column is named"),
        (f"{CSV_ROW}\n{CSV_ROW}\n1,2\n", "text/csv", 400, "row 3: has 2 columns"),
        (
            CSV_ROW + "\n" + CSV_ROW.replace("1.547196967", "abc"),
            "text/csv",
            400,
            "row 2: column 3 (profile_skewness) is no number: 'abc'",
        ),
        (CSV_ROW.replace("1.547196967", "nan"), "text/csv", 400, "row 1, column 3"),
        (CSV_ROW.replace("1.547196967", ""), "text/csv", 400, "row 1: column 3"),
        ("", "text/csv", 400, "no candidates"),
        (b"\xff\xfe", "text/csv", 400, "not UTF-8"),
        (",".join(["1e300"] * 8), "text/csv", 400, "row 1 holds numbers too large"),
        ("[1, 2", "application/json", 400, "not JSON"),
        ("{}", "application/json", 400, '"instances"'),
        ("3", "application/json", 400, "must be a row"),
        ("[[1,2,3,4,5,6,7,null]]", "application/json", 400, "row 1, column 8"),
        ("[[1,2,3,4,5,6,7,true]]", "application/json", 400, "row 1, column 8"),
        ("[[1,2,3,4,5,6,7,NaN]]", "application/json", 400, "row 1, column 8"),
        (f"[{ROW}, 5]", "application/json", 400, "row 2 is not a list"),
        ("[" * 100_000, "application/json", 400, "not JSON"),
        (npy(np.array([{}])), "application/x-npy", 400, "plain numbers"),
        (npy(np.zeros((2, 3, 8))), "application/x-npy", 400, "shape"),
        (npy(np.zeros((2, 8)))[:-8], "application/x-npy", 400, "announces"),
        (npy(np.zeros((2, 8))).replace(b"{'descr'", b" 'descr'"), "application/x-npy", 400, ".npy"),
        (npy(np.zeros((2, 8))).replace(b"}", b"("), "application/x-npy", 400, ".npy"),
        (b"", "application/x-npy", 400, ".npy"),
        (CSV_ROW, "text/plain", 415, "not one of"),
    ],
)
def test_a_bad_request_is_a_4xx_that_names_row_and_column(model, body, content_type, status, words):
    answer = ask(model, body, content_type)
    assert answer.status_code == status
    assert words in json.loads(answer.get_data())["error"]


def test_a_npy_header_that_announces_the_moon_allocates_nothing(model):
    body = npy(np.zeros((1, 8))).replace(b"(1, 8), }       ", b"(9999999999,8)} ")
    assert ask(model, body, "application/x-npy").status_code == 400


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("text/csv", "text/csv"),
        ("application/json", "application/json"),
        ("application/x-npy", "application/x-npy"),
        ("text/csv; charset=utf-8", "text/csv"),
        ("*/*", "application/json"),
        ("text/*", "text/csv"),
        ("application/xml, text/csv;q=0.5", "text/csv"),
        ("application/json;q=0.1, text/csv", "text/csv"),
        ("TEXT/CSV", "text/csv"),
        ("application/json;q=0, application/x-npy;q=0.2", "application/x-npy"),
    ],
)
def test_accept_is_negotiated(model, accept, media_type):
    answer = ask(model, CSV_ROW, accept=accept)
    assert answer.status_code == 200
    assert answer.mimetype == media_type


def test_an_accept_that_allows_nothing_is_a_406(model):
    assert ask(model, CSV_ROW, accept="application/xml").status_code == 406


def test_the_three_answers_hold_the_same_numbers(model):
    body = CSV_ROW + "\n" + CSV_ROW.replace("99.3", "130.3")
    as_json = json.loads(ask(model, body).get_data())["predictions"]
    as_csv = ask(model, body, accept="text/csv").get_data(as_text=True)
    as_npy = np.load(io.BytesIO(ask(model, body, accept="application/x-npy").get_data()))
    rows = [[row["label"], row["probability"]] for row in as_json]
    assert rows == [[float(cell) for cell in line.split(",")] for line in as_csv.splitlines()]
    assert rows == as_npy.tolist()


@pytest.mark.fuzz
@given(
    st.one_of(
        st.text(), st.binary(), st.text(alphabet='0123456789.,-+eE"\n\r infa'),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(json.dumps),
        hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(max_side=9)).map(npy),
    ),
    st.sampled_from(
        ["text/csv", "application/json", "application/x-npy", inference.FILE, "", "x", "text/csv;q"]
    ),
    st.sampled_from(["text/csv", "application/json", "*/*", "", "application/x-npy", "b"]),
)  # fmt: skip
def test_no_request_raises(project, body, content_type, accept):
    model = _model(project)
    if isinstance(body, bytes) and content_type in ("text/csv", "application/json"):
        body = body.decode("utf-8", errors="replace")
    answer = ask(model, body, content_type, accept)
    assert answer.status_code in (200, 400, 406, 415)


_cache = {}


def _model(project):
    if "model" not in _cache:
        _cache["model"] = inference.model_fn(str(project.folder / "models"))
    return _cache["model"]
