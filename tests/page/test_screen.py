"""What is drawn while a job's result arrives."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from slimllm.planning.forecast import forecast_plan
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.serving import by_columns
from ui.page.screen import Screen
from ui.page.views import View
from ui.session.registry import Registry


def test_nothing_is_drawn_of_a_new_analysis_with_the_plan_of_the_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = synthetic_analysis(layers=4)
    new = by_columns(old)
    session = Registry().open("a-browser-of-its-own-0001")
    session.set_analysis(old, make_plan(old, PlanRules(0.2)))
    shown, drawn = threading.Event(), threading.Event()
    push = session.push

    def push_late(*given: Any, **named: Any) -> None:
        shown.set()
        drawn.wait(0.3)
        push(*given, **named)

    monkeypatch.setattr(session, "push", push_late)
    plan = make_plan(new, PlanRules(0.2, align=1))
    job = threading.Thread(target=session.set_analysis, args=(new, plan))
    job.start()
    assert shown.wait(5)
    view = View("tune", (), lambda _: None, lambda s: [forecast_plan(s.known, s.plan)])
    (view_of_plan,) = Screen._drawn_or_left(view, session)
    drawn.set()
    job.join()
    assert view_of_plan == forecast_plan(new, plan)
