"""Tables of candidates as people have them: the right answer, or the right sentence."""

import bz2
import csv
import functools
import gzip
import io
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED, needs_htru2, real_htru2
from hypothesis import given
from hypothesis import strategies as st

from candidates import files, simulator, tables
from candidates.tables import EXCESS, FEATURES, PEARSON
from candidates.tables.names import feature_of
from common.errors import BadData

GIVEN = SHARED / "data" / "tables"
needs_tables = pytest.mark.skipif(not GIVEN.is_dir(), reason="the tables are not at hand")
PUBLISHED = [
    f" {kind} of the {group}"
    for group in ("integrated profile", "DM-SNR curve")
    for kind in ("Mean", "Standard deviation", "Excess kurtosis", "Skewness")
]
SPELLINGS = {  # of the eight, in the file's order
    "ours": FEATURES,
    "capitals": [name.upper() for name in FEATURES],
    "spaces": [f" {name.replace('_', ' ')} " for name in FEATURES],
    "units": [f"{name} (S/N)" for name in FEATURES],
    "published": PUBLISHED,
    "put right": [
        f"{kind} of the {group}"
        for group in ("integrated profile", "DM-SNR curve")
        for kind in ("Mean", "Standard deviation", "Skewness", "Excess kurtosis")
    ],
    "uci": [
        "Profile_mean", "Profile_stdev", "Profile_skewness", "Profile_kurtosis",
        "DM_mean", "DM_stdev", "DM_skewness", "DM_kurtosis",
    ],
    "kaggle": [
        "Mean_Integrated", "SD", "EK", "Skewness",
        "Mean _ DMSNR _ Curve", "SD _ DMSNR _ Curve", "EK _ DMSNR _ Curve", "Skewness _ DMSNR _ Curve",
    ],
    "notebook": [
        f"{kind}_{group}" for group in ("profile", "dmsnr") for kind in ("mean", "std", "kurt", "skew")
    ],
    "camels": [
        f"{group}{kind}" for group in ("Ip", "DmSnr") for kind in ("Mean", "Std", "Skewness", "Kurtosis")
    ],
}  # fmt: skip


@functools.cache
def pool() -> tuple[np.ndarray, np.ndarray]:
    """Simulated candidates and their classes, both mixed."""
    return simulator.simulate(60, 140, seed=5)


def written(columns: dict, delimiter=",", header=True, end="\n", **options) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, **options)
    if header:
        writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return buffer.getvalue()


def as_text(values: np.ndarray) -> dict[str, list[str]]:
    return {name: [repr(v) for v in column] for name, column in zip(FEATURES, values.T.tolist())}  # noqa: B905


def read(content: bytes | str, **options) -> tuple[tables.Layout, tables.Rows]:
    content = content.encode() if isinstance(content, str) else content
    return files.read_stream(io.BytesIO(content), "night.csv", **options)


# -- the tables that were found ---------------------------------------------------------

REFUSED = {  # and with which words
    "empty.csv": "empty",
    "header_only.csv": "no candidates",
    "seven_columns.csv": "7 columns, not 8",
    "one_column.csv": "1 columns, not 8",
    "standardised.csv": "standardised features; give the raw ones",
    "missing_values.csv": "row 5: column 3 (profile_skewness) is missing; 3 such rows: 5, 18, 31",
    "pearson_kurtosis.csv": "--kurtosis pearson",
    "ninth_is_no_class.csv": "nine columns without names",
    "first_row_as_header.csv": "the first candidate became the header",
}
CARRIED = {
    "id_first.csv": "id",
    "index_from_pandas.csv": "",
    "latin1.csv": "São Paulo",
    "r_write_csv.csv": "",
    "r_write_table.txt": "",
}
TRUTHS = ("label_in_front.csv", "label_last.csv", "published_names.csv")


@needs_tables
@pytest.mark.parametrize("name", sorted(p.name for p in GIVEN.glob("*.*") if p.name != "README.md"))
def test_a_table_that_was_found_is_read_or_refused(name):
    if name in REFUSED:
        with pytest.raises(BadData) as refusal:
            files.read(GIVEN / name)
        assert REFUSED[name] in str(refusal.value)
        return
    found, rows = files.read(GIVEN / name)
    assert np.array_equal(rows.values, files.read(GIVEN / "plain.csv")[1].values)
    assert [found.title(column) for column in found.carried] == (
        [CARRIED[name]] if name in CARRIED else []
    )
    assert np.isnan(rows.truth).all() == (name not in TRUTHS)
    if name in TRUTHS:
        assert rows.truth.sum() == 30


@needs_tables
def test_bad_rows_are_left_out_when_that_is_said():
    found, rows = files.read(GIVEN / "missing_values.csv", drop_bad=True)
    assert len(rows.values) == 57
    assert "3 such rows: 5, 18, 31" in found.notes[0]


