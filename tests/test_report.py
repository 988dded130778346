"""The evaluation's page: one that can be sent, read on a telephone and at night, and printed."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

import evaluate
from candidates.htru2 import FEATURES
from learning import report
from learning.scores import bootstrap, decisions, paired, ranking, summary

RNG = np.random.default_rng(3)
CLASSES = np.repeat([1, 0], [40, 400])
FEW = RNG.normal(CLASSES[:, None], 1.0, (len(CLASSES), 8))
GOOD = np.clip(RNG.normal(0.1 + 0.7 * CLASSES, 0.2), 0, 1)


def scores_of(classes, probability, threshold: float = 0.5, simulated: bool = False) -> dict:
    """What scripts/evaluate.py writes, from made-up candidates and folds."""
    figures = decisions(classes, probability >= threshold) | ranking(classes, probability)
    folds = [figures | {"average_precision": value} for value in (0.93, 0.91, 0.94)]
    worse = [figures | {"average_precision": value} for value in (0.89, 0.88, 0.89)]
    params = {"seed": 1, "bootstrap": 5}
    return {
        "data": {
            "source": "simulated candidates" if simulated else "HTRU2",
            "simulated": simulated, "content_sha256": "c0ffee" * 10, "published_values": True,
            "candidates": 5 * len(classes), "pulsars": 5 * int(classes.sum()),
        },
        "estimator": "random_forest",
        "threshold": threshold,
        "holdout": figures
        | {"pulsars": int(classes.sum()), "candidates": len(classes)}
        | {"interval_95": bootstrap(classes, probability, threshold, params)},
        "cross_validation": summary(folds),
        "blocks": summary(folds),
        "baseline": summary(worse),
        "against_baseline": paired(folds, worse, 3),
        "six": {
            "threshold": 0.4,
            "holdout": figures | {"interval_95": bootstrap(classes, probability, threshold, params)},
            "cross_validation": summary(worse),
            "against_eight": paired(worse, folds, 3),
        },
    }  # fmt: skip


def page_of(probability, threshold: float = 0.5, simulated: bool = False) -> str:
    lyon = {} if simulated else {"<MLP> & co": {"recall": 0.9, "fpr": 0.05}}
    importance = pd.DataFrame({"feature": FEATURES, "importance": 0.1, "sd": 0.01})
    scores = scores_of(CLASSES, probability, threshold, simulated)
    return report.page(scores, lyon, FEW, CLASSES, probability, importance)


def words_of(page: str) -> str:
    return " ".join("".join(ElementTree.fromstring(page).itertext()).split())


def test_the_page_is_well_formed_and_needs_nothing_beside_it():
    page = page_of(GOOD)
    root = ElementTree.fromstring(page)
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(e.tag for e in root.iter())
    assert not re.search(r"https?:|url\(|@import|(?:src|href)=", page)
    titles = [root.find("head/title").text, root.find("body/h1").text]
    assert titles == ["Pulsar classifier: random forest on HTRU2"] * 2
    assert [table.find("thead") is not None for table in root.iter("table")] == [True] * 3
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in root.iter("svg"))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))


def test_the_page_is_the_same_bytes_for_the_same_numbers():
    assert page_of(GOOD) == page_of(GOOD)


def test_the_page_fits_a_telephone_and_a4_and_the_night():
    page = page_of(GOOD)
    root = ElementTree.fromstring(page)
    assert 'name="viewport" content="width=device-width' in page
    assert "prefers-color-scheme: dark" in page
    assert "size: A4" in page and "@media print" in page
    assert not any(svg.get("width") for svg in root.iter("svg")), "their width is the column's"
    scrolled = {
        id(table) for box in root.iter("div") if box.get("class") == "scroll" for table in box
    }
    assert all(id(table) in scrolled for table in root.iter("table"))
    assert not re.search(r"width: *\d{3,}px", page)
    colours = re.sub(r":root \{[^}]*\}", "", page)
    assert not re.search(r"(?:fill|stroke|color|background)[:=] *[\"']?#", colours), "not by name"


def test_no_drawing_leaves_its_box():
    for svg in ElementTree.fromstring(page_of(GOOD)).iter("svg"):
        _, _, width, height = map(float, svg.get("viewBox").split())
        for mark in svg.iter():
            for key, most in (("x", width), ("cx", width), ("x1", width), ("x2", width),
                              ("y", height), ("cy", height), ("y1", height), ("y2", height)):  # fmt: skip
                at = float(mark.get(key, 0))
                assert 0 <= at <= most, (svg.get("aria-label"), mark.attrib)
            if mark.tag == "rect":
                assert float(mark.get("x")) + float(mark.get("width")) <= width + 0.1


def test_what_the_page_counts_is_what_the_hold_out_says():
    page = page_of(GOOD)
    words, called = words_of(page), GOOD >= 0.5
    found, missed = int(called[CLASSES == 1].sum()), int((~called[CLASSES == 1]).sum())
    wrong = int(called[CLASSES == 0].sum())
    assert found and missed and wrong
    assert f"of the 40 pulsars, the share that it finds: {found}" in words
    assert f"Pulsars it misses: {missed} of 40" in words
    assert f"Others it calls pulsars: {wrong} of 400" in words
    assert f"<strong>{found / 40:.3f}</strong> [" in page
    assert "better in 3 of 3" in words


def test_the_model_of_six_features_has_its_own_figures_beside_those_of_eight():
    words = words_of(page_of(GOOD))
    assert "Without the DM curve's mean and deviation" in words
    assert "six features, threshold 0.4000" in words
    assert "At home it costs -0.040 [" in words


def test_a_mistake_is_shown_within_the_distributions_of_each_feature():
    page = page_of(GOOD)
    root = ElementTree.fromstring(page)
    cards = [f for f in root.iter("figure") if f.find("svg").get("aria-label").startswith("row ")]
    called = GOOD >= 0.5
    mistakes = np.flatnonzero(called != (CLASSES == 1))
    shown = [int(card.find("svg").get("aria-label").split()[1]) for card in cards]
    assert {row - 1 for row in shown} <= set(mistakes.tolist())
    for row, card in zip(shown, cards, strict=True):
        texts = [text.text for text in card.iter("text")]
        assert texts[::2] == FEATURES
        assert texts[1::2] == [f"{value:.2f}" for value in FEW[row - 1]]
        pulsars = np.quantile(FEW[CLASSES == 1], [0.05, 0.95], axis=0)
        others = np.quantile(FEW[CLASSES == 0], [0.05, 0.95], axis=0)
        low, high = pulsars if CLASSES[row - 1] else others
        outside = (FEW[row - 1] < low) | (FEW[row - 1] > high)
        named = [name for name, out in zip(FEATURES, outside, strict=True) if out]
        caption = "".join(card.find("figcaption").itertext())
        assert caption.endswith(f" in {', '.join(named) or 'no feature'}")


@pytest.mark.parametrize(
    "probability",
    [CLASSES.astype(float), np.zeros(len(CLASSES)), np.ones(len(CLASSES)), 1.0 - CLASSES],
    ids=["no mistakes", "calls nothing", "calls everything", "always wrong"],
)
def test_a_model_of_any_kind_has_its_page(probability):
    words = words_of(page_of(probability))
    called = probability >= 0.5
    assert f"Others it calls pulsars: {int((called & (CLASSES == 0)).sum())} of 400" in words
    assert "nan" not in words


def test_simulated_data_are_named_in_title_and_text():
    words = words_of(page_of(GOOD, simulated=True))
    assert words.count("on simulated candidates") == 2
    assert "Simulated data: these scores say nothing" in words
    assert "Lyon" not in words


def test_dvc_is_shown_eleven_columns_and_the_name_of_the_data_is_one():
    scores = scores_of(CLASSES, GOOD)
    shown = evaluate.headline(scores)
    assert len(shown) == 11
    assert all(isinstance(value, float | str) for value in shown.values()), "a column each"
    assert shown["data"] == "HTRU2"
    assert shown["recall"] == scores["cross_validation"]["mean"]["recall"]
    assert shown["average_precision_six"] == pytest.approx((0.89 + 0.88 + 0.89) / 3)
    assert shown["average_precision_original"] == scores["baseline"]["mean"]["average_precision"]


def test_the_difference_on_paired_folds_has_the_interval_of_nadeau_and_bengio():
    ours = [{"average_precision": value} for value in (0.93, 0.91, 0.94, 0.92)]
    theirs = [{"average_precision": value} for value in (0.90, 0.90, 0.90, 0.90)]
    found = paired(ours, theirs, 2)  # two folds, twice: each is tested on as many as it trains on
    assert found["average_precision"][2] == [0.94, 0.90]
    assert found["mean_difference"] == pytest.approx(0.025)
    half = 3.182446 * np.sqrt((1 / 4 + 1) * np.var([3, 1, 4, 2], ddof=1)) / 100
    assert found["interval_95"] == pytest.approx([0.025 - half, 0.025 + half])
