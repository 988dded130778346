"""Candidate files: the features are the published extractor's, and what has none is refused."""

import csv
import gzip
import math
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from candidates import folds
from candidates.folds import Unreadable
from candidates.tables import FEATURES

GIVEN = SHARED / "data" / "candidates"
needs_given = pytest.mark.skipif(not GIVEN.is_dir(), reason="the real files are not at hand")
few = settings(max_examples=30, deadline=None)

# -- files of our own -----------------------------------------------------------------

DRAW = np.random.default_rng(7)
PULSE = 40 + 190 * np.exp(-0.5 * ((np.arange(128) - 40) / 4) ** 2) + DRAW.integers(0, 15, 128)
BUMP = 200 * np.exp(-0.5 * ((np.arange(1196) - 300) / 9) ** 2) + 3 * DRAW.random(1196)
PROFILE, CURVE = PULSE.astype(np.uint8), BUMP.astype(np.uint8)


def lines(values: np.ndarray) -> str:
    text = values.astype(np.uint8).tobytes().hex().upper()
    return "\n".join(["", *(text[at : at + 80] for at in range(0, len(text), 80))])


def section(name: str, profile: np.ndarray, dms: np.ndarray, block: np.ndarray) -> str:
    plane = np.outer(np.arange(16), PROFILE) // 16
    return f"""<Section name='{name}'><BestValues>
<TopoPeriod units='seconds'>0.0714</TopoPeriod><BaryPeriod units='seconds'>0.0715</BaryPeriod>
<Dm>-0.25</Dm><Snr>9.5</Snr><Width>-1.000000</Width></BestValues>
<SubBands nBins='128' nSub='16' format='02X'>{lines(plane)}</SubBands>
<Profile nBins='128' format='02X' min='1.4' max='1.5'>{lines(profile)}</Profile>
<SnrBlock><DmIndex nVals='{len(dms)}'>{chr(10).join(f"{dm:.4f}" for dm in dms)}</DmIndex>
<DataBlock format='02X'>{lines(block)}</DataBlock></SnrBlock></Section>"""


def phcx(profile: np.ndarray = PROFILE, curve: np.ndarray = CURVE) -> bytes:
    """A PHCX as HTRU's medium latitudes have them: a profile and a block that are not to be taken, too."""
    search = section("FFT", profile[::-1] // 2, np.arange(1196) * 0.8, curve)
    fold = section("FFT-pdmpd", profile, np.arange(66) / 10, DRAW.integers(0, 256, 66 * 66))
    return f"""<?xml version='1.0'?>
<phcf><head><SourceID>G335.8+10.4_01, "north"</SourceID><Telescope>parkes</Telescope>
<Coordinate><RA units='degrees'>237.657000</RA><Dec units='degrees'>-40.782861</Dec></Coordinate>
<MjdStart>55212.116436</MjdStart></head>
{search}{fold}</phcf>""".encode()


def cells(npart: int = 3, nsub: int = 8, proflen: int = 50) -> np.ndarray:
    """A pulse that drifts through the sub-bands, in noise: (parts, sub-bands, bins)."""
    phase = (np.arange(proflen) - 3.0 * np.arange(nsub)[:, None]) % proflen
    return (
        50 + 9 * np.exp(-0.5 * ((phase - 20) / 2) ** 2) + DRAW.normal(0, 1, (npart, nsub, proflen))
    )


CELLS = cells()


def pfd(
    profiles: np.ndarray = CELLS, order: str = "<", variance: float = 2.0, position: tuple = (), counts=(),
    dms=(50.0, 150.0, 250.0, 400.0), best: float = 243.3, low: float = 1400.0, width: float = 1.5,
    bary: float = 0.0, topo: float = 0.25, frequency: float = 4.0,
) -> bytes:  # fmt: skip
    """A PFD as prepfold writes it; `counts` are (which, value) that its header lies about."""
    npart, nsub, proflen = profiles.shape
    header = [len(dms), 3, 2, nsub, npart, proflen, nsub * 16, 1, 2, 1, 1, 1]
    for which, value in counts:
        header[which] = value
    stats = np.zeros((npart, nsub, 7))
    stats[:, :, 0], stats[:, :, 5], stats[:, :, 6] = math.nan, variance, math.inf
    out = [struct.pack(f"{order}12i", *header)]
    for text in (b"beam 1, north.fil", b"PSR_J\xe9", b"GBT", b"a.ps/CPS"):
        out += [struct.pack(f"{order}i", len(text)), text]
    out += [word.ljust(16, b"\0") for word in position]
    out.append(struct.pack(f"{order}9d", 1e-4, 0, 1, 55000.5, 0, 1e-5, low, width, best))
    for first in (topo, bary, frequency):
        out.append(struct.pack(f"{order}2f3d", 1, 0, first, 0, 0))
    numbers = [np.zeros(7), np.array(dms), np.ones(5), profiles.ravel(), stats.ravel()]
    out += [values.astype(f"{order}f8").tobytes() for values in numbers]
    return b"".join(out)


def measured(content: bytes) -> np.ndarray:
    return folds.features(folds.read(content))


# -- what the features are ------------------------------------------------------------


def moments(values) -> list[float]:
    """As the definition has them, in plain Python."""
    values = [float(value) for value in values]
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / len(values))
    third, fourth = (math.fsum((x - mean) ** n for x in values) / len(values) for n in (3, 4))
    return [mean, std, third / std**3, fourth / std**4 - 3]


