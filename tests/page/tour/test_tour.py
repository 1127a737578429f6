"""The tour's words are easy to read, its pictures are well formed, and its card says what is so."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from slimllm.core.types import LayerReport
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from ui.facts.comparison import Answer, Comparison
from ui.facts.resources.estimates import Rates
from ui.facts.runs import Column
from ui.session.loaded import Loaded
from ui.session.session import Session
from ui.tour import sketches, story
from ui.tour.story import STEPS, TourStep
from ui.tour.tour import Guide

FACTS = {
    "layers": "30",
    "parameters": "134.5 million",
    "tokens": "1,536",
    "share": "20 %",
    "spread": "",
    "spread_cut": "",
    "heads": "54",
    "all_heads": "270 heads",
    "channels": "9,216",
    "all_channels": "46,080",
    "mended": "",
    "smaller": "16 %",
    "after": "113.3 million",
    "dense": "19",
    "pruned": "28",
    "verdict": "",
}
HARDEST = 8.0  # the school year whose readers follow every sentence


def syllables(word: str) -> int:
    """Groups of vowels (y is one where it follows none) but for a silent e at the end; a number has one."""
    word = re.sub(r"[^a-z]", "", word.lower())
    if len(word) <= 3:
        return 1
    word = re.sub(r"(?:[^laeiouy]es|[^td]ed|[^laeiouy]e)$", lambda m: m.group(0)[0], word)
    return max(1, len(re.findall(r"(?:(?<![aeiou])y|[aeiou])+", word)))


def grade(sentence: str) -> float:
    """The Flesch–Kincaid grade of one sentence."""
    words = re.findall(r"[\w’'.,]*\w", sentence)
    return 0.39 * len(words) + 11.8 * sum(map(syllables, words)) / len(words) - 15.59


def split(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]


def sentences() -> Iterator[str]:
    """Every sentence that the tour can say."""
    for step in STEPS:
        for stage in ("before", "during", "after"):
            for said in story.step_sentences(step, stage, FACTS):
                yield from split(said)
        yield from split(step.picture)
    for said in (*story.SPREAD_PLANNED, *story.SPREAD_CUT):
        yield said.format(most=3, least=17)
    yield from (story.MENDED, story.BARE, *(words for _, words in story.VERDICTS))


@pytest.mark.parametrize(
    ("word", "count"),
    [("the", 1), ("layer", 2), ("language", 2), ("model", 2), ("make", 1), ("little", 2), ("numbers", 2),
     ("squares", 1), ("needed", 2), ("closed", 1), ("unsure", 2), ("134.5", 1), ("million", 2)],
)  # fmt: skip
def test_syllables_are_counted(word: str, count: int) -> None:
    assert syllables(word) == count


def test_grade_is_that_of_flesch_and_kincaid() -> None:
    assert grade("The cat sat on the mat.") == pytest.approx(0.39 * 6 + 11.8 - 15.59)
    assert grade("Heterogeneous parametrisation necessitates regularisation.") > 20


@pytest.mark.parametrize("sentence", sorted(set(sentences()) - {""}))
def test_every_sentence_is_easy(sentence: str) -> None:
    assert grade(sentence) <= HARDEST, f"grade {grade(sentence):.1f}"


def test_one_picture_per_idea_on_the_tabs_in_order() -> None:
    assert len({step.picture for step in STEPS}) == len(STEPS) <= 6
    order = ["load", "analyse", "tune", "compare", "history"]
    places = [order.index(step.tab) for step in STEPS]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("factor", "word"),
    [(1.0, "almost"), (1.3, "bit worse"), (2.0, "price"), (9e9, "hurt"), (math.nan, "neither")],
)
def test_verdict_grows_with_the_loss(factor: float, word: str) -> None:
    assert word in story.verdict_words(factor)


def shapes(svg: str, kind: str) -> int:
    """How many shapes of a kind a picture has, which must be well formed."""
    return sum(kind == found.get("class") for found in xml.fromstring(svg).iter())


def test_pictures_show_the_numbers() -> None:
    assert shapes(sketches.layer_stack(30, "a <label> & more"), "k5") == 30
    half = sketches.head_squares([[1.0, 0.0], None], "x")
    assert (shapes(half, "k7"), shapes(half, "k1"), shapes(half, "k0")) == (1, 1, 2)
    bars = xml.fromstring(sketches.kept_bars([1.0, 0.25], "x"))
    tall = [float(r.get("height", 0)) for r in bars.iter() if r.get("class") == "k5"]
    assert tall[1] == pytest.approx(tall[0] / 4, abs=0.1)
    cut = sketches.cut_columns([[True, False, False]], [0.5], "x")
    assert shapes(cut, "cross") == 2
    pair = sketches.before_after_bars([("Size", 100, 80, "100", "80"), ("Doubt", 19, 28, "19", "28")], "x")
    assert (shapes(pair, "gone"), shapes(pair, "lost")) == (1, 1)


def test_large_models_are_drawn_with_few_shapes() -> None:
    many = sketches.head_squares([[0.5] * 64] * 80, "x")
    assert many.count("<rect") <= 80 * sketches.MOST_ROWS + 1
    assert sketches.thin_values([1, 2, 3, 4], 2) == [1.5, 3.5]


# The card ---------------------------------------------------------------------------------------------------


def travelled(recovery: str = "regression") -> Session:
    """A session that has been through all of it, with made-up figures."""
    session = Session("somebody-on-the-tour")
    analysis = synthetic_analysis(layers=6, channels=96)
    subject = SimpleNamespace(shape=analysis.shape, source="synthetic")
    session.loaded = Loaded(subject, Rates(1000.0), "cpu", "float32")  # type: ignore[arg-type]
    plan = plan_making.make_plan(analysis, PlanRules(0.2, recovery=recovery))
    session.set_analysis(analysis, plan)
    reports = tuple(
        LayerReport(h, c, tuple(range(h)), tuple(range(c)), 0.1, 0.1)
        for h, c in zip(plan.heads, plan.channels, strict=True)
    )
    name = "pruned" if recovery == "none" else "recovered"
    columns = {"dense": Column(1_000_000, 4_000_000, 19.2), name: Column(840_000, 3_360_000, 27.4)}
    session.results.comparison = Comparison(plan, columns=columns, reports={name: reports})
    session.results.answers = [Answer("Once", {"dense": "upon <b>a</b> time", name: "a time"})]
    return session


@pytest.mark.parametrize("recovery", ["regression", "none"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_card_is_filled_in_and_still_easy(step: TourStep, recovery: str) -> None:
    session, guide = travelled(recovery), Guide(lambda _: None)
    session.tour = STEPS.index(step)
    assert guide.stage(session, step) == "after"
    card = guide.card(session, step, "after")
    assert "{" not in card
    assert shapes(re.search(r"<svg.*?</svg>", card).group(0), "k5") > 0
    words = re.sub(r"<[^>]+>", " ", re.search(r"<h2>.*?</h2>(.*?)<figure>", card, re.DOTALL).group(1))
    for sentence in split(words.replace("&lt;", "")):
        assert grade(sentence) <= HARDEST, sentence
    if step.name == "cost":
        assert "16 % smaller" in card
        assert "pick each word from 19" in card
        assert "upon &lt;b&gt;a&lt;/b&gt; time" in card


def test_steps_start_what_is_missing_and_nothing_else() -> None:
    begun: list[str] = []
    guide = Guide(lambda _: begun.append("load"))
    fresh = Session("somebody-who-is-new-here")
    assert guide.go(fresh, 0) == "load"
    assert guide.onward(fresh) == "load"
    assert (begun, fresh.tour) == (["load", "load"], 0), "not loaded yet, so it is tried again"
    done = travelled()
    assert [guide.go(done, i) for i in range(len(STEPS))] == [step.tab for step in STEPS]
    assert begun == ["load", "load"]
    assert guide.onward(done) is None
    assert done.tour is None
    done.push(plan_making.make_plan(done.known, PlanRules(0.4)))
    assert guide.stage(done, STEPS[3]) == "before", "another plan has yet to be carried out"
