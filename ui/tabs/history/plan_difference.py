"""Two plans side by side: the chosen run's, and that of another run, of Tune or of the dense model."""

from __future__ import annotations

from typing import Any

import gradio as gr

from slimllm.core.types import Plan
from ui.charts.plan_difference_map import difference_chart
from ui.facts.plan_changes import summarise_changes, uncut_plan
from ui.look.formatting import note_html
from ui.session.kept.run_history import PRESENT
from ui.session.session import Session

# Stands in place of a run's number for the dense model.
DENSE = -1


def lay_beside(session: Session, entered: dict[int, Any]) -> None:
    """Choose the plan that is compared with the chosen run's."""
    (session.archive.against,) = entered.values()


def difference_choices(session: Session) -> list[tuple[str, int]]:
    """Return (label, number) of every plan that can be compared with the chosen run's."""
    run = session.archive.chosen_run
    if run is None:
        return []
    others = [one for one in reversed(session.runs) if one.number != run.number]
    found = [(one.name, one.number) for one in others if one.plan.widths == run.plan.widths]
    present = [("The plan in Tune", PRESENT)] if session.plans else []
    return [*found, *present, ("The dense model", DENSE)]


def beside_run(session: Session) -> int:
    """Return the number of the compared plan: the requested one, else the parent run, else DENSE."""
    run, known = session.archive.chosen_run, [number for _, number in difference_choices(session)]
    wanted = (session.archive.against, run.parent if run else None)
    return next((number for number in wanted if number in known), DENSE)


def plan_pair(session: Session) -> tuple[Plan, Plan, tuple[str, str]] | None:
    """Return (the other plan, the chosen run's plan, their names), or None without a run."""
    run, number = session.archive.chosen_run, beside_run(session)
    if run is None:
        return None
    if number == PRESENT and session.plans:
        return session.plan, run.plan, ("Tune", run.name)
    other = session.archive.find(number)
    if other is None:
        return uncut_plan(run.plan), run.plan, ("Dense", run.name)
    return other.plan, run.plan, (other.name, run.name)


def pair_token(session: Session) -> tuple[Any, ...]:
    """Return what the comparison depends on: the two plans themselves.

    A change in Tune then draws nothing here unless its plan is one of the two.
    """
    return session.born, plan_pair(session)


def draw_against(session: Session) -> list[Any]:
    """Return the update of the choice of the other plan."""
    return [
        gr.Dropdown(
            choices=(found := difference_choices(session)), value=beside_run(session) if found else None
        )
    ]


def draw_difference_words(session: Session) -> str:
    """Return what differs between the plans, in words, as HTML."""
    return note_html("quiet", summarise_changes(*found)) if (found := plan_pair(session)) else ""


def draw_difference(session: Session) -> Any:
    """Return a picture of both plans, or None if their models have other widths."""
    found = plan_pair(session)
    if found is None or found[0].widths != found[1].widths:
        return None
    return difference_chart(*found)