@needs_tables
def test_pearsons_kurtosis_is_taken_when_that_is_said():
    values = files.read(GIVEN / "pearson_kurtosis.csv", kurtosis=PEARSON)[1].values
    assert np.allclose(values, files.read(GIVEN / "plain.csv")[1].values, rtol=0, atol=1e-9)
    with pytest.raises(BadData, match="which Pearson's cannot be"):
        files.read(GIVEN / "plain.csv", kurtosis=PEARSON)


# -- any dialect, the same answer -------------------------------------------------------


@st.composite
def dialects(draw):
    """A table of the pool's candidates in some dialect: bytes, how many, its class, its ids."""
    features, classes = pool()
    count = draw(st.integers(20, 60))
    start = draw(st.integers(0, len(features) - count))
    values, truth = features[start : start + count], classes[start : start + count]
    columns = as_text(values)
    has_names = draw(st.booleans())
    label = draw(st.sampled_from([None, "front", "back"]))
    ids = draw(st.sampled_from([None, "index", "text"])) if has_names else None
    delimiter = draw(st.sampled_from([",", ";", "\t", "|", " "]))
    if delimiter != "," and draw(st.booleans()):
        columns = {name: [v.replace(".", ",") for v in column] for name, column in columns.items()}
    if has_names:
        spelling = SPELLINGS[draw(st.sampled_from(sorted(SPELLINGS)))]
        columns = dict(zip(spelling, columns.values(), strict=True))
        order = draw(st.permutations(list(columns)))
        columns = {name: columns[name] for name in order}
    known = {} if label is None else {draw(st.sampled_from(LABELS)): [f"{c}" for c in truth]}
    columns = known | columns if label == "front" else columns | known
    if ids == "index":
        columns = {"": [f"{n}" for n in range(count)]} | columns
    if ids == "text":
        columns["beam id"] = [f"J{n:04d}-0{n % 10}" for n in range(count)]
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    text = written(columns, delimiter, has_names, quoting=quoting)
    if draw(st.booleans()):
        text = text.rstrip("\n")
    if draw(st.booleans()) and delimiter != " ":
        text = "".join(f"{line}{delimiter}\n" for line in text.splitlines())
    text = text.replace("\n", draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"])))
    content = text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])))
    pack = draw(st.sampled_from([bytes, gzip.compress, lzma.compress, bz2.compress, zipped]))
    return pack(content), values, truth if label else None, ids


LABELS = ["class", "target_class", "Target", "is_pulsar", "label"]


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("night/night.csv", content)
        archive.writestr("__MACOSX/._night.csv", b"\0\0")
    return buffer.getvalue()


@pytest.mark.fuzz
@given(dialects())
def test_every_dialect_and_order_of_columns_gives_the_same_numbers_to_the_bit(table):
    content, values, truth, ids = table
    found, rows = read(content, kurtosis=EXCESS)
    assert np.array_equal(rows.values, values)
    assert np.isnan(rows.truth).all() if truth is None else np.array_equal(rows.truth, truth)
    assert len(found.carried) == (ids is not None)


def test_parquet_is_read(tmp_path):
    features, classes = pool()
    frame = pd.DataFrame(features, columns=PUBLISHED).assign(target=classes, id="a,b")
    frame.to_parquet(tmp_path / "night.parquet")
    found, rows = files.read(tmp_path / "night.parquet")
    assert np.array_equal(rows.values, features)
    assert np.array_equal(rows.truth, classes)
    assert rows.carried[0] == ["a,b"]
    assert "the wrong way round" in found.notes[0]


@needs_htru2
@pytest.mark.parametrize("names", [PUBLISHED, FEATURES, None])
def test_copies_of_htru2_from_public_notebooks_are_htru2(names, tmp_path):
    """Indexed and renamed, split, zipped; scaled is refused."""
    data = files.labelled(*files.read(real_htru2()), "HTRU_2.csv")
    frame = pd.DataFrame(data[:, :8], columns=names).assign(target_class=data[:, 8].astype(int))
    place = tmp_path / "pulsar.csv.zip"
    for options in ({}, {"index": False}):
        header = names is not None
        if not header and not options:
            options = {"header": [*"01234567", "8"]}
        frame.to_csv(place, **options, **({} if "header" in options else {"header": header}))
        assert np.array_equal(files.labelled(*files.read(place), "x"), data)
    half = frame.sample(frac=0.5, random_state=1)
    half.to_csv(place)
    if names is not None:
        assert np.array_equal(files.read(place)[1].values, data[half.index, :8])
    scaled = frame.copy()
    scaled.iloc[:, :8] = (frame.iloc[:, :8] - frame.iloc[:, :8].mean()) / frame.iloc[:, :8].std()
    scaled.columns = scaled.columns.astype(str)
    scaled.to_csv(place, index=False, header=names is not None)
    with pytest.raises(BadData, match="give the raw ones"):
        files.read(place)


# -- what does not fit is refused -------------------------------------------------------


