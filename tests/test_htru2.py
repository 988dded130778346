"""Reading and checking candidate files."""

import numpy as np
import pytest
from conftest import needs_htru2, real_htru2
from hypothesis import given
from hypothesis import strategies as st

from candidates import htru2, simulator
from common.errors import BadData

ROW = (
    "99.3671875,41.57220208,1.547196967,4.154106043,27.55518395,61.71901588,2.20880796,3.662680136"
)


def text(rows: int = 3, label: str = "1") -> str:
    return f"{ROW},{label}\n" * rows


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_line_ends_do_not_matter(end):
    assert np.array_equal(htru2.parse(text().replace("\n", end), "x"), htru2.parse(text(), "x"))


def test_a_header_line_and_arff_are_understood():
    header = ",".join([*htru2.FEATURES, "class"])
    arff = "@relation x\n@attribute a numeric\n% note\n@data\n"
    for before in (header + "\n", arff, ""):
        assert htru2.parse(before + text(), "x").shape == (3, 9)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ("", "no candidates"),
        (text() + "1,2,3\n", "row 4 has 3 columns"),
        (text() + ROW.replace("41.57220208", "NA") + ",0\n", r"row 4, column 2 \(profile_std\)"),
    ],
)
def test_a_malformed_file_is_refused_with_the_row(broken, complaint):
    with pytest.raises(BadData, match=complaint):
        htru2.parse(broken, "x")


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        (0, 300, "row 2: profile_mean must be in 0..255.0"),
        (5, -1, "row 2: dm_std must be in 0..127.5"),
        (2, np.nan, "row 2: profile_skewness is missing or not finite"),
        (8, 2, "row 2: is_pulsar must be 0 or 1"),
        (3, -1.9, "row 2: profile_kurtosis -1.9 is below"),
    ],
)
def test_an_impossible_candidate_is_refused_with_row_and_reason(column, value, complaint):
    data = htru2.parse(text(), "x")
    data[1, column] = value
    with pytest.raises(BadData, match=complaint):
        htru2.check(data, "x")


def test_swapped_moment_columns_are_recognised():
    features, classes = simulator.simulate(100, 400, seed=1)
    swapped = np.column_stack([features[:, [0, 1, 3, 2, 4, 5, 7, 6]], classes])
    with pytest.raises(BadData, match="the other way round"):
        htru2.check(swapped, "x")


def test_a_truncated_htru2_is_refused():
    with pytest.raises(BadData, match="cut short"):
        htru2.check_published(htru2.parse(text(), "x"), "x")


@needs_htru2
def test_the_real_file_keeps_the_moment_bound_and_has_the_published_values():
    data = htru2.parse(real_htru2().read_text(), "HTRU_2.csv")
    htru2.check(data, "HTRU_2.csv")
    htru2.check_published(data, "HTRU_2.csv")
    assert htru2.content_hash(data) == htru2.PUBLISHED
    below = [int((htru2.bound_excess(data, k, s) < 0).sum()) for _, s, k in htru2.MOMENTS]
    assert below == [3010, 16655]  # with the published names


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=8), min_size=1, max_size=5))
def test_what_is_written_is_read_back_exactly(rows):
    data = np.column_stack([np.array(rows), np.zeros(len(rows))])
    assert np.array_equal(htru2.parse(htru2.to_csv(data), "x"), data)


@given(st.text())
def test_any_text_is_parsed_or_refused(content):
    try:
        assert htru2.parse(content, "x").shape[1] == 9
    except BadData:
        pass
