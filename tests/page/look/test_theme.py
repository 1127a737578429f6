"""The look as numbers: contrast of every pair in use, one scale of spaces, one of type, maps that need no
hue."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from ui.app import PAGES_CSS
from ui.look import theme
from ui.look.theme import GROUNDS, PALETTE, SPACES, TEXTS

SPACED = re.compile(r"(?<![\w-])(?:padding|margin|gap|row-gap|column-gap)(?:-[a-z]+)?:([^;}]*)")
SHEETS = (*(theme.STYLES / name for name in theme.SHEETS), PAGES_CSS)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 has it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_counted_as_wcag_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("mode", PALETTE)
def test_text_stands_out(mode: str) -> None:
    colours = {k: v for k, v in PALETTE[mode].items() if isinstance(v, str)}
    pairs = [*itertools.product(TEXTS, GROUNDS), ("on-accent", "accent"), ("on-accent", "accent-strong")]
    low = {pair: contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert {pair: round(c, 2) for pair, c in low.items() if c < 4.5} == {}
    for ground in ("page", "surface"):
        assert contrast(colours["edge"], colours[ground]) >= 3, "the border of a control"


@pytest.mark.parametrize("mode", PALETTE)
def test_maps_can_be_read_without_hue(mode: str) -> None:
    """Lightness alone orders the sequential scale; the diverging one turns once, in the middle."""
    steps = [luminance(colour) for colour in PALETTE[mode]["sequential"]]
    assert steps == sorted(steps, reverse=mode == "light")
    both = [luminance(colour) for colour in PALETTE[mode]["diverging"]]
    middle = len(both) // 2
    towards = both[: middle + 1], both[middle:][::-1]
    assert all(half == sorted(half, reverse=mode == "dark") for half in towards)


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda path: path.name)
def test_spaces_and_type_come_from_one_scale(sheet: Path) -> None:
    text = re.sub(r"\.sketch[^}]*}", "", sheet.read_text())  # drawings have units of their own
    odd = [
        (found.group(0), pixels)
        for found in SPACED.finditer(text)
        for pixels in re.findall(r"(?<![\w.])(\d+)px", found.group(1))
        if int(pixels) not in SPACES
    ]
    assert odd == []
    assert re.findall(r"font-size: *[\d.]+px", text) == []
