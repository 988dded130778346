"""What a model answered and what was true: the columns of a table that the settings name."""

import numpy as np
import pandas as pd

from .frame import EVENT_ID, EVENT_ROW, GROUND_TRUTH, KEYS, Refused, needed


def column(table, settings, key):
    """The column that the setting `key` names: by its name, or by its place, counted from 0.

    Raises Refused with the columns that there are.
    """
    wanted = needed(settings, key)
    names = [name for name in table.columns if name not in KEYS]
    if wanted in names:
        return table[wanted]
    if wanted.isdigit() and int(wanted) < len(names):
        return table[names[int(wanted)]]
    raise Refused(f"{key} names no column: {wanted} is none of {', '.join(map(str, names))}")


def truth(table, settings):
    """The column of what was true: of the merge, or the one that ground_truth_attribute names."""
    if GROUND_TRUTH in table:
        return table[GROUND_TRUTH]
    return column(table, settings, "ground_truth_attribute")


def numbers(table, values, what):
    """A column as finite numbers; raises Refused with the row of what is none."""
    found = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    bad = ~np.isfinite(found)
    if bad.any():
        row = int(np.argmax(bad))
        raise Refused(f"{place(table, row)}: the {what} {values.iloc[row]!r} is no number")
    return found


def classes(table, values, what):
    """A column as names of classes: `1` for 1, 1.0 and "1"; raises Refused for one that is missing."""
    missing = (values.isna() | (values.astype(str).str.strip() == "")).to_numpy()
    if missing.any():
        raise Refused(f"{place(table, int(np.argmax(missing)))}: the {what} is missing")
    codes, distinct = pd.factorize(values)
    return np.array([class_name(value) for value in distinct], dtype=object)[codes]


def class_name(value):
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else str(number)


def place(table, row):
    """Where a row of a table came from."""
    if EVENT_ID in table:
        return f"candidate {int(table[EVENT_ROW].iloc[row]) + 1} of {table[EVENT_ID].iloc[row]}"
    return f"row {row + 1} of the baseline"


def threshold(settings):
    """The probability above which the answer is 1; None when none is set. Raises Refused."""
    value = settings.get("probability_threshold_attribute", "")
    if not value:
        return None
    try:
        found = float(value)
    except ValueError:
        found = np.nan
    if not 0 <= found <= 1:
        raise Refused(f"probability_threshold_attribute is {value}, not a number from 0 to 1")
    return found


def probability(table, settings):
    """The column of probabilities, an array (n,); raises Refused for what is none."""
    values = column(table, settings, "probability_attribute")
    found = numbers(table, values, "probability")
    outside = (found < 0) | (found > 1)
    if outside.any():
        row = int(np.argmax(outside))
        raise Refused(f"{place(table, row)}: the probability {found[row]:g} is not from 0 to 1")
    return found


def predicted(table, settings):
    """The predicted classes: of the probability and its threshold where both are set, else of
    inference_attribute. Raises Refused."""
    above = threshold(settings)
    if settings.get("probability_attribute") and above is not None:
        return np.where(probability(table, settings) > above, "1", "0").astype(object)
    if not settings.get("inference_attribute") and settings.get("probability_attribute"):
        raise Refused(
            "probability_attribute says nothing of the class without probability_threshold_attribute: "
            "set that, or inference_attribute"
        )
    return classes(table, column(table, settings, "inference_attribute"), "prediction")
