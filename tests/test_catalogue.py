"""Known pulsars: which one a candidate is, or a harmonic of, by place, period and DM."""

import csv

import pytest
from test_candidate_files import phcx
from test_rank import as_list

import rank
from candidates import sky
from candidates.catalogue import COLUMNS, Catalogue, Tolerances
from common.errors import BadData
from scoring import ranking

TABLE = """#;JNAME;RAJD;DECJD;P0;F0;DM;BINARY;
;;(deg);(deg);(s);(Hz);(cm^-3 pc);(type);
1;J1550-4046;237.657;-40.78;0.0715;13.98601;1.2;*;
2;J1550-4047;237.700;-40.80;0.14303;6.991540;400;*;
3;J1748-2446A;267.0202;-24.7795;*;86.48163;242.15;BT;
4;J0000+0000;*;*;1.5;*;10;*;
"""
DATABASE = """#CATALOGUE 2.1
PSRB     B1534-40            a
PSRJ     J1550-4046          a
RAJ      15:50:37.68         2   a
DECJ     -40:46:48
F0       13.98601398601      3   b
DM       1.2                 1   b
@-----------------------------------------
PSRJ     J1748-2446A
ELONG    267.18475
ELAT     -1.35787
P0       0.01156315
DM       242.15
BINARY   BT
@-----------------------------------------
PSRJ     J0000+0000
@-----------------------------------------
"""
HERE = (237.657, -40.782861)
TERZAN = (267.0202, -24.7795)
USUAL = Tolerances()


@pytest.fixture(params=[TABLE, DATABASE], ids=["table", "database"])
def catalogue(request, tmp_path) -> Catalogue:
    (tmp_path / "psrcat").write_text(request.param)
    return Catalogue(tmp_path / "psrcat")


def test_a_pulsar_is_found_by_either_file(catalogue):
    assert catalogue.left_out == 1
    name, separation, ratio, difference = catalogue.match(HERE, 0.0715, 1.0, USUAL)
    assert (name, ratio) == ("J1550-4046", "1")
    assert separation == pytest.approx(0.00286, abs=2e-4)
    assert difference == pytest.approx(-0.2)
    name, *_ = catalogue.match(TERZAN, 0.011563058502474122, 242.342, USUAL)
    assert name == "J1748-2446A"


@pytest.mark.parametrize(
    ("times", "ratio"),
    [(2, "2"), (1 / 16, "1/16"), (16, "16"), (1.5, "3/2"), (2 / 3, "2/3"), (13 / 7, "13/7"), (17, None),
     (1.0005, None)],
)  # fmt: skip
def test_harmonics_are_found_and_what_is_none_is_not(catalogue, times, ratio):
    found = catalogue.match(HERE, 0.0715 * times, 1.0, USUAL)
    assert (found and found[2]) == ratio


def test_an_orbit_may_change_a_period_more(catalogue):
    assert catalogue.match(TERZAN, 0.01156315 * 1.0008, 242.342, USUAL)
    assert not catalogue.match(HERE, 0.0715 * 1.0008, 1.2, USUAL)


def test_place_and_dm_must_agree_where_they_are_known(catalogue):
    assert not catalogue.match((HERE[0] + 1, HERE[1]), 0.0715, 1.2, USUAL)
    assert catalogue.match((HERE[0] + 1, HERE[1]), 0.0715, 1.2, Tolerances(radius=2))
    assert not catalogue.match(HERE, 0.0715, 20.0, USUAL)
    assert catalogue.match(HERE, 0.0715, 20.0, Tolerances(dm=30))
    assert catalogue.match(HERE, 0.0715, None, USUAL)[3] is None


def test_ecliptic_places_are_turned_by_the_tilt_of_the_earth():
    assert sky.of_ecliptic(90, 0) == pytest.approx((90, 23.43928), abs=1e-5)
    assert sky.of_ecliptic(123, 90) == pytest.approx((270, 66.56072), abs=1e-5)
    assert sky.of_ecliptic(180, 0) == pytest.approx((180, 0), abs=1e-9)


def test_places_meet_across_the_first_meridian(tmp_path):
    (tmp_path / "psrcat").write_text("#;NAME;RAJ;DECJ;P0;DM;\n1;B0000;23:59:59;00:00:00;1.0;*;\n")
    assert Catalogue(tmp_path / "psrcat").match((0.01, 0.0), 1.0, 7.0, USUAL)


def test_a_match_is_a_column_and_never_a_deletion(tmp_path):
    (tmp_path / "psrcat").write_text(TABLE)
    (tmp_path / "a.phcx").write_bytes(phcx())
    (tmp_path / "b.phcx").write_bytes(phcx().replace(b"0.0715", b"0.0915"))
    (tmp_path / "c.phcx").write_bytes(b"")
    rows = ranking.measure([str(tmp_path / name) for name in ("a.phcx", "b.phcx", "c.phcx")])
    catalogue = Catalogue(tmp_path / "psrcat")
    content = as_list(rows, COLUMNS, lambda row: rank.known(catalogue, USUAL, row)).decode()
    head, *_ = content.splitlines()
    assert head.split(",")[-5:] == [*COLUMNS, "reason"]
    known = [row["known_pulsar"] for row in csv.DictReader(content.splitlines())]
    assert known == ["J1550-4046", "", ""]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "#;JNAME;RAJD;\n1;J1;7;\n", "\0\xff"])
def test_what_is_no_catalogue_is_refused(tmp_path, text):
    (tmp_path / "psrcat").write_text(text)
    with pytest.raises(BadData, match="no pulsar"):
        Catalogue(tmp_path / "psrcat")
    with pytest.raises(BadData, match="No such file"):
        Catalogue(tmp_path / "none")
