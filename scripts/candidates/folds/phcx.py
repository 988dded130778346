"""PHCX: the XML of Pulsar Hunter, in the layout that HTRU2 was made from.

The section `FFT` is the search, with S/N over 1196 DMs; `FFT-pdmpd` is the refined fold, with the
profile. Other layouts have sections of other names, and features that mean something else.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from xml.etree.ElementTree import Element, TreeBuilder  # noqa: S405 - builds a tree, parses nothing
from xml.parsers import expat

import numpy as np

from candidates.folds.candidate import (
    MOST_DM,
    Candidate,
    Unreadable,
    checked_dm,
    number,
    printable,
)

SEARCH, FOLD = "FFT", "FFT-pdmpd"
BINS, TRIALS = 128, 1196
MOST_DEEP, MOST_ELEMENTS = 32, 10_000  # a real one has 6 and some 90
SHAPE = re.compile(r"[1-9][0-9]{0,3}")
DM = r"-?\d{1,4}(?:\.\d*)?"
DMS = re.compile(rf"\s*(?:{DM}\s+){{{TRIALS - 1}}}{DM}\s*", re.ASCII)
PIECE = 65_536  # bytes: what a tag or a comment may be long


def read(content: bytes) -> Candidate:
    """The candidate in an XML document. Unreadable says what is wrong with it."""
    root = _parsed(content)
    if root.tag != "phcf":
        raise Unreadable(f"its root is {root.tag[:40]!r}, not 'phcf': it is no PHCX")
    search, fold = _section(root, SEARCH), _section(root, FOLD)
    snr = _only(search, "SnrBlock")
    best = fold.find("BestValues")
    return Candidate(
        kind="phcx",
        profile=_block(_only(fold, "Profile"), (BINS,)),
        curve=_block(_only(snr, "DataBlock"), (TRIALS,)),
        axis=_axis(snr.find("DmIndex")),
        sub_bands=_plane(fold.find("SubBands")),
        sub_integrations=_plane(fold.find("SubIntegrations")),
        period=_period(best),
        dm=_dm(best),
        snr=_value(best, "Snr"),
        ra=printable(root.findtext("head/Coordinate/RA") or ""),
        dec=printable(root.findtext("head/Coordinate/Dec") or ""),
        mjd=_value(root.find("head"), "MjdStart"),
        telescope=printable(root.findtext("head/Telescope") or ""),
        source=printable(root.findtext("head/SourceID") or ""),
    )


def _parsed(content: bytes) -> Element:
    """The document's root. Its size bounds what is kept of it: nothing in it can be expanded."""
    builder, parser = TreeBuilder(), expat.ParserCreate()
    depth = elements = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, elements
        depth, elements = depth + 1, elements + 1
        if depth > MOST_DEEP:
            raise Unreadable(f"its elements are nested deeper than {MOST_DEEP}")
        if elements > MOST_ELEMENTS:
            raise Unreadable(f"it has more than {MOST_ELEMENTS} elements")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise Unreadable("it has a DOCTYPE or entities, which no PHCX has")

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = parser.SkippedEntityHandler = refuse
    try:
        for fed in range(0, len(content), PIECE):
            parser.Parse(content[fed : fed + PIECE])
            # A tag without an end would be read again with each piece, and its attributes kept.
            if fed - parser.CurrentByteIndex > PIECE:
                raise Unreadable(f"a tag or comment in it is longer than {PIECE} bytes")
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise Unreadable(f"its XML is damaged or cut: {error}") from None
    return builder.close()


def _section(root: Element, name: str) -> Element:
    found = [section for section in root.findall("Section") if section.get("name") == name]
    if len(found) != 1:
        names = ", ".join(repr((s.get("name") or "")[:40]) for s in root.findall("Section")[:8])
        has = f"it has {names}" if names else "it has none"
        words = f"there are {len(found)} sections {name!r}" if found else f"no section {name!r}"
        raise Unreadable(f"{words} ({has}): not the layout that the features are defined on")
    return found[0]


def _only(parent: Element, tag: str) -> Element:
    found = parent.findall(tag)
    if len(found) != 1:
        raise Unreadable(f"<{parent.tag}> holds {len(found) or 'no'} <{tag}>, not one")
    return found[0]


def _block(element: Element, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of a block, two hexadecimal digits each, as numbers of this shape."""
    digits = "".join((element.text or "").split())
    wanted = 2 * math.prod(shape)
    if len(element) or element.get("format", "02X").upper() != "02X":
        raise Unreadable(f"<{element.tag}> is not written as hexadecimal bytes")
    if len(digits) != wanted:
        raise Unreadable(f"<{element.tag}> has {len(digits)} digits, not {wanted}")
    try:
        values = np.frombuffer(bytes.fromhex(digits), np.uint8)
    except ValueError:
        raise Unreadable(f"<{element.tag}> holds what is no hexadecimal digit") from None
    return values.reshape(shape)


def _plane(element: Element | None) -> np.ndarray | None:
    """Sub-bands or sub-integrations, as many as the element says; None for an empty one."""
    if element is None or not (element.text or "").strip():
        return None
    shape = [element.get(name, "") for name in ("nSub", "nBins")]
    if not all(SHAPE.fullmatch(count) for count in shape):
        raise Unreadable(f"<{element.tag}> does not say how many rows and bins it has")
    return _block(element, tuple(map(int, shape)))


def _axis(element: Element | None) -> str | None:
    """The DMs of the search, in words."""
    text = None if element is None else element.text
    if text is not None and (len(text) > PIECE or not _are_dms(text)):
        raise Unreadable(f"<DmIndex> does not hold {TRIALS} DMs of less than {MOST_DM:g}")
    return text


@lru_cache(maxsize=8)  # a survey has one, and looking at it takes a quarter of a file's time
def _are_dms(text: str) -> bool:
    return DMS.fullmatch(text) is not None


def _value(parent: Element | None, tag: str) -> float | None:
    """A number that is only shown; None for what is no finite one."""
    try:
        return None if parent is None else number(parent.findtext(tag), tag)
    except Unreadable:
        return None


def _dm(best: Element | None) -> float | None:
    return None if best is None else checked_dm(number(best.findtext("Dm"), "DM"), "DM")


def _period(best: Element | None) -> float | None:
    """The barycentric period in seconds, else the topocentric one."""
    periods = [_value(best, "BaryPeriod"), _value(best, "TopoPeriod")]
    return next((period for period in periods if period and period > 0), None)
