"""Reading and checking candidate files."""

import io

import numpy as np
import pytest
from conftest import needs_htru2, real_htru2

from candidates import files, htru2, simulator
from candidates.tables import EXCESS, moments
from common.errors import BadData

ROW = (
    "99.3671875,41.57220208,1.547196967,4.154106043,27.55518395,61.71901588,2.20880796,3.662680136"
)


def parsed(content: str) -> np.ndarray:
    found, rows = files.read_stream(io.BytesIO(content.encode()), "x", EXCESS)
    return files.labelled(found, rows, "x")


def text(rows: int = 3, label: str = "1") -> str:
    return f"{ROW},{label}\n" * rows


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
    data = parsed(text())
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
        htru2.check_published(parsed(text()), "x")


@needs_htru2
def test_the_real_file_keeps_the_moment_bound_and_has_the_published_values():
    data = files.labelled(*files.read(real_htru2()), "HTRU_2.csv")
    htru2.check(data, "HTRU_2.csv")
    htru2.check_published(data, "HTRU_2.csv")
    assert htru2.content_hash(data) == htru2.PUBLISHED
    below = [moments.below_bound(data, k, s) for _, s, k in moments.MOMENTS]
    assert below == [3010, 16655]  # with the published names


def test_what_is_written_is_read_back_exactly(tmp_path):
    features, classes = simulator.simulate(50, 150, seed=3)
    (tmp_path / "candidates.csv").write_text(htru2.to_csv(np.column_stack([features, classes])))
    values, truth = htru2.load(tmp_path / "candidates.csv")
    assert np.array_equal(values, features)
    assert np.array_equal(truth, classes)