def by_hand(profiles: np.ndarray, dms, best, low, width, frequency, variance) -> list[float]:
    """A PFD's features as the definition has them, in loops."""
    npart, nsub, bins = profiles.shape
    band = width * nsub * 16 / nsub
    tops = [low + band - width + j * band for j in range(nsub)]
    total = profiles.sum(axis=0)

    def summed(dm: float) -> list[float]:
        late = [dm / (0.000241 * top**2) for top in tops]
        shifts = [math.floor((t - late[-1]) * frequency * bins + 0.5) for t in late]
        return [sum(total[j][(b + shifts[j]) % bins] for j in range(nsub)) for b in range(bins)]

    mean, var = profiles.sum() / bins, variance * npart * nsub
    curve = [
        sum((s - mean) ** 2 for s in summed(dms[0] + (dms[-1] - dms[0]) * trial / 99)) / var / (bins - 1)
        for trial in range(100)
    ]  # fmt: skip
    profile = summed(best)
    least, most = min(profile), max(profile)
    return moments([(x - least) / (most - least) * 255 for x in profile]) + moments(curve)


@needs_given
def test_the_given_files_have_the_given_values():
    for row in csv.DictReader((GIVEN / "expected.csv").open()):
        content = (GIVEN / row["file"]).read_bytes()
        if row["reason"]:
            with pytest.raises(Unreadable):
                folds.read(content)
            continue
        found = folds.read(content)
        assert found.kind == row["format"]
        wanted = [float(row[name]) for name in FEATURES]
        np.testing.assert_allclose(folds.features(found), wanted, rtol=1e-6, atol=1e-9)
        assert found.period == pytest.approx(float(row["period_s"]), rel=1e-12)
        assert found.dm == pytest.approx(float(row["dm"]), rel=1e-12)
        assert found.snr == (float(row["snr"]) if row["snr"] else None)
        for ours, theirs in ((found.ra, row["ra"]), (found.dec, row["dec"])):
            assert ours == theirs or float(ours) == float(theirs)


def test_a_phcx_is_measured_by_its_refined_profile_and_the_curve_of_its_search():
    found = folds.read(phcx())
    np.testing.assert_allclose(folds.features(found), moments(PROFILE) + moments(CURVE), rtol=1e-12)
    assert (found.period, found.dm, found.snr, found.mjd) == (0.0715, -0.25, 9.5, 55212.116436)
    assert (found.ra, found.dec, found.telescope) == ("237.657000", "-40.782861", "parkes")
    assert found.source == 'G335.8+10.4_01, "north"'
    assert found.sub_bands.shape == (16, 128)
    assert found.sub_integrations is None
    assert found.dms[1] == 0.8


def test_a_pfd_is_measured_as_the_definition_says():
    wanted = by_hand(CELLS, (50.0, 400.0), 243.3, 1400.0, 1.5, 4.0, 2.0)
    found = folds.read(pfd(position=(b"17:48:04.8480", b"-24:46:46.2000")))
    np.testing.assert_allclose(folds.features(found), wanted, rtol=1e-9)
    assert (found.ra, found.dec) == ("17:48:04.8480", "-24:46:46.2000")
    assert (found.source, found.telescope, found.mjd, found.dm) == ("PSR_Jé", "GBT", 55000.5, 243.3)
    for plane in (found.sub_bands, found.sub_integrations):
        summed = plane.sum(axis=0)
        np.testing.assert_allclose(np.corrcoef(summed, found.profile)[0, 1], 1)


