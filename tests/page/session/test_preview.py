"""The mask preview without a page: what it measures, that it is replaced, waits, and says what is wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration
from slimllm.evaluation import evaluate
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from slimllm.pruning.masking import mask_units, masks_of
from tests.support.tiny_models import tiny_subject
from ui.facts.resources.estimates import Rates
from ui.session.loaded import Loaded
from ui.session.registry import Registry
from ui.session.session import Session
from ui.tabs.tune import preview_panel
from ui.tasks import plan_preview


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def session(registry: Registry, page: Path) -> Session:
    """A session with a tiny model, its analysis and a plan; a quick model reads few windows here."""
    torch.set_num_threads(1)
    subject, calibration = tiny_subject(), Calibration(str(page), 4, 32)
    analysis = pipeline.finish_job(pipeline.analyse_model(subject, texts.find_text(str(page)), calibration))
    made = registry.open(None)
    made.set_loaded(Loaded(subject, Rates(100.0), "cpu", "float32"))
    made.set_analysis(analysis, plan_making.make_plan(analysis, PlanRules(0.4)))
    return made


def done(session: Session) -> Session:
    assert session.preview.job is not None
    assert session.preview.job.finished.wait(20)
    return session


def test_figures_are_those_of_the_masked_and_the_dense_model(registry: Registry, session: Session) -> None:
    session.preview.prompt = "A model is"
    plan_preview.start_preview(registry, session)
    preview = done(session).preview
    slim = mask_units(session.subject, masks_of(session.known, session.plan))
    rows = preview.rows
    for heard, subject in ((preview.masked, slim), (preview.dense, session.subject)):
        wanted = pipeline.finish_job(evaluate.measure_perplexity(subject, rows.flatten(), rows.shape[1]))
        assert heard.perplexity == pytest.approx(wanted.perplexity, rel=1e-4)
        assert heard.text == "".join(evaluate.generate_text(subject, "A model is", max_new_tokens=14))
    assert preview.masked.perplexity != preview.dense.perplexity
    assert "done in" in preview_panel.preview_state(session)


def test_the_dense_model_is_asked_once(
    registry: Registry, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_preview.start_preview(registry, session)
    known = done(session).preview.dense
    asked: list[int] = []
    loss = evaluate.window_loss
    monkeypatch.setattr(evaluate, "window_loss", lambda *rest: asked.append(1) or loss(*rest))
    session.push(plan_making.make_plan(session.known, PlanRules(0.2)))
    plan_preview.follow_plan(registry, session)
    preview = done(session).preview
    assert len(asked) == len(preview.rows), "one pass, of the masked model"
    assert (preview.dense.loss, preview.dense.text) == (known.loss, known.text)


def test_a_newer_change_replaces_a_preview(registry: Registry, session: Session) -> None:
    plans = [plan_making.make_plan(session.known, PlanRules(ratio)) for ratio in (0.1, 0.2, 0.3)]
    jobs = []
    for plan in plans:
        session.push(plan)
        plan_preview.follow_plan(registry, session)
        jobs.append(session.preview.job)
    assert done(session).preview.asks(plans[-1])
    assert [job and job.state for job in jobs] == ["stopped", "stopped", "done"]
    plan_preview.follow_plan(registry, session)
    assert session.preview.job is jobs[-1], "the same plan is not previewed twice"


def test_it_is_no_job_of_the_session_and_ends_with_its_model(registry: Registry, session: Session) -> None:
    job = plan_preview.start_preview(registry, session)
    assert (session.busy, session.lively) == (False, True)
    session.forget_analysis()
    assert job.finished.wait(20)
    assert (job.state, session.lively) == ("stopped", False)
    with pytest.raises(Refusal, match="There is no plan"):
        plan_preview.start_preview(registry, session)


def test_slow_models_wait_for_the_button(registry: Registry, session: Session) -> None:
    assert session.loaded is not None
    session.loaded = Loaded(session.subject, Rates(5.0), "cpu", "float32")
    plan_preview.follow_plan(registry, session)
    assert session.preview.job is None
    assert "press Preview" in preview_panel.preview_state(session)
    plan_preview.start_preview(registry, session)
    assert done(session).preview.asks(session.plan)


def test_one_site_alone_is_heard(registry: Registry, session: Session) -> None:
    plan_preview.start_preview(registry, session)
    both = done(session).preview.masked.loss
    session.preview.solo = "attention"
    plan_preview.follow_plan(registry, session)
    assert done(session).preview.masked.loss != both
    assert "attention alone" in preview_panel.draw_preview(session)


def test_what_is_wrong_is_one_sentence(registry: Registry, session: Session, page: Path) -> None:
    page.unlink()
    plan_preview.start_preview(registry, session)
    done(session)
    assert "There is no file" in preview_panel.draw_preview(session)


def test_model_text_is_escaped(session: Session) -> None:
    session.preview.prompt = "<b>bold</b>"
    session.preview.masked.text = "<script>"
    drawn = preview_panel.draw_preview(session)
    assert "<b>" not in drawn
    assert "<script>" not in drawn


def test_a_broken_model_is_said_to_be_one(session: Session) -> None:
    preview = session.preview
    preview.shown = session.plan, ""
    preview.masked.loss, preview.masked.tokens = math.log(1e9) * 10, 10
    preview.dense.loss, preview.dense.tokens = 10.0, 10
    preview.dense_loss = 10.0, 10
    assert "hardly reads" in preview_panel.draw_preview(session)
    preview.masked.loss = preview.dense.loss = math.inf
    preview.dense_loss = math.inf, 10
    assert "Neither model can read this text" in preview_panel.draw_preview(session)
