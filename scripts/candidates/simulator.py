"""Candidates from the physics of a survey: HTRU2's eight numbers.

Every candidate is a folded profile of 128 bins and a curve of S/N over the survey's DM
trials, both 8-bit integers, as the HTRU pipeline stored them; the features are the
moments of those integers. The survey is that of params.yaml, HTRU's being the default.

Units: DM in pc cm^-3, periods and widths in ms, frequencies as named.
"""

from dataclasses import dataclass, replace

import numpy as np

BINS = 128
MAX_LEVEL = 255  # 8 bits
CHUNK = 2048 * 1196  # trials at a time: bounds the memory of the curves


@dataclass(frozen=True)
class Survey:
    """The receiver and the search: Parkes multibeam, HTRU medium-latitude survey."""

    centre_ghz: float = 1.382
    band_mhz: float = 400.0
    channels: int = 1024
    sample_us: float = 64.0
    integration_s: float = 540.0
    dm_trials: int = 1196
    snr_threshold: float = 4.0  # below which a trial is not recorded
    gain: float = 1.0  # of the receiver; the sky's signals scale with it
    rfi_share: float = 0.38  # of the candidates that are not pulsars
    searched_as: "Survey | None" = (
        None  # whose DM trials they are, where the receiver became another
    )


@dataclass(frozen=True)
class Population:
    """What the sky and the ground send: medians and spreads of what is drawn at random.

    Log-normal spreads are in natural logarithms.
    """

    period_ms: tuple[float, float] = (250.0, 1.4)
    dm: tuple[float, float] = (180.0, 0.5)
    duty: tuple[float, float] = (0.03, 0.5)  # width at half maximum / period
    pulse_snr: tuple[float, float] = (6.7, 0.87)  # least detectable, exponent of N(>S)
    noise_snr: tuple[float, float] = (6.2, 1.15)  # chance peak that made noise a candidate
    noise_width: tuple[float, float] = (0.063, 0.68)
    chance_trials: tuple[float, float] = (10.0, 1.45)  # trials above threshold by chance
    chance_excess: float = 0.85  # mean S/N of those above the threshold
    peak_snr: tuple[float, float] = (12.0, 0.2)  # of noise, above the threshold
    rfi_level: tuple[float, float] = (-2.35, 2.45)  # S/N of RFI at all DMs, from the threshold
    curve_noise: float = 0.62  # S/N, from trial to trial
    second_component: float = 0.16  # share of pulsars that have one


SURVEY = Survey()
# What happens to surveys; the monitors are tested with these.
CHANGES = {
    "rfi_storm": {"rfi_share": 0.6},
    "gain_loss": {"gain": 0.5},
    # Parkes' 70-cm receiver: at a third of the frequency, DM errors cost far more S/N.
    "new_receiver": {"centre_ghz": 0.436, "band_mhz": 32.0, "channels": 256},
}


def befallen(survey: Survey, accident: str) -> Survey:
    """The survey after one of the accidents; the search goes on as before."""
    return replace(survey, searched_as=survey, **CHANGES[accident])


ACCIDENTS = {name: befallen(SURVEY, name) for name in CHANGES}


def dm_trials(
    survey: Survey = SURVEY, tolerance: float = 1.25, pulse_us: float = 40.0
) -> np.ndarray:
    """The survey's trial DMs, each as far from the last as `tolerance` in pulse width allows.

    Levin's rule as in the dedisp library, below the frequency of the first channel, to 0.1 MHz as
    HTRU's headers have it. Of HTRU's own numbers it makes the trials stored with HTRU candidates, within
    0.01 pc cm^-3.
    """
    survey = survey.searched_as or survey
    channel_mhz = survey.band_mhz / survey.channels
    top_ghz = round(survey.centre_ghz + (survey.band_mhz - channel_mhz) / 2000, 4)
    centre = top_ghz - survey.channels / 2 * channel_mhz / 1000
    a = 8.3 * channel_mhz / centre**3  # smearing in one channel, us per DM
    a2, b2 = a * a, a * a * survey.channels**2 / 16
    c = (survey.sample_us**2 + pulse_us**2) * (tolerance**2 - 1)
    trials = [0.0]
    while len(trials) < survey.dm_trials:
        dm = trials[-1]
        k = c + tolerance**2 * a2 * dm**2
        trials.append((b2 * dm + np.sqrt(-a2 * b2 * dm**2 + (a2 + b2) * k)) / (a2 + b2))
    return np.array(trials)