def test_dms_may_run_downwards_and_profiles_be_short():
    short = cells(proflen=8)
    dms = (400.0, 250.0, 50.0)
    wanted = by_hand(short, dms, 243.3, 1400.0, 1.5, 4.0, 2.0)
    np.testing.assert_allclose(measured(pfd(short, dms=dms)), wanted, rtol=1e-9)


@pytest.mark.parametrize("position", [(), (b"Unknown", b"Unknown"), (b"\xff\xfe", b"")])
def test_a_pfds_size_says_whether_it_has_a_position(position):
    np.testing.assert_array_equal(measured(pfd(position=position)), measured(pfd()))


@pytest.mark.parametrize(
    ("bary", "topo", "frequency", "period"),
    [(0.5, 0.25, 4.0, 0.5), (0.0, 0.25, 4.0, 0.25), (0.0, 0.0, 4.0, 0.25), (math.nan, 0.0, 8.0, 0.125)],
)  # fmt: skip
def test_the_period_is_the_barycentric_one_where_there_is_one(bary, topo, frequency, period):
    assert folds.read(pfd(bary=bary, topo=topo, frequency=frequency)).period == period


def test_what_is_only_shown_may_be_missing_or_no_number():
    content = changed(b"<Snr>9.5", b"<Snr>NaN", True)
    content = content.replace(b"<BaryPeriod units='seconds'>0.0715", b"<BaryPeriod>-1")
    content = content.replace(b"<MjdStart>55212.116436</MjdStart>", b"")
    band = content[content.rindex(b"<SubBands") : content.rindex(b"</SubBands>")]
    found = folds.read(content.replace(band, b"<SubBands>"))
    assert (found.snr, found.mjd, found.period, found.sub_bands) == (None, None, 0.0714, None)
    np.testing.assert_array_equal(folds.features(found), measured(phcx()))


# -- what must not change them --------------------------------------------------------


@few
@given(st.integers(0, 127))
def test_a_turn_of_the_profile_leaves_its_features(turn):
    np.testing.assert_allclose(
        measured(phcx(np.roll(PROFILE, turn))), measured(phcx()), rtol=1e-12, atol=1e-12
    )


@few
@given(st.integers(0, 49))
def test_a_turn_of_all_sub_bands_leaves_all_features(turn):
    turned = pfd(np.roll(CELLS, turn, axis=2))
    np.testing.assert_allclose(measured(turned), measured(pfd()), rtol=1e-9)


@few
@given(st.floats(1e-6, 1e6))
def test_the_receivers_gain_leaves_all_features(gain):
    louder = pfd(CELLS * gain, variance=2.0 * gain**2)
    np.testing.assert_allclose(measured(louder), measured(pfd()), rtol=1e-6)


@pytest.mark.parametrize("position", [(), (b"17:48:04.8480", b"-24:46:46.2000")])
def test_the_byte_order_changes_no_bit(position):
    little, big = (folds.read(pfd(order=order, position=position)) for order in "<>")
    np.testing.assert_array_equal(folds.features(little), folds.features(big))
    for name in ("period", "dm", "ra", "dec", "mjd", "telescope", "source"):
        assert getattr(little, name) == getattr(big, name)


@pytest.mark.parametrize("content", [phcx(), pfd()], ids=["phcx", "pfd"])
def test_compression_changes_no_bit(content):
    members = gzip.compress(content[:5000]) + gzip.compress(b"") + gzip.compress(content[5000:])
    for packed in (gzip.compress(content), members):
        np.testing.assert_array_equal(measured(packed), measured(content))


def test_lower_case_digits_other_line_ends_and_other_sections_change_no_bit():
    usual = phcx()
    head, fold = usual.split(b"<Section name='FFT-pdmpd'>")
    head, search = head.split(b"<Section name='FFT'>")
    exchanged = b"".join([
        head, b"<Section name='PDMP'/><Section name='FFT-pdmpd'>", fold.removesuffix(b"</phcf>"),
        b"<Section name='FFT'>", search, b"</phcf>",
    ])  # fmt: skip
    small = usual.replace(b"02X", b"02x")
    for digits in (lines(PROFILE), lines(CURVE)):
        small = small.replace(digits.encode(), digits.lower().encode())
    for other in (exchanged, small, usual.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + usual):
        np.testing.assert_array_equal(measured(other), measured(usual))


# -- what is refused ------------------------------------------------------------------


