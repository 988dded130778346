"""From captured records to a table: every candidate once, every number to its last bit."""

import base64
import io
import json
import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.monitors import captured, window
from orchestrator.monitors.frame import EVENT_ID, EVENT_ROW, Refused
from orchestrator.sandbox.hosting.capture import Capture
from scoring import inference

BOTH = {
    "EnableCapture": True, "InitialSamplingPercentage": 100,
    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
}  # fmt: skip
TEXT = {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]}
END = "9"
# A profile's mean is neither 0 nor 1, the labels of the answers below are: see inference.parse_csv.
numbers = st.floats(-1e300, 1e300, allow_nan=False).map(lambda x: x or 2.5)
bodies = st.lists(st.lists(numbers, min_size=8, max_size=8), min_size=1, max_size=4)


def body_of(rows, kind):
    if kind == inference.CSV:
        return ("\n".join(",".join(map(repr, row)) for row in rows) + "\n").encode()
    if kind == inference.JSON:
        return json.dumps({"instances": rows}).encode()
    buffer = io.BytesIO()
    np.save(buffer, np.array(rows))
    return buffer.getvalue()


def spooled(folder, exchanges, headers=TEXT):
    """The bytes that the sandbox captures of (request, answer, inference id)."""
    capture = Capture(folder, BOTH | {"CaptureContentTypeHeader": headers})
    for exchange in exchanges:
        capture.record(*exchange)
    capture.flush()
    return b"".join(path.read_bytes() for path in folder.glob("*.jsonl"))


def table_of(*objects, end=END):
    reader = captured.Reader(end)
    for number, body in enumerate(objects):
        reader.add(f"s3://b/{number}.jsonl", body)
    return reader.table(), reader


def record(request="1.5,2\n", answer="0\n", encoding="CSV", kind="text/csv", **about):
    side = {"observedContentType": kind, "encoding": encoding}
    about = {"eventId": "e", "inferenceTime": "2026-01-19T19:27:57Z"} | about
    return json.dumps({
        "captureData": {
            "endpointInput": side | {"mode": "INPUT", "data": request},
            "endpointOutput": side | {"mode": "OUTPUT", "data": answer},
        },
        "eventMetadata": about, "eventVersion": "0",
    }).encode() + b"\n"  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return iter(lambda: tmp_path_factory.mktemp("spool"), None)


@settings(max_examples=40)
@given(st.lists(st.tuples(bodies, st.sampled_from([inference.CSV, inference.JSON, inference.NPY])),
                min_size=1, max_size=4), st.booleans())  # fmt: skip
def test_what_the_endpoint_is_asked_and_answers_comes_back_to_the_last_bit(
    folders, asked, declared
):
    exchanges, wanted = [], []
    for rows, kind in asked:
        answers = np.array([[row[0] > 0, abs(row[1]) % 1] for row in rows], dtype=float)
        answer = inference.output_fn(answers, kind)
        exchanges.append(((kind, body_of(rows, kind)), (kind, answer.get_data()), None))
        wanted += [[*left, *right] for left, right in zip(answers.tolist(), rows, strict=True)]
    body = spooled(next(folders), exchanges, TEXT if declared else {})
    table, reader = table_of(body, body)  # the first is read in full, the second at a glance
    assert (reader.answers, reader.width) == (2, 10)
    assert table.iloc[:, :10].to_numpy(dtype=float).tolist() == wanted * 2
    assert table[EVENT_ROW].tolist() == [row for rows, _ in asked for row in range(len(rows))] * 2
    assert table[EVENT_ID].nunique() == len(asked)


def test_a_callers_inference_id_goes_before_the_event_id():
    table, _ = table_of(record(inferenceId="order-42") + record(eventId="f"))
    assert table[EVENT_ID].tolist() == ["order-42", "f"]


