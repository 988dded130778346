"""Shards of a list: every file is one's, whatever machine looks, and only all of them make a list."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_candidate_files import pfd, phcx
from test_rank import as_list, run_rank

from common.errors import UserError
from common.lines import csv_lines
from scoring import ranking, shards
from scoring.ranking import Row
from scoring.shards import Shard

NAMES = [f"beam {n % 3}/{n},{n}.pfd" for n in range(40)] + [os.fsdecode(b"\xff.pfd"), "\ue000.pfd"]
ROWS = [
    Row(f"night/{name}", reason="it is empty") if n % 5 == 0
    else Row(f"night/{name}", "phcx", score=(n % 7) / 9, label=0, model="eight")
    for n, name in enumerate(NAMES)
]  # fmt: skip


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 9))
def test_every_file_is_in_one_shard(names, of):
    for name in names:
        assert sum(Shard(number, of).has(name) for number in range(1, of + 1)) == 1


def test_whose_a_file_is_never_changes():
    assert [n for n in range(10) if Shard(2, 4).has(f"beam/{n}.pfd")] == [1, 2, 4, 5, 7, 8]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ValueError):
        shards.named(text)


def merged(places: list[str]) -> bytes:
    columns, rows = shards.merged(places)
    return "".join(csv_lines([columns, *rows])).encode()


def written(folder: Path, of: int, names=NAMES, made_with=(b"model",)) -> list[str]:
    """The lists of all shards."""
    places = []
    for number in range(1, of + 1):
        shard, place = Shard(number, of), folder / f"ranked-{number}-{of}.csv"
        rows = [row for row, name in zip(ROWS, NAMES, strict=True) if shard.has(name)]
        place.write_bytes(as_list(ranking.ordered(rows)))
        shards.sign(str(place), shard, names, made_with, "rank")
        places.append(str(place))
    return places


@pytest.mark.parametrize("of", [1, 2, 7, 60])
def test_shards_make_the_list_that_there_would_be_without_them(tmp_path, of):
    places = written(tmp_path, of)
    assert merged(places) == merged(places[::-1]) == as_list(ranking.ordered(ROWS))


def test_shards_that_do_not_belong_together_are_refused(tmp_path):
    one, two, three = written(tmp_path, 3)
    for folder in ("files", "models", "splits"):
        (tmp_path / folder).mkdir()
    for places, reason in (
        ([one, three], "of 3 shards 1 are missing: 2"),
        ([one, two, three, three], "4 lists of 3 shards"),
        ([one, two, *written(tmp_path / "files", 3, NAMES[1:])[2:]], "different files"),
        ([one, two, *written(tmp_path / "models", 3, made_with=(b"x",))[2:]], "different models"),
        ([one, two, *written(tmp_path / "splits", 4)[2:]], "different splits"),
        ([one, two, str(tmp_path / "none.csv")], "none.csv.shard.json does not exist"),
    ):
        with pytest.raises(UserError, match=reason):
            shards.merged(places)
    Path(three).write_bytes(Path(three).read_bytes()[:-10])
    with pytest.raises(UserError, match="not what its shard wrote") as refused:
        shards.merged([one, two, three])
    assert "--shard 3/3" in refused.value.remedy


@pytest.mark.parametrize("said", ["", "{", "[]", "{}"])
def test_what_is_damaged_beside_a_list_is_one_line(tmp_path, said):
    place = tmp_path / "1.csv"
    place.write_text("rank,file\n")
    Path(f"{place}{shards.BESIDE}").write_text(said)
    with pytest.raises(UserError, match="is damaged"):
        shards.checked([str(place)], "rank")


@pytest.mark.slow
def test_jobs_of_an_array_make_the_same_list_to_the_byte(project, tmp_path):
    (tmp_path / "night").mkdir()
    for number in range(12):
        (tmp_path / "night" / f"{number}.phcx").write_bytes(
            phcx().replace(b"<Dm>-0.25", b"<Dm>%d" % number) if number % 4 else pfd()
        )
    whole, merged = tmp_path / "whole.csv", tmp_path / "merged.csv"
    assert run_rank(project, tmp_path / "night", "-o", whole).returncode == 3
    places = [tmp_path / f"{number}.csv" for number in (1, 2)]
    for number, place in enumerate(places, start=1):
        result = run_rank(project, tmp_path / "night", "-o", place, "--shard", f"{number}/2")
        assert result.returncode == 3, result.stderr
        assert json.loads(Path(f"{place}.shard.json").read_text())["number"] == number
    result = run_rank(project, "--merge", *places, "-o", merged)
    assert result.returncode == 0, result.stderr
    assert merged.read_bytes() == whole.read_bytes()
    result = run_rank(project, "--merge", places[0], "-o", merged)
    assert result.returncode == 1
    assert b"of 2 shards 1 are missing: 2" in result.stderr