def changed(old: bytes, new: bytes, last: bool = False) -> bytes:
    """A PHCX with the first (or last) occurrence of something exchanged."""
    content = phcx()
    assert old in content
    if last:
        before, _, after = content.rpartition(old)
        return before + new + after
    return content.replace(old, new, 1)


def doctype(declared: str, body: str) -> bytes:
    document = phcx().decode().replace("parkes", body)
    return document.replace("<phcf>", f"<!DOCTYPE phcf [{declared}]><phcf>", 1).encode()


LAUGHS = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10))
FLAT = np.full((3, 8, 50), 7.0)
NAN, INFINITE = CELLS.copy(), CELLS.copy()
NAN[1, 2, 3], INFINITE[1, 2, 3] = math.nan, math.inf
STEP = np.r_[np.zeros(60), np.ones(68)]
HALF = lines(PROFILE).encode()[:100]
REFUSED = {
    "nothing": (b"", "empty"),
    "nothing, packed": (gzip.compress(b""), "empty"),
    "gzip cut": (gzip.compress(phcx())[:-9], "gzip is cut"),
    "gzip cut in its head": (gzip.compress(phcx())[:7], "gzip is cut"),
    "gzip damaged": (gzip.compress(phcx())[:-8] + b"\0" * 8, "gzip is damaged"),
    "gzip and something": (gzip.compress(phcx()) + b"more", "gzip is damaged"),
    "text": (b"Candidate = 7\n" * 20, "neither PHCX nor PFD"),
    "short text": (b"Candidate", "neither PHCX nor PFD"),
    "NULs": (bytes(4096), "neither PHCX nor PFD"),
    "a page": (b"<!doctype html><p>Not found</p>", "damaged"),
    "xml too large": (phcx() + b" " * 2**24, "XML of more than 16777216 bytes"),
    "xml too large, packed": (gzip.compress(phcx() + b" " * 2**24), "more than 16777216 bytes"),
    "doctype": (phcx().replace(b"<phcf>", b"<!DOCTYPE phcf><phcf>"), "DOCTYPE"),
    "external entity": (
        doctype("<!ENTITY x SYSTEM 'file:///etc/passwd'>", "&x;"), "DOCTYPE"
    ),
    "external dtd": (
        phcx().replace(b"<phcf>", b"<!DOCTYPE phcf SYSTEM 'http://127.0.0.1:9/x'><phcf>"), "DOCTYPE"
    ),
    "billion laughs": (doctype(f"<!ENTITY l0 'ha'>{LAUGHS}", "&l9;"), "DOCTYPE"),
    "quadratic": (doctype(f"<!ENTITY a '{'a' * 50_000}'>", "&a;" * 50_000), "DOCTYPE"),
    "unknown entity": (phcx().replace(b"parkes", b"&parkes;"), "damaged or cut"),
    "nested": (b"<phcf>" + b"<a>" * 200_000, "nested deeper"),
    "many elements": (b"<phcf>" + b"<a/>" * 4_000_000, "more than 10000 elements"),
    "many attributes": (
        b"<phcf " + b"".join(b"a%d='>' " % n for n in range(1_000_000)) + b"/>", "longer than"
    ),
    "long comment": (changed(b"<head>", b"<!--" + b"x" * 9_000_000 + b"--><head>"), "longer than"),
    "other root": (phcx().replace(b"phcf>", b"html>"), "'html', not 'phcf'"),
    "two roots": (phcx() + phcx(), "damaged or cut"),
    "other layout": (phcx().replace(b"'FFT-pdmpd'", b"'PDMP'"), "no section 'FFT-pdmpd'.*'PDMP'"),
    "no search": (phcx().replace(b"'FFT'", b"'PDMP'"), "no section 'FFT' "),
    "two searches": (phcx().replace(b"'FFT-pdmpd'", b"'FFT'"), "FFT"),
    "no profile": (phcx().replace(b"Profile", b"Other"), "holds no <Profile>"),
    "no curve": (phcx().replace(b"DataBlock", b"Other"), "holds no <DataBlock>"),
    "no block of curves": (phcx().replace(b"SnrBlock", b"Other"), "holds no <SnrBlock>"),
    "odd digits": (changed(HALF, HALF[:-1], True), "255 digits, not 256"),
    "bad digits": (changed(HALF, HALF[:-1] + b"G", True), "no hexadecimal digit"),
    "digits of another script": (changed(HALF, HALF[:-1] + "\u0661".encode(), True), "hexadecimal"),
    "few digits": (changed(HALF, HALF[:-2], True), "254 digits, not 256"),
    "many digits": (changed(HALF, HALF + b"00", True), "258 digits, not 256"),
    "64 bins": (phcx(PROFILE[::2]), "128 digits, not 256"),
    "66 DMs": (phcx(curve=CURVE[:66]), "132 digits, not 2392"),
    "other digits": (changed(b"02X' min", b"04X' min", True), "not written as hexadecimal bytes"),
    "constant profile": (phcx(np.full(128, 9)), "profile is constant"),
    "constant curve": (phcx(curve=np.zeros(1196)), "DM curve is constant"),
    "absurd DM": (changed(b"<Dm>-0.25", b"<Dm>1e30", True), "no DM is beyond"),
    "DM that is none": (changed(b"<Dm>-0.25", b"<Dm>nan", True), "no finite number: 'nan'"),
    "sub-bands cut": (changed(b"nSub='16'", b"nSub='17'", True), "4096 digits, not 4352"),
    "sub-bands without a number": (changed(b"nSub='16'", b"", True), "how many rows"),
    "DM axis with NaN": (changed(b"0.8000", b"nan"), "does not hold 1196 DMs"),
    "DM axis with one less": (changed(b"0.8000", b""), "does not hold 1196 DMs"),
    "DM axis beyond measure": (changed(b"0.8000", b"10000.1"), "does not hold 1196 DMs"),
    "pfd longer": (pfd() + b"\0", "announces"),
    "pfd longer by 32": (pfd(position=(b"", b"")) + bytes(32), "announces"),
    "pfd counts overflow": (pfd(counts=[(3, 99_999), (4, 99_999), (5, 1 << 20)]), "announces 838"),
    "pfd names without end": (
        struct.pack("<12i", 4, 3, 2, 8, 3, 50, 128, 1, 2, 1, 1, 1) + struct.pack("<i", 1 << 30), "name"
    ),
    "pfd names of less than nothing": (
        struct.pack("<12i", 4, 3, 2, 8, 3, 50, 128, 1, 2, 1, 1, 1) + struct.pack("<i", -1) * 99, "name"
    ),
    "pfd flat": (pfd(FLAT), "profile is constant"),
    "pfd without a dispersed part": (
        pfd(np.tile(STEP, (3, 8, 1)), dms=(0.0, 1e-9), best=0.0), "curve is constant"
    ),
    "pfd variance 0": (pfd(variance=0.0), "variance"),
    "pfd variance negative": (pfd(variance=-1.0), "variance"),
    "pfd variance NaN": (pfd(variance=math.nan), "variance"),
    "pfd variance infinite": (pfd(variance=math.inf), "variance"),
    "pfd profile NaN": (pfd(NAN), "profiles"),
    "pfd profile infinite": (pfd(INFINITE), "profiles"),
    "pfd profile too large": (pfd(CELLS * 1e306), "finite|too large"),
    "pfd moments too large": (pfd(CELLS * 1e160), "too large"),
    "pfd DM NaN": (pfd(dms=(10.0, math.nan, 14.0)), "DM in it is not finite"),
    "pfd best DM NaN": (pfd(best=math.nan), "DM in it is not finite"),
    "pfd best DM infinite": (pfd(best=-math.inf), "DM in it is not finite"),
    "pfd best DM absurd": (pfd(best=1e300), "no DM is beyond"),
    "pfd DM axis absurd": (pfd(dms=(10.0, 1e9)), "no DM is beyond"),
    "pfd no DMs": (pfd(dms=()), "no DM axis"),
    "pfd one DM": (pfd(dms=(10.0,)), "no DM axis"),
    "pfd the same DM": (pfd(dms=(10.0, 12.0, 10.0)), "single DM"),
    "pfd one sub-band": (pfd(cells(nsub=1)), "one sub-band"),
    "pfd one bin": (pfd(cells(proflen=1)), "profile is constant"),
    "pfd frequency 0": (pfd(low=0.0, width=0.0), "frequencies"),
    "pfd frequency negative": (pfd(low=-1400.0), "frequencies"),
    "pfd frequency NaN": (pfd(low=math.nan), "frequencies"),
    "pfd frequency tiny": (pfd(low=1e-160, width=1e-170), "delays"),
    "pfd channels NaN": (pfd(width=math.nan), "frequencies"),
    "pfd fold frequency 0": (pfd(frequency=0.0), "fold frequency"),
    "pfd fold frequency negative": (pfd(frequency=-4.0), "fold frequency"),
    "pfd fold frequency NaN": (pfd(frequency=math.nan), "fold frequency"),
    "pfd fold frequency infinite": (pfd(frequency=math.inf), "fold frequency"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_features_is_refused_with_a_reason(what):
    content, reason = REFUSED[what]
    with pytest.raises(Unreadable, match=reason):
        measured(content)


@pytest.mark.parametrize("which", range(7))
@pytest.mark.parametrize("value", [-1, -(2**31), (1 << 20) + 1, 2**31 - 1])
@pytest.mark.parametrize("order", "<>")
def test_counts_are_believed_only_where_the_file_is_as_large(which, value, order):
    with pytest.raises(Unreadable):
        folds.read(pfd(order=order, counts=[(which, value)]))


WHOLE = [phcx(), gzip.compress(phcx()), pfd(), pfd(order=">", position=(b"Unknown", b""))]


@few
@given(st.sampled_from(WHOLE), st.floats(0, 1, exclude_max=True))
def test_any_cut_of_a_file_is_refused(content, share):
    with pytest.raises(Unreadable):
        folds.read(content[: int(share * len(content))])


@pytest.mark.fuzz
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=8),
    st.sampled_from([300, 1 << 20]),
)
def test_any_damage_is_refused_or_leaves_features(content, flips, within):
    """Within the header, or anywhere."""
    damaged = bytearray(content)
    for place, value in flips:
        damaged[place % min(within, len(damaged))] = value
    try:
        assert np.isfinite(measured(bytes(damaged))).all()
    except Unreadable as error:
        assert str(error)