def test_records_are_chosen_by_their_time_half_open():
    times = ["2026-01-19T19:00:00Z", "2026-01-19T19:00:01Z", "2026-01-19T19:00:02Z"]
    body = b"".join(record(eventId=time, inferenceTime=time) for time in times)
    reader = captured.Reader(times[2])
    reader.add("a", body, times[1])
    assert reader.table()[EVENT_ID].tolist() == [times[1]]


@pytest.mark.parametrize(
    "odd",
    [record("1,2\n3,4\n", "0\n1\n"), record("a;b\n1;2\n"), record(' "1",2'), record("[1,2]", "0")],
)
def test_an_odd_record_among_plain_ones_is_read_or_refused_as_if_it_came_alone(odd):
    def plain(cell):  # a number is text where other rows of its column are
        return float(cell) if captured.is_number(cell) else cell

    def outcome(*objects):
        try:
            return [list(map(plain, row)) for row in table_of(record(), *objects)[0].to_numpy()]
        except Refused as error:
            return str(error)

    alone, among = outcome(odd), outcome(record("3,4") + odd)
    if isinstance(alone, str):
        assert among == alone.replace("line 1", "line 2")
    else:
        assert among == [alone[0], [0, 3, 4, "e", 0], *alone[1:]]


def test_columns_keep_their_types_over_blocks_and_texts_stay_texts(monkeypatch):
    monkeypatch.setattr(captured, "BLOCK_ROWS", 1)
    table, _ = table_of(record("1,NA,0.1", "0"), record("2,7,\n", "1"), record('3,"a,b",2', "0"))
    assert table["_c0"].dtype == table["_c1"].dtype == np.int64
    assert table["_c2"].tolist() == ["NA", 7, "a,b"]
    np.testing.assert_array_equal(table["_c3"].to_numpy(dtype=float), [0.1, np.nan, 2])


def test_json_is_flattened_in_its_order():
    table, _ = table_of(record('{"features":[97,3.25,"CA"]}', '{"predictions":[{"score":0.22}]}',
                               "JSON", "application/json"))  # fmt: skip
    assert table.iloc[0, :4].tolist() == [0.22, 97, 3.25, "CA"]
    table, _ = table_of(record("[[1,2],[3,4]]", "[0,1]", "JSON", "application/json"))
    assert table.iloc[:, :3].to_numpy().tolist() == [[0, 1, 2], [1, 3, 4]]


def test_a_header_and_another_delimiter_are_understood():
    table, _ = table_of(record("a;b\n1,5;2\n".replace(",", "."), "0\n"))
    assert table.iloc[:, :3].to_numpy().tolist() == [[0, 1.5, 2]]


def test_a_file_holds_no_rows_and_is_counted(folders):
    """A candidate file is captured to its last byte; the rows beside it are read as if it were not there."""
    content = bytes(range(256)) * 40
    asked = (f"{inference.FILE}; name=a", content)
    exchanges = [(asked, ("text/csv", b"1,0.9\n"), None), (("text/csv", b"5,6\n"),) * 2 + (None,)]
    body = spooled(next(folders), exchanges)
    side = json.loads(body.splitlines()[0])["captureData"]["endpointInput"]
    assert (side["encoding"], base64.b64decode(side["data"])) == ("BASE64", content)
    table, reader = table_of(body, body)
    assert (reader.files, table.iloc[:, :4].to_numpy().tolist()) == (2, [[5, 6, 5, 6]] * 2)