def moments(levels: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, skewness and excess kurtosis along the last axis; ddof 0."""
    mean = levels.mean(-1, keepdims=True)
    centred = levels - mean
    square = centred * centred
    variance = square.mean(-1)
    safe = np.where(variance > 0, variance, 1)
    skewness = (square * centred).mean(-1) / safe**1.5
    kurtosis = (square * square).mean(-1) / safe**2 - 3
    return np.stack([mean[..., 0], np.sqrt(variance), skewness, kurtosis], axis=-1)


def _lognormal(rng: np.random.Generator, median_spread: tuple[float, float], size) -> np.ndarray:
    median, spread = median_spread
    return median * np.exp(spread * rng.standard_normal(size))


def _levels(signal: np.ndarray, floor: np.ndarray | float) -> np.ndarray:
    """8-bit integers between `floor` (0) and each row's maximum (255)."""
    span = signal.max(-1, keepdims=True) - floor
    return np.rint((signal - floor) / np.where(span > 0, span, 1) * MAX_LEVEL)


def _pulse(phase: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Gaussian pulses of unit height on the 128 bins; `width` is at half maximum, in turns."""
    bins = (np.arange(BINS) + 0.5) / BINS
    offset = (bins - phase[:, None] + 0.5) % 1 - 0.5
    sigma = np.maximum(width, 0.6 / BINS)[:, None] / 2.3548
    return np.exp(-0.5 * (offset / sigma) ** 2)


def _with_snr(shape: np.ndarray, snr: np.ndarray) -> np.ndarray:
    """Scale a pulse so that a matched filter finds `snr` in noise of unit variance per bin."""
    centred = shape - shape.mean(-1, keepdims=True)
    return shape * (snr / np.sqrt((centred**2).sum(-1)))[:, None]


def _profile(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noisy = signal + rng.standard_normal(signal.shape)
    return _levels(noisy, noisy.min(-1, keepdims=True))


def _chance(n: int, trials: int, survey: Survey, sky: Population, rng) -> np.ndarray:
    """S/N of noise over the trials: mostly below threshold (0), here and there above."""
    share = _lognormal(rng, sky.chance_trials, n)[:, None] / trials
    snr = survey.snr_threshold + rng.exponential(sky.chance_excess, (n, trials)).astype(np.float32)
    return np.where(rng.random((n, trials), dtype=np.float32) < share, snr, 0)


def _curve(snr: np.ndarray, chance: np.ndarray, survey: Survey, sky: Population, rng) -> np.ndarray:
    """What the search records: the signal's S/N where it passes the threshold, or a chance one."""
    noisy = snr + sky.curve_noise * rng.standard_normal(snr.shape, dtype=np.float32)
    recorded = np.maximum(np.where(noisy > survey.snr_threshold, noisy, 0), chance)
    # The trial that made it a candidate is there in any case.
    best = noisy.argmax(axis=1)[:, None]
    found = np.maximum(np.take_along_axis(noisy, best, axis=1), survey.snr_threshold)
    highest = np.maximum(np.take_along_axis(recorded, best, axis=1), found)
    np.put_along_axis(recorded, best, highest, axis=1)
    return _levels(recorded, 0.0)


def _folded_response(dm, period_ms, width_ms, trials: np.ndarray, survey: Survey) -> np.ndarray:
    """S/N of a folded pulse at each trial DM, relative to that at its own DM.

    S/N goes as sqrt((P - We)/We), We^2 = W^2 + (8.3e-3 ms |dDM| BW / f^3)^2: the rule that
    HTRU's feature code fits; a pulse smeared over the whole period is gone.
    """
    error = np.abs(trials[None, :] - dm[:, None])
    smear = 8.3e-3 * error * survey.band_mhz / survey.centre_ghz**3
    width = width_ms[:, None]
    effective = np.sqrt(width**2 + smear**2)
    period = period_ms[:, None]
    visible = np.clip((period - effective) / effective, 0, None)
    return np.sqrt(visible * width / (period - width)).astype(np.float32)


def _pulsars(n: int, trials: np.ndarray, survey: Survey, sky: Population, rng):
    # A pulsar that turned less than sixty times meanwhile is not found by its period.
    longest = survey.integration_s * 1000 / 60
    period = np.clip(_lognormal(rng, sky.period_ms, n), 1.5, longest)
    median, spread = sky.dm
    near = min(median, trials[-1] / 4)  # a search that does not reach far finds those that are near
    dm = np.clip(_lognormal(rng, (near, spread), n), 2, trials[-1])
    intrinsic = np.clip(_lognormal(rng, sky.duty, n), 0.004, 0.45) * period
    # Scattering after Bhat et al. 2004, in ms, f in GHz.
    log_dm = np.log10(dm)
    scatter = 10 ** (-6.46 + 0.154 * log_dm + 1.07 * log_dm**2) * survey.centre_ghz**-3.86
    channel = 8.3e-3 * dm * (survey.band_mhz / survey.channels) / survey.centre_ghz**3
    width = np.sqrt(intrinsic**2 + scatter**2 + channel**2 + (survey.sample_us / 1000) ** 2)
    width = np.minimum(width, 0.6 * period)
    least, exponent = sky.pulse_snr
    snr = np.clip(least * rng.pareto(exponent, n) + least, None, 400) * survey.gain
    phase = rng.random(n)
    shape = _pulse(phase, width / period)
    second = rng.random(n) < sky.second_component
    apart = phase + rng.normal(0, 2, n) * width / period
    shape += np.where(second, rng.uniform(0.2, 0.9, n), 0)[:, None] * _pulse(apart, width / period)
    profile = _profile(_with_snr(shape, snr), rng)
    response = _folded_response(dm, period, width, trials, survey) * snr[:, None].astype(np.float32)
    return profile, _curve(response, _chance(n, len(trials), survey, sky, rng), survey, sky, rng)


def _noise(n: int, trials: np.ndarray, survey: Survey, sky: Population, rng):
    """Chance: a peak that folding found in white noise, a short run of neighbouring trials."""
    width = np.clip(_lognormal(rng, sky.noise_width, n), 0.008, 0.4)
    snr = np.maximum(rng.normal(*sky.noise_snr, n), 0)
    profile = _profile(_with_snr(_pulse(rng.random(n), width), snr), rng)
    chance = _chance(n, len(trials), survey, sky, rng)
    peak = survey.snr_threshold + _lognormal(rng, sky.peak_snr, n)
    centre = rng.integers(0, len(trials), n)
    reach = rng.geometric(0.3, n)
    distance = np.abs(np.arange(len(trials))[None, :] - centre[:, None])
    run = peak[:, None] * np.clip(1 - distance / (2 * reach[:, None]), 0, None)
    return profile, _curve(run.astype(np.float32), chance, survey, sky, rng)


def _rfi(n: int, trials: np.ndarray, survey: Survey, sky: Population, rng):
    """Terrestrial signals: not dispersed, so S/N is flat over DM or best at DM 0."""
    kind = rng.random(n)
    width = np.clip(_lognormal(rng, (0.1, 0.8), n), 0.008, 0.45)
    pulse = _with_snr(_pulse(rng.random(n), width), np.abs(rng.normal(4, 2, n)))
    bins = (np.arange(BINS) + 0.5) / BINS
    cycles = rng.integers(1, 9, n)[:, None]  # mains and its harmonics
    sine = np.sin(2 * np.pi * (cycles * bins + rng.random(n)[:, None]))
    signal = np.where(kind[:, None] < 0.35, sine * rng.uniform(0.3, 2.5, n)[:, None], pulse)
    profile = _profile(signal, rng)
    low, spread = sky.rfi_level
    level = survey.snr_threshold + low + rng.exponential(spread, n)
    falls = np.where(rng.random(n) < 0.5, rng.uniform(0, 0.6, n), rng.uniform(-0.3, 0.1, n))
    drift = np.cumsum(rng.standard_normal((n, len(trials)), dtype=np.float32), axis=1)
    drift *= (np.abs(rng.normal(0, 0.05, n)).astype(np.float32))[:, None]
    snr = level[:, None] * (1 - falls[:, None] * trials[None, :] / trials[-1]) + drift
    return profile, _curve(
        snr.astype(np.float32), _chance(n, len(trials), survey, sky, rng), survey, sky, rng
    )


def simulate(
    pulsars: int, others: int, seed: int, survey: Survey = SURVEY, sky: Population = Population()
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 8) in the file's column order and classes (n,), shuffled."""
    rng = np.random.default_rng(seed)
    trials = dm_trials(survey)
    chunk = max(1, CHUNK // len(trials))
    rfi = int(round(others * survey.rfi_share))
    parts = [(_pulsars, pulsars, 1), (_noise, others - rfi, 0), (_rfi, rfi, 0)]
    features, classes = [], []
    for draw, total, label in parts:
        for start in range(0, total, chunk):
            n = min(chunk, total - start)
            profile, curve = draw(n, trials, survey, sky, rng)
            features.append(np.concatenate([moments(profile), moments(curve)], axis=1))
            classes.append(np.full(n, label))
    order = rng.permutation(pulsars + others)
    return np.concatenate(features)[order], np.concatenate(classes)[order]
