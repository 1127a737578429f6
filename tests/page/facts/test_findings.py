"""What is asked of the models of a comparison: passages piece by piece, topics, speeds, answers; on made-up
figures and on tiny models."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration
from slimllm.evaluation.evaluate import Speed, TokenLosses
from slimllm.models import loading
from slimllm.models.loading import Subject
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from tests.support.bos_gemma import BOS, begun_tokenizer
from tests.support.tiny_models import tiny_subject
from ui.facts.comparison import Answer
from ui.facts.findings import Findings, Guess, Passage, Piece, find_excerpt, pieces_of
from ui.facts.resources.estimates import Rates
from ui.facts.runs import Asked, Protocol
from ui.html import answer_columns, coloured_passage, report, tables, topics_table
from ui.jobs.worker import Job
from ui.session.forms import PROMPTS, MeasureForm
from ui.session.loaded import Loaded
from ui.session.registry import Registry
from ui.session.session import Session
from ui.session.settings import SessionSettings
from ui.tabs.compare import answers_panel, speed_panel, topics_panel
from ui.tasks import comparing, model_probes, plan_preview


def made(*losses: float) -> TokenLosses:
    count = len(losses)
    return TokenLosses(torch.tensor(losses), torch.arange(65, 65 + count), torch.full((count,), 0.5))


def test_pieces_are_whole_characters_and_their_losses_add_up() -> None:
    subject = tiny_subject()
    ids = subject.tokenizer("aé b").input_ids  # é is two bytes, so two tokens
    found = pieces_of(ids, {"dense": made(1.0, 2.0, 3.0, 4.0)}, subject.tokenizer.decode)
    assert [piece.text for piece in found] == ["a", "é", " ", "b"]
    assert found[0].guesses == {}
    assert [piece.guesses["dense"].loss for piece in found[1:]] == [3.0, 3.0, 4.0]
    assert found[1].guesses["dense"].certainty == 0.5


def test_rise_is_the_difference_of_losses() -> None:
    def piece(dense: float, pruned: float) -> Piece:
        return Piece("x", {"dense": Guess(dense, "a", 0.5), "pruned": Guess(pruned, "b", 0.5)})

    assert piece(1.0, 3.5).rise("pruned") == 2.5
    assert piece(1.0, math.inf).rise("pruned") == math.inf
    assert piece(math.inf, math.inf).rise("pruned") == 0.0
    assert piece(1.0, 2.0).rise("recovered") == 0.0


def test_excerpts_go_round_and_begin_with_a_word() -> None:
    assert [find_excerpt(["one", " ", "two"], n) for n in range(3)] == ["one", "two", "one"]
    long = " ".join(f"word{i}" for i in range(600))
    first, second = find_excerpt([long], 0), find_excerpt([long], 1)
    assert long.startswith(first)
    assert second.startswith("word")
    assert long[len(first) :].strip().startswith(second)
    assert find_excerpt(["x" * 2000], 1) == "x" * 900
    assert find_excerpt([], 3) == ""


def shown(*rises: float) -> Passage:
    pieces = [Piece("<i>", {})]
    for rise in rises:
        pieces.append(Piece(" a<b", {"dense": Guess(1.0, "<u>", 0.7), "pruned": Guess(1.0 + rise, '"', 0.1)}))
    return Passage("<b>text</b>", tuple(pieces))


def test_passage_is_coloured_by_rise_and_escaped() -> None:
    html = coloured_passage.passage_html(shown(0.0, 0.5, 1.5, 3.0, 9.0, -1.0), "pruned")
    for level in ("l0", "l1", "l2", "l3", "l4", "up"):
        assert html.count(f'class="tk {level}" role="option"') == 1
    assert html.count('tabindex="0"') == 1
    assert 'aria-selected="true" data-i="5"' in html, "the one that lost most is told about first"
    for raw in ("<i>", "a<b", "<u>", "<b>text"):
        assert raw not in html
    assert "Half of all that was lost sits in 1 of 6 tokens" in html
    gap = Piece("\n", {"dense": Guess(1.0, "a", 0.5), "pruned": Guess(1.0, "a", 0.5)})
    assert (
        'aria-selected="false" aria-label="line break" data-i="1">↵\n</span>'
        in coloured_passage.token_html(gap, "pruned", 1, False)
    )
    assert "no worse" in coloured_passage.passage_summary(shown(-0.1, 0.0), "pruned")
    assert "nothing to judge" in coloured_passage.passage_html(Passage("own", (Piece("a", {}),)), "pruned")
    assert "no longer be foreseen" in coloured_passage.passage_html(shown(math.inf), "pruned")


def test_topics_are_sorted_by_change() -> None:
    topics = {
        "Arts": {"dense": 10.0, "pruned": 20.0, "recovered": 11.0},
        "Physics": {"dense": 10.0, "pruned": 30.0, "recovered": 18.0},
        "Sports & Games": {"dense": 10.0, "pruned": 12.0, "recovered": 9.0},
        "Unfinished": {"dense": 10.0},
    }
    assert next(topic for topic, _ in topics_table.rank_topics(topics)) == "Physics"
    sure, unsure = (
        {topic: {"recovered": error} for topic in topics if topic != "Unfinished"} for error in (0.05, 0.3)
    )
    some = Findings(topics=topics, counts=dict.fromkeys(topics, 508), window=128)
    for spreads in ({}, unsure):
        html = topics_table.topics_html(dataclasses.replace(some, spreads=spreads))
        assert "no topic stands out by more than chance; changes reach from −10.0 % to +80.0 %" in html
    html = topics_table.topics_html(dataclasses.replace(some, spreads=sure))
    assert "hardest hit is Physics (+80.0 % perplexity), least Sports &amp; Games (−10.0 %)" in html
    assert "fill recovered easier" in html
    ruined = {"Arts": {"dense": 10.0, "pruned": math.inf}, "Physics": {"dense": 10.0, "pruned": 20.0}}
    html = topics_table.topics_html(Findings(topics=ruined, counts={"Arts": 100, "Physics": 508}, window=128))
    assert "beyond measure" in html
    assert "100 to 508 tokens" in html


def test_speeds_tell_their_protocol() -> None:
    speeds = {
        "dense": Speed((780.0, 790.0, 800.0, 805.0, 810.0), (19.0, 19.5, 20.0, 20.5, 21.0), 128, 32),
        "pruned": Speed((990.0, 995.0, 1000.0, 1005.0, 1010.0), (19.1, 20.0, 20.5, 20.8, 21.0), 128, 32),
    }
    html = speed_panel.speeds_html(speeds, "on cpu in float32")
    for words in (
        "It reads 1.2 times as fast (990.0–1,010.0 against 780.0–810.0 tokens/s).",
        "No difference could be measured (19.1–21.0 against 19.0–21.0 tokens/s).",
        "128 tokens read",
        "35 s",
    ):
        assert words in html


def test_words_that_the_dense_model_did_not_write_are_marked() -> None:
    assert answer_columns.marked_html(" a new <b>", "a b c", whole=True) == (
        "a <mark>new</mark> <mark>&lt;b&gt;</mark>"
    )
    assert answer_columns.marked_html("a new", "a b c", whole=False) == "a new", (
        "it may still become the same"
    )
    assert answer_columns.agreement_words("a b", "a b") == "Word for word the same."
    assert answer_columns.agreement_words("a b x", "a b c") == "The same for the first 2 words."
    assert answer_columns.agreement_words("x", "a") == "Different from the first word on."
    html = answer_columns.answer_html(0, Answer("<p>", {"dense": "a", "pruned": ""}))
    assert "&lt;p&gt;" in html
    assert "recovered" not in html


def test_our_prompts_are_added_and_taken_away() -> None:
    session = Registry().open(None)
    MeasureForm(prompts="mine").fill_in(session)
    answers_panel.toggle_prompt(session, prompt=PROMPTS[0])
    assert MeasureForm.of_session(session) == MeasureForm(prompts=f"mine\n{PROMPTS[0]}")
    answers_panel.toggle_prompt(session, prompt=PROMPTS[0])
    assert MeasureForm.of_session(session) == MeasureForm(prompts="mine")
    MeasureForm(prompts="a\nb\nc\nd").fill_in(session)
    with pytest.raises(Refusal, match="room for 4"):
        answers_panel.toggle_prompt(session, prompt=PROMPTS[0])


# On tiny models ---------------------------------------------------------------------------------------------


def finished(job: Job) -> Job:
    assert job.finished.wait(60)
    return job


@pytest.fixture
def compared(page: Path) -> tuple[Registry, Session]:
    """A session whose tiny model has been pruned and recovered."""
    return compared_with(tiny_subject(), page)


@pytest.fixture
def compared_begun(page: Path) -> tuple[Registry, Session]:
    """The same with a tokenizer that puts <bos> in front of every text."""
    return compared_with(
        loading.make_subject("begun", tiny_subject(vocab_size=257).model, begun_tokenizer()), page
    )


def compared_with(subject: Subject, page: Path) -> tuple[Registry, Session]:
    registry = Registry(settings=SessionSettings(offline=True))
    session = registry.open(None)
    session.set_loaded(Loaded(subject, Rates(1000.0), "cpu", "float32"))
    analysis = pipeline.analyse_model(
        subject, texts.find_text(str(page)), Calibration(str(page), 4, 32), method_name="magnitude"
    )
    found = analysis if hasattr(analysis, "layers") else pipeline.finish_job(analysis)
    session.set_analysis(found, plan_making.make_plan(found, PlanRules(0.4, recovery="bias", align=1)))
    asked = Asked(Protocol(str(page), 32, 256), ("A model", "The gates"), 4)
    assert finished(comparing.start_compare(registry, session, asked)).state == "done"
    return registry, session


def test_passages_are_read_by_all_models(compared: tuple[Registry, Session], page: Path) -> None:
    registry, session = compared
    finished(model_probes.start_passage(registry, session, "", str(page)))
    findings = session.comparison.findings  # type: ignore[union-attr]
    first = findings.passage
    assert first is not None
    assert set(first.pieces[1].guesses) == {"dense", "pruned", "recovered"}
    assert first.source.endswith("passage 1")
    finished(model_probes.start_passage(registry, session, "", str(page)))
    assert findings.passage.source.endswith("passage 2")
    finished(model_probes.start_passage(registry, session, "My own words", str(page)))
    assert "".join(piece.text for piece in findings.passage.pieces) == "My own words"
    assert findings.next_passage == 2
    finished(model_probes.start_passage(registry, session, "", str(page), search=True))
    worst = model_probes.mean_rise(findings.passage, session.comparison)  # type: ignore[arg-type]
    assert worst >= model_probes.mean_rise(first, session.comparison)  # type: ignore[arg-type]
    for own, words in (("x", "too short"), ("x" * 401, "at most 400")):
        job = finished(model_probes.start_passage(registry, session, own, str(page)))
        assert job.state == "failed"
        assert words in job.error
    assert findings.passage.source != "your own words", "what was there stays"
    again = Registry().open(session.id).runs[0].found
    assert again == findings.found(), "it outlives the program"


def test_topics_are_measured_one_by_one_and_stay_when_stopped(
    compared: tuple[Registry, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, session = compared
    articles = {
        f"{topic} {i}": {"topic": topic, "extract": f"{topic} is a word. " * 8}
        for topic in ("Arts", "Physics", "Short")
        for i in range(40)
    }
    articles |= {name: {**row, "extract": "x"} for name, row in articles.items() if row["topic"] == "Short"}
    monkeypatch.setattr(texts, "read_articles", lambda: articles)
    assert topics_panel.missing_kit() == ""
    job = finished(model_probes.start_topics(registry, session, 100))
    findings = session.comparison.findings  # type: ignore[union-attr]
    assert job.state == "done"
    assert set(findings.topics) == {"Arts", "Physics"}, "a topic with too little text is left out"
    assert set(findings.topics["Arts"]) == {"dense", "pruned", "recovered"}
    assert findings.counts == {"Arts": 93, "Physics": 93}
    assert set(findings.spreads["Arts"]) == {"dense", "pruned", "recovered"}
    left_out = "Not measured, because shorter than one window of 32 tokens: Short (24 tokens)."
    assert left_out in topics_panel.draw_topics(session)
    assert left_out in topics_table.topics_html(Registry().open(session.id).runs[0].found)  # type: ignore[arg-type]
    assert left_out in topics_table.topics_html(Findings(too_short={"Short": 24}, window=32)), "if all are"
    with pytest.raises(Refusal, match="31 tokens of each topic do not fill one window of 32"):
        model_probes.start_topics(registry, session, 31)


def test_everything_begins_as_the_tokenizer_begins_texts(
    compared_begun: tuple[Registry, Session], page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, session = compared_begun
    run = session.runs[-1]
    assert dataclasses.replace(run.protocol, tokens="") == Protocol(str(page), 32, 256, "<bos>")
    assert run.columns["dense"].tokens == 31 * (256 // 31)
    said = "in windows of 32 tokens that do not overlap and begin with &lt;bos&gt;, as the tokenizer begins"
    assert said in tables.table_of(dict(run.columns), run.protocol, "bias")
    assert said in report.report_page(run)
    finished(model_probes.start_passage(registry, session, "My own", str(page)))
    findings = session.comparison.findings  # type: ignore[union-attr]
    assert findings.passage is not None
    assert findings.passage.begins_with == "<bos>"
    assert [piece.text for piece in findings.passage.pieces] == list("My own")
    assert all(piece.guesses for piece in findings.passage.pieces), "the first one, too"
    shown = coloured_passage.passage_html(findings.passage, "pruned")
    assert '<span class="tk first begun">&lt;bos&gt;</span>' in shown
    assert "The models read &lt;bos&gt; first, as their tokenizer begins a text" in shown
    assert Registry().open(session.id).runs[0].found == findings.found()
    rows = [{"topic": "Arts", "extract": "Arts is a word. " * 8}] * 40
    monkeypatch.setattr(texts, "read_articles", lambda: {f"a{i}": row for i, row in enumerate(rows)})
    finished(model_probes.start_topics(registry, session, 100))
    assert findings.counts == {"Arts": 93}
    assert "tokens that do not overlap and begin with &lt;bos&gt;" in topics_panel.draw_topics(session)
    plan_preview.start_preview(registry, session)
    assert session.preview.job is not None
    assert session.preview.job.finished.wait(20)
    assert (session.preview.rows[:, 0] == BOS).all()
    assert session.preview.dense.tokens == session.preview.rows[:, 1:].numel()


def test_topics_without_the_encyclopedia_say_so(
    compared: tuple[Registry, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> dict[str, dict[str, str]]:
        raise Refusal("The starter kit is not installed.")

    monkeypatch.setattr(texts, "read_articles", gone)
    assert "starter kit" in topics_panel.missing_kit()
    with pytest.raises(Refusal, match="starter kit"):
        model_probes.start_topics(*compared, 100)


def test_speed_is_measured_in_turns_and_goes_into_the_table(compared: tuple[Registry, Session]) -> None:
    registry, session = compared
    finished(model_probes.start_pace(registry, session, 16, 4, 2))
    last = session.comparison
    assert last is not None
    assert list(last.findings.speeds) == ["dense", "pruned", "recovered"]
    speed = last.findings.speeds["pruned"]
    assert len(speed.decode) == len(speed.prefill) == 2
    assert last.columns["pruned"].writing_rounds == speed.decode
    assert last.columns["pruned"].tokens_per_second == speed.decode_tokens_per_second
    kept = session.archive.find(last.run)
    assert kept is not None
    assert kept.columns["pruned"] == last.columns["pruned"]
    with pytest.raises(Refusal, match="room for a prompt"):
        model_probes.start_pace(registry, session, 1000, 4, 2)


def test_answers_grow_side_by_side(compared: tuple[Registry, Session]) -> None:
    _, session = compared
    assert [answer.done for answer in session.results.answers] == [True, True]
    who = comparing.compared_subjects(session.subject, session.comparison)  # type: ignore[arg-type]
    asked = dataclasses.replace(Asked(), prompts=("A model",), new_tokens=6)
    steps = comparing.answer_prompts(session, who, asked)
    for _ in range(3):
        next(steps)
    assert session.results.answers[0].done is False
    lengths = [len(text) for text in session.results.answers[0].texts.values()]
    assert max(lengths) - min(lengths) <= 1
    for _ in steps:
        pass
    assert session.results.answers[0].done