def spoil(kind: str, columns: dict[str, list[str]], at: int, values: np.ndarray) -> tuple[str, str]:
    """A table with something wrong in it, and the words that must say so."""
    name = FEATURES[at % 8]
    row = at % len(values)
    if kind in ("text", "missing", "infinite", "grouped"):
        cell = {"text": "x", "missing": "", "infinite": "inf", "grouped": "1.234.5"}[kind]
        columns[name][row] = cell
        return written(columns), f"row {row + 1}: column {at % 8 + 1} ({name})"
    if kind == "short row":
        lines = written(columns).splitlines(keepends=True)
        lines[row + 1] = lines[row + 1].partition(",")[2]
        return "".join(lines), f"row {row + 1}: has 7 columns, not 8"
    if kind == "no column":
        del columns[name]
        return written(columns), f"no column for {name}"
    if kind == "other name":
        renamed = {"beam" if key == name else key: column for key, column in columns.items()}
        return written(renamed), f"no column for {name}"
    if kind == "twice":
        return written(columns | {name.upper(): columns[name]}), f"could both be {name}"
    if kind == "exchanged":
        columns["dm_skewness"], columns["dm_kurtosis"] = (
            columns["dm_kurtosis"],
            columns["dm_skewness"],
        )
        return written(columns), "kurtosis and skewness swapped?"
    if kind == "standardised":
        scaled = (values - values.mean(0)) / values.std(0)
        return written(as_text(scaled)), "give the raw ones"
    if kind == "scaled":
        span = np.ptp(values, axis=0)
        scaled = (values - values.min(0)) / span
        return written(as_text(scaled), header=False), "give the raw ones"
    if kind == "pearson":
        return written(as_text(values + np.eye(8)[3] * 3 + np.eye(8)[7] * 3)), "Pearson"
    if kind == "ids without a name":
        ids = {"id": [str(1000 + 7 * n) for n in range(len(values))]}
        return written(ids | columns, header=False), "nine columns without names"
    if kind == "header again":
        return written(columns) + written(columns), f"row {len(values) + 1}: is the header again"
    if kind == "unknown names":
        return written(dict(zip("abcdefgh", columns.values(), strict=True))), "no column is named"
    assert kind == "class"
    columns["class"] = ["0"] * len(values)
    columns["class"][row] = "2"
    return written(columns), f"row {row + 1}: column 9 (is_pulsar) must be 0 or 1"


KINDS = [
    "text", "missing", "infinite", "grouped", "short row", "no column", "other name", "twice",
    "exchanged", "standardised", "scaled", "pearson", "ids without a name", "header again",
    "unknown names", "class",
]  # fmt: skip


@pytest.mark.fuzz
@given(st.sampled_from(KINDS), st.integers(0, 10_000), st.integers(20, 60))
def test_what_does_not_fit_is_refused_with_its_row_and_column(kind, at, count):
    values = pool()[0][at % 100 : at % 100 + count]
    content, words = spoil(kind, as_text(values), at, values)
    with pytest.raises(BadData) as refusal:
        read(content)
    assert words in str(refusal.value)


@pytest.mark.fuzz
@given(
    st.binary() | st.text().map(str.encode) | st.text("0123456789.,-;\t\n \"'eE#@%").map(str.encode)
)
def test_any_bytes_are_read_or_refused(content):
    for magic in (b"", b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"BZh9", b"\xfd7zXZ\0"):
        try:
            _, rows = read(magic + content)
        except BadData:
            continue
        assert rows.values.shape[1] == 8
        assert np.isfinite(rows.values).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x00\x01\x02\x03" * 100, "no text"),
        (gzip.compress(b"1,2,3\n" * 1000)[:-20], "cannot be read"),
        (zipped(b"")[:40], "cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "no text"),
        (b'"1,2,3,4,5,6,7,8\n1,2,3,4,5,6,7,8\n', "quotes do not match"),
    ],
    ids=["binary", "gz-cut", "zip-cut", "picture", "quotes"],
)
def test_a_file_of_another_kind_is_refused_in_words(content, words):
    with pytest.raises(BadData, match=words):
        read(content)


def test_an_archive_must_hold_one_table():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.csv", "1")
        archive.writestr("b.csv", "2")
    with pytest.raises(BadData, match=r"one table, it holds a\.csv, b\.csv"):
        read(buffer.getvalue())


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        (" Excess kurtosis of the DM-SNR curve", ("dm", "kurtosis")),
        ("Skewness(profile)", ("profile", "skewness")),
        ("dm_mean [pc cm^-3]", ("dm", "mean")),
        ("ProfileStdDev", ("profile", "std")),
        ("EK", (None, "kurtosis")),
        ("dm", None),
        ("profile_mean_error", None),
        ("pulse_width", None),
        ("mean of profile and dm", None),
        ("", None),
    ],
)
def test_a_name_means_a_feature_or_nothing(name, meaning):
    assert feature_of(name) == meaning
