"""The torture itself: it repeats itself, knows a wrong answer, and a short one finds nothing wrong."""

import json
from itertools import islice

import pytest

import torture
from ordeal.crowd import Ledger, version_of
from ordeal.faults import FAULTS


def test_a_seed_gives_the_same_faults_again_and_every_one_of_them():
    names = list(FAULTS)
    once, again, other = (list(islice(torture.sequence(s, names), 60)) for s in (7, 7, 8))
    assert once == again != other
    assert set(once[: len(names)]) == set(names)


@pytest.mark.parametrize(
    ("answer", "version"),
    [("3,79193", 3), ("3,79194", None), ("4,79193", None), ("", None), ("three,79193", None)],
)
def test_an_answer_is_right_to_the_last_digit_or_wrong(answer, version):
    assert version_of("10", answer) == version


def test_what_nobody_had_to_expect_is_a_fault_and_the_like_of_it_is_told_once():
    ledger = Ledger()
    ledger.expect("s3")
    ledger.unanswered("s3", "503", frozenset())
    assert ledger.wrong == []
    for port in (1, 2):
        ledger.unanswered("predict", f"refused at port {port}", frozenset())
    ledger.calm()
    ledger.unanswered("s3", "503", frozenset())
    assert len(ledger.wrong) == 2 and ledger.wrong[0].endswith("(× 2)")


@pytest.mark.slow
def test_a_short_torture_finds_nothing_wrong(project):
    done = project.script("dev/torture", "--seconds", "15", "--seed", "1", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["seed"] == 1 and told["wrong"] == []
    assert told["rounds"]
    assert told["figures"]["records captured"] > 50
