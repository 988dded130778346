"""The candidate simulator."""

import numpy as np
import pytest
import yaml
from conftest import ROOT, needs_htru2, real_htru2

import fetch
from candidates import htru2, simulator
from common.errors import BadParams
from common.params import load_params
from simulate import score_on


def test_the_trials_are_the_surveys():
    """Numbers read off a stored HTRU candidate."""
    trials = simulator.dm_trials()
    assert len(trials) == 1196
    assert trials[0] == 0
    assert trials[-1] == pytest.approx(998.13, abs=0.01)
    steps = np.diff(trials)
    assert steps.min() == pytest.approx(0.18, abs=0.01)
    assert steps.max() == pytest.approx(2.9, abs=0.01)


def test_moments_agree_with_their_definition():
    from scipy.stats import kurtosis, skew

    levels = np.random.default_rng(0).integers(0, 256, (5, 128)).astype(float)
    expected = [levels.mean(1), levels.std(1), skew(levels, axis=1), kurtosis(levels, axis=1)]
    assert np.allclose(simulator.moments(levels), np.transpose(expected))


def test_every_simulated_candidate_passes_the_checks_of_a_real_one():
    features, classes = simulator.simulate(300, 700, seed=3)
    htru2.check(np.column_stack([features, classes]), "simulated")
    # Means of 128 and of 1196 eight-bit integers.
    for column, count in ((0, 128), (4, 1196)):
        total = features[:, column] * count
        assert np.allclose(total, np.rint(total), atol=1e-3)


def test_the_same_seed_gives_the_same_candidates_and_another_seed_others():
    first, again, other = (simulator.simulate(50, 50, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_accidents_change_what_they_should():
    """RFI fills the DM curve, a gain loss dims pulsars, a lower band narrows their DM hump."""
    usual = _by_class(simulator.SURVEY)
    storm, loss, receiver = (
        _by_class(simulator.ACCIDENTS[name]) for name in ("rfi_storm", "gain_loss", "new_receiver")
    )
    assert storm[0][:, 4].mean() > 1.3 * usual[0][:, 4].mean()
    assert np.median(loss[1][:, 2]) < np.median(usual[1][:, 2])
    assert np.median(receiver[1][:, 4]) < 0.8 * np.median(usual[1][:, 4])


LOFAR = {
    "centre_ghz": 0.135, "band_mhz": 32, "channels": 2592, "sample_us": 492, "integration_s": 3600,
    "dm_trials": 4000, "snr_threshold": 5, "rfi_share": 0.5,
}  # fmt: skip


def test_the_survey_of_params_yaml_is_the_simulators():
    assert simulator.Survey(**load_params()["survey"]) == simulator.SURVEY


def test_another_survey_has_its_own_trials_and_candidates():
    """At a tenth of the frequency a DM is told from its neighbour a thousand times as finely."""
    survey = simulator.Survey(**LOFAR)
    trials, ours = simulator.dm_trials(survey), simulator.dm_trials()
    assert len(trials) == 4000
    assert trials[1] < ours[1] / 10
    params = {"simulated_candidates": 400, "simulated_pulsars": 150, "seed": 7}
    theirs = fetch.simulated(params, LOFAR)
    htru2.check(theirs, "LOFAR")
    assert np.array_equal(theirs, fetch.simulated(params, LOFAR))
    assert not np.array_equal(theirs, fetch.simulated(params, {}))
    total = theirs[:, 4] * 4000
    assert np.allclose(total, np.rint(total), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "value"), [("band_mhz", 0), ("channels", 1.5), ("rfi_share", 2), ("beams", 13)]
)
def test_a_survey_that_cannot_be_is_refused_by_the_name_of_its_key(tmp_path, name, value):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["survey"][name] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(BadParams, match=f"survey.{name}"):
        load_params(tmp_path / "params.yaml")


def _by_class(survey):
    features, classes = simulator.simulate(1000, 2000, 5, survey)
    return features[classes == 0], features[classes == 1]


@needs_htru2
def test_a_model_trained_on_simulated_candidates_knows_real_ones():
    score = score_on(real_htru2())
    assert score["roc_auc"] >= 0.96
    assert score["average_precision"] >= 0.80
