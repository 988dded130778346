"""A candidate as survey people look at it: one picture with all that its file holds."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from candidates.folds import Candidate

SIZE, DPI = (11, 6.5), 90
PLACES = {"left": 0.06, "right": 0.99, "top": 0.93, "bottom": 0.08, "wspace": 0.25, "hspace": 0.25}
INK, MARK = "#0b3d66", "#b3500a"


def draw(candidate: Candidate, title: str, words: list[tuple[str, str]]) -> bytes:
    """A PNG: profile, phase by time and by frequency over two turns, the DM curve, the numbers.

    `words` are what is written beside, as (name, value). The same bytes for the same candidate.
    """
    figure = Figure(SIZE, DPI)
    figure.suptitle(_short(title, 100), fontsize=11)
    places = figure.subplot_mosaic(
        [["profile", "curve", "words"], ["time", "frequency", "words"]],
        width_ratios=(3, 3, 2.4),
        gridspec_kw=PLACES,
    )
    _profile(places["profile"], candidate.profile)
    _plane(places["time"], candidate.sub_integrations, "time: sub-integration")
    _plane(places["frequency"], candidate.sub_bands, "frequency: sub-band")
    _curve(places["curve"], candidate)
    _words(places["words"], words)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _profile(axes: Axes, profile: np.ndarray) -> None:
    turns = np.tile(profile, 2)
    axes.stairs(turns, np.linspace(0, 2, len(turns) + 1), color=INK)
    axes.set(xlim=(0, 2), xlabel="phase", ylabel="profile, 0 to 255")


def _plane(axes: Axes, plane: np.ndarray | None, label: str) -> None:
    axes.set(xlabel="phase", ylabel=label)
    if plane is None:
        axes.text(0.5, 0.5, "not in the file", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    # What a part has beside its pulses, such as a band's own gain, would hide them.
    level = np.median(plane, axis=1, keepdims=True)
    axes.imshow(
        np.tile(plane - level, 2), aspect="auto", origin="lower", cmap="gray_r", interpolation="nearest",
        extent=(0, 2, 0, len(plane)),
    )  # fmt: skip


def _curve(axes: Axes, candidate: Candidate) -> None:
    trials = np.arange(len(candidate.curve)) if candidate.dms is None else candidate.dms
    axes.plot(trials, candidate.curve, color=INK, linewidth=1)
    if candidate.dms is None:
        axes.set_xlabel("trial")
    else:
        axes.set_xlabel("DM (pc cm$^{-3}$)")
        if candidate.dm is not None:
            axes.axvline(candidate.dm, color=MARK, linewidth=1, linestyle="--")
    axes.set_ylabel("S/N, 0 to 255" if candidate.kind == "phcx" else "reduced chi2")


def _words(axes: Axes, words: list[tuple[str, str]]) -> None:
    axes.axis("off")
    for line, (name, value) in enumerate(words):
        height = 1 - line / max(len(words), 24)
        axes.text(0, height, name, fontsize=9, va="top", color="#5d6470", parse_math=False)
        axes.text(0.52, height, _short(value, 24), fontsize=9, va="top", parse_math=False)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2 - 1) :]}"
