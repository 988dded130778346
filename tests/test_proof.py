"""Each accident is found by the monitor that is there for it."""

import numpy as np
import pytest

import proof
from measure import sky

PLAN = proof.Plan((1000,), 1, 1, 3000, 1500, "logistic")
FINDERS = {
    "gain_loss": "model-quality",
    "rfi_storm": "data-quality",
    "missing": "data-quality",
    "swapped": "data-quality",
    "pulsar_share": "bias",
    "labels": "model-quality",
    "new_receiver": "model-quality",
}


def test_every_accident_has_a_monitor_that_finds_it():
    assert FINDERS.keys() == sky.HAPPENS.keys()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("orchestrator.monitors.chance.DRAWN", 20)
        yield proof.Proof(PLAN, list(sky.HAPPENS), tmp_path_factory.mktemp("proof"))


def said(made, name):
    """Of each monitor, what it says of one run's window."""
    ((*verdicts,),) = made.run(name, 0)[:, :, 0]
    return dict(zip([monitor.name for monitor in made.monitors], verdicts, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("accident", "finder"), FINDERS.items())
def test_an_accident_is_found_in_a_thousand_candidates(made, accident, finder):
    assert said(made, accident)[finder] == proof.ALARM


def test_an_undisturbed_window_is_not_complained_of(made):
    assert set(said(made, proof.UNDISTURBED).values()) == {proof.QUIET}


def test_labels_that_contradict_are_nothing_to_the_monitors_that_see_none(made):
    found = said(made, "labels")
    assert (found["data-quality"], found["explainability"]) == (proof.QUIET, proof.QUIET)


@pytest.mark.parametrize(
    ("runs", "false", "wanted"),
    [
        ([[0, 1, 1]], [0, 0, 0], 100),
        ([[1, 0, 1]], [0, 0, 0], 300),  # what it says of the first was chance
        ([[1, 1, 1]], [0.5, 0, 0], 100),  # where half of all windows alarm, an alarm is no finding
        ([[0, 0, 0], [0, 0, 1], [0, 1, 1]], [0, 0, 0], 300),
        ([[1, 1, 0]], [0, 0, 0], None),
        ([[2, 2, 2]], [0, 0, 0], "refused"),
    ],
)
def test_found_is_the_first_size_from_which_on_all_windows_alarm(runs, false, wanted):
    assert proof.found_after(np.array(runs), (30, 100, 300), false) == wanted
