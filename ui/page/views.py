"""Define what the wiring connects: a view draws components from the session, and an event acts on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui.page.fast_blocks import LEAVE_ALONE
from ui.session.session import Session

Act = Callable[..., str | None]
Values = Callable[[Session], Sequence[Any]]
BRIEF = (gr.Button, gr.DownloadButton, gr.UploadButton)
ABOVE = ""  # stands for the part of the page above the tabs


@dataclass(frozen=True)
class View:
    """Components of one tab, and how and when to draw them.

    `token` returns a value that changes when the components are stale, and `draw` returns their updates.
    `pace` is the least number of seconds between two drawings while a job or a preview runs. A `later` view
    is drawn after the views that a person waits for. A `kept` view is a control whose value belongs to the
    session; that value is the second entry of its token.
    """

    tab: str
    components: tuple[Any, ...]
    token: Callable[[Session], Any]
    draw: Callable[[Session], Sequence[Any]]
    pace: float = 0.0
    later: bool = False
    kept: bool = False

    @property
    def left(self) -> list[Any]:
        """The updates that leave all components as they are."""
        return [LEAVE_ALONE] * len(self.components)

    @property
    def brief(self) -> bool:
        """Whether the view draws quickly and must not be missed: buttons and job lines."""
        return any(isinstance(part, BRIEF) or "job-line" in part.elem_classes for part in self.components)


@dataclass(frozen=True)
class Event:
    """A trigger or several, the page, what they do to the session, and the components whose values they take.

    With `values`, the inputs are controls, and only the values that a person entered are used.
    """

    trigger: Any
    page: str
    act: Act
    inputs: tuple[Any, ...]
    mode: str
    click: bool = False
    values: Values | None = None


def tab_of(component: Any) -> str:
    """Return the id of the tab that a component stands on; ABOVE where it stands on none."""
    tab = ABOVE
    while component is not None:
        if isinstance(component, gr.Tab):
            tab = str(component.id)
        component = component.parent
    return tab


def trigger_component(trigger: Any) -> Any:
    """Return the component that raises a trigger; of several triggers, that of the first."""
    first = trigger[0] if isinstance(trigger, list) else trigger
    return first.__self__ if hasattr(first, "__self__") else first.args[0]