def test_an_empty_window_is_an_empty_table():
    table, reader = table_of(b"")
    assert len(table) == 0
    assert reader.width is None


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (record() + b"{broken\n", "0.jsonl, line 2 is not JSON"),
        (record() + b"\n" + record(), "0.jsonl, line 2 is not JSON"),
        (b'{"captureData": {}}\n', "line 1 is no captured record .*eventMetadata"),
        (record(None), "line 1 is no captured record"),
        (b"[]\n", "line 1 is no captured record"),
        (
            record() + record("1,2,3\n"),
            "line 2: row 1 has 1 columns of answer and 3 of request, not",
        ),
        (record("1,2\n3,4\n5,6\n7,8\n"), "the request has 4 rows, the answer 1"),
        (record("{", "0", "JSON", "application/json"), "application/json cannot be read"),
        (record("%%", "0", "BASE64"), "text/csv cannot be read"),
        (
            record(base64.b64encode(b"x").decode(), "eA==", "BASE64", "image/png"),
            "image/png cannot",
        ),
        (record(base64.b64encode(b"x").decode(), "eA==", "BASE64", "application/x-npy"), "x-npy"),
    ],
)
def test_what_cannot_be_read_is_refused_with_file_and_line(body, complaint):
    with pytest.raises(Refused, match=complaint):
        table_of(body)


def test_another_encoding_of_the_answer_is_refused_as_by_sagemaker(folders):
    body = spooled(next(folders), [(("text/csv", b"1,2\n"), ("application/json", b"[0]"), None)])
    with pytest.raises(
        Refused, match="Encoding is CSV for endpointInput, but Encoding is JSON for"
    ):
        table_of(body)


@settings(max_examples=60)
@example(record(json.dumps("\r0"), "0", "JSON", "application/json"))
@example(record(json.dumps(["a\nb"]), "0", "JSON", "application/json"))
@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
).map(lambda document: record(json.dumps(document), "0", "JSON", "application/json")))  # fmt: skip
def test_anything_at_all_is_a_table_or_refused(body):
    try:
        table, reader = table_of(body)
    except Refused:
        return
    assert len(table) == 0 or reader.width == len(table.columns) - 2


@pytest.mark.parametrize(
    ("baseline", "wanted"),
    [
        (["y", "a", "b"], ["y", "_c1", "a", "b"]),  # a probability beside the label
        (["a", "b"], ["_c0", "_c1", "a", "b"]),  # the features alone
        (["y", "p", "a", "b"], ["y", "p", "a", "b"]),
        (["y"], ["y", "_c1", "_c2", "_c3"]),
    ],
)
def test_columns_are_named_by_their_baseline(baseline, wanted):
    assert captured.names(2, 4, baseline) == wanted


# -- windows --------------------------------------------------------------------------

START = datetime(2026, 1, 19, tzinfo=UTC)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_every_record_belongs_to_exactly_one_run_however_late_it_comes(seed):
    """Objects of records, published up to hours late, and runs at any times."""
    chance = random.Random(seed)
    objects = []
    for _ in range(30):
        begins = chance.uniform(0, 5000)
        times = sorted(begins + chance.uniform(0, 60) for _ in range(3))
        objects.append((times, times[-1] + chance.choice([0, 3, 100, 4000]) * chance.random()))
    ends = sorted(chance.sample(range(100, 6000), 6)) + [20000]
    counted = {}
    last_end, seen = -3600, -3600
    for end in ends:
        listed = end + chance.choice([0, 10, 120])  # how long it takes to start
        listed = max(listed, seen)
        period = window.Window(
            *(START + timedelta(seconds=s) for s in (last_end, end, end, seen, listed))
        )
        for times, published in objects:
            came = START + timedelta(seconds=int(published))
            since = window.taken_since(came, period)
            for time in times:
                words = window.text(START + timedelta(seconds=time))
                if since is not None and since <= words < window.text(period.end):
                    counted[time] = counted.get(time, 0) + 1
        last_end, seen = end, listed
    assert counted == {time: 1 for times, _ in objects for time in times}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("-PT7H", timedelta(hours=7)), ("P1DT30M", timedelta(days=1, minutes=30))],
)
def test_offsets_are_durations(words, wanted):
    assert window.offset(words, "start_time_offset") == wanted


@pytest.mark.parametrize("words", ["7H", "-P", "-PT", "tomorrow"])
def test_an_offset_that_is_none_is_refused_by_name(words):
    with pytest.raises(Refused, match="start_time_offset is"):
        window.offset(words, "start_time_offset")
