"""The report of a run: whole, small, harmless, and its pictures true to the numbers."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from slimllm.planning.plan_json import plan_from_text
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.made_up_runs import family, run_of
from tests.support.serving import by_columns, without_layers
from ui.charts.chart_style import round_ticks
from ui.facts.findings import Found, Guess, Passage, Piece
from ui.facts.run_maps import Grid
from ui.facts.runs import Run
from ui.html import report, svg

SECTIONS = ("figures", "maps", "layers", "answers", "passage", "topics", "again")
LIMIT = 3_000_000


@pytest.fixture(scope="module")
def run() -> Run:
    """A run of the starter model's shape."""
    return family()[1]


class Outline(HTMLParser):
    """Which tags stand open, what the page refers to, and its ids."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.links, self.ids = list[str](), list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [found[name] or "" for name in ("src", "href", "xlink:href") if name in found]
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_whole_small_and_needs_nothing_else(run: Run) -> None:
    text = report.report_page(run)
    outline = Outline(text)
    assert outline.open == []
    assert [name for name in outline.ids if name in SECTIONS] == list(SECTIONS)
    assert all(link.startswith("data:") for link in outline.links)
    assert len(text.encode()) < 250_000
    for words in (
        "Perplexity over 8,128 tokens",
        "python -m slimllm prune",
        "torch",
        "The capital of France",
        "From encyclopedia, passage 1.",
        "hardest hit is Arts (",
    ):
        assert words in text
    saved = re.search(r'download="plan-run2.json" href="data:application/json;base64,([^"]+)"', text)
    assert saved
    assert plan_from_text(base64.b64decode(saved[1]).decode()) == run.plan
    table = base64.b64decode(re.search(r"data:text/csv;base64,([^\"]+)", text)[1]).decode().splitlines()  # type: ignore[index]
    assert len(table) == 31
    assert table[4].startswith(f"3,{run.plan.heads[3]},9,{run.plan.channels[3]},1536,")


def test_the_report_of_a_large_model_is_small_too() -> None:
    large = synthetic_analysis(layers=80, heads=64, groups=8, head_size=128, channels=28_672)
    assert len(report.report_page(run_of(large, make_plan(large, PlanRules(0.2))))) < LIMIT / 4


def test_what_models_and_people_write_stays_text(run: Run) -> None:
    evil = "<script>alert(1)</script>"
    plan = dataclasses.replace(run.plan, model=evil)
    answers = ((evil, {"dense": evil, "pruned": "</pre>" + evil}),)
    guesses = {"dense": Guess(1.0, evil, 0.1), "pruned": Guess(9.0, evil, 0.1)}
    passage = Passage(evil, (Piece("The", {}), Piece(evil, guesses)))
    found = Found(passage, {evil: {"dense": 2.0, "pruned": math.inf}}, {evil: 9}, 128)
    run = dataclasses.replace(run, plan=plan, note=evil, told=evil, answers=answers, found=found)
    text = report.report_page(dataclasses.replace(run, parent=1))
    assert evil not in text
    assert text.count("<script>") == 1
    assert Outline(text).open == []


def test_a_run_without_maps_errors_and_answers_has_a_report(run: Run) -> None:
    bare = dataclasses.replace(run, portrait=None, errors=(), answers=(), found=None)
    text = report.report_page(bare)
    assert not {"passage", "topics"} & set(Outline(text).ids)
    assert "maps of this run were not kept" in text
    assert "No prompts were answered" in text
    broken = dataclasses.replace(run, errors=((math.inf, math.nan),) * 30)
    assert Outline(report.report_page(broken)).open == []


def test_other_units_and_dropped_layers_are_reported() -> None:
    made = by_columns(synthetic_analysis(layers=6, heads=6, groups=3, head_size=8, channels=96))
    plan = make_plan(made, PlanRules(0.2, align=1))
    text = report.report_page(run_of(made, plan))
    assert "Value columns of the attention" in text
    assert "in each head" in text
    whole = synthetic_analysis(layers=6, channels=96)
    gone = without_layers(make_plan(whole, PlanRules(0.2)), 2)
    assert "dropped whole" in report.report_page(dataclasses.replace(run_of(whole, gone), rules=""))


def pixels(address: str) -> np.ndarray:
    """The pixels (height, width, 3) of a PNG that filters no line."""
    data = base64.b64decode(address.partition(",")[2])
    wide, high = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT")
    size = struct.unpack(">I", data[start - 4 : start])[0]
    raw = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + size]), np.uint8)
    return raw.reshape(high, 1 + 3 * wide)[:, 1:].reshape(high, wide, 3)


def test_the_map_has_a_colour_for_every_shade_and_fate() -> None:
    grid = Grid(2, 3, 6, bytes([0, 100, 200, 0, 100, 200]), bytes([200, 200, 200, 0, 0, 100]))
    shown = pixels(svg.png_address(svg.colours_of(grid)))
    assert shown.shape == (2, 3, 3)
    assert shown[0, 2].tolist() == [0x0B, 0x54, 0x4F], "kept, and matters most"
    assert shown[1, 0].tolist() == [0xF7, 0xEC, 0xDD], "removed, and matters least"
    half = (np.array([0x0B, 0x54, 0x4F]) + np.array([0xA6, 0x50, 0x0F])) / 2
    assert np.abs(shown[1, 2] - half).max() <= 1
    found = re.search(r'data-map="([^"]+)"', svg.map_of(grid, "channel", "median"))
    assert found
    data = json.loads(found[1].replace("&quot;", '"'))
    assert list(base64.b64decode(data["kept"])) == [200, 200, 200, 0, 0, 100]


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 1, (0, 1, 0.25)), (0, 8.7, (0, 10, 2.5)), (-0.2, 1, (-0.5, 1, 0.5)), (0, 0, (0, 0.25, 0.25))],
)
def test_axes_end_at_round_numbers(low: float, high: float, wanted: tuple[float, float, float]) -> None:
    assert svg.nice_range(low, high) == pytest.approx(wanted)


@pytest.mark.parametrize(("n", "most"), [(1, 10), (9, 12), (30, 16), (80, 10), (1536, 12), (28_672, 12)])
def test_ticks_are_round_and_not_too_many(n: int, most: int) -> None:
    found = round_ticks(n, most)
    assert found[0] == 0
    assert min(n, most) / 3 <= len(found) <= most