@pytest.mark.fuzz
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x1f\x8b", b"<phcf>", pfd()[:48]]))
def test_anything_else_is_refused(content, start):
    with pytest.raises(Unreadable):
        folds.read(start + content)


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.pfd")
    with pytest.raises(Unreadable, match="no file"):
        folds.read(tmp_path / "pipe.pfd")
    with (tmp_path / "large.pfd").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Unreadable, match="larger than"):
        folds.read(tmp_path / "large.pfd")
    with pytest.raises(FileNotFoundError):
        folds.read(tmp_path / "none.pfd")


BOMBS = {
    "inflated": gzip.compress(bytes(1 << 27), 1) * 10,
    "blank": gzip.compress(b"<phcf>" + b" " * (1 << 24), 1),
    "members": gzip.compress(b"") * 500_000,
    "axis": gzip.compress(changed(b"0.0000\n", b"0.0000" + b" " * 15_000_000)),
    "number": gzip.compress(changed(b"<Dm>-0.25", b"<Dm>" + b"1" * 15_000_000, True)),
    **{name: REFUSED[name][0] for name in (
        "nested", "many elements", "many attributes", "long comment", "billion laughs", "quadratic",
        "pfd counts overflow",
    )},
}  # fmt: skip
WORDY = changed(b">parkes<", b">" + "\u00b5 ".encode() * 5_000_000 + b"<")
LARGEST = {
    "bins": (1, 2, 1 << 19), "sub-bands": (1, 8192, 128), "parts": (1 << 16, 2, 25), "cells": (8, 1024, 1000)
}  # fmt: skip
MEASURE = r"""
import re, sys, time
from pathlib import Path
from candidates import folds
def peak(): return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024
before = peak()
for place in sys.argv[1:]:
    began = time.process_time()
    try:
        folds.features(folds.read(Path(place)))
        said = "features"
    except folds.Unreadable as error:
        said = str(error)
    print(f"{time.process_time() - began:.3f} {peak() - before} {Path(place).name}: {said}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read where Linux has it")
def test_no_file_takes_much_memory_or_time(tmp_path):
    """Bombs, and the largest files that are whole: seconds of a processor, MiB above what Python takes."""
    for name, content in BOMBS.items():
        (tmp_path / f"{name}.phcx").write_bytes(content)
    (tmp_path / "wordy.pfd").write_bytes(gzip.compress(WORDY))
    for name, (npart, nsub, proflen) in LARGEST.items():
        rows = np.tile(DRAW.random((1, nsub, proflen)), (npart, 1, 1))
        (tmp_path / f"{name}.pfd").write_bytes(pfd(rows))
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, *sorted(map(str, tmp_path.iterdir()))],
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():
        seconds, mebibytes, said = line.split(" ", 2)
        assert float(seconds) < 3, line  # a machine that does other things, too
        assert int(mebibytes) < 150, line
        assert said.endswith("features") == (".pfd" in said), line
