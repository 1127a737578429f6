"""What the wiring connects: a view, which draws components from the session; an event, which acts on it."""

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
ABOVE = ""  # the tab of what stands above the tabs


@dataclass(frozen=True)
class View:
    """Components of one tab, the value that tells whether they are stale, how to draw them, the least seconds
    between, whether they are drawn after what the hand waits for, and whether this is a control whose value
    belongs to the session; that value then comes second in its token."""

    tab: str
    components: tuple[Any, ...]
    token: Callable[[Session], Any]
    draw: Callable[[Session], Sequence[Any]]
    pace: float = 0.0
    later: bool = False
    kept: bool = False

    @property
    def left(self) -> list[Any]:
        """The updates that change nothing."""
        return [LEAVE_ALONE] * len(self.components)

    @property
    def brief(self) -> bool:
        """Whether it is quickly drawn, and its state must not be missed: buttons, and lines of jobs."""
        return any(isinstance(part, BRIEF) or "job-line" in part.elem_classes for part in self.components)


@dataclass(frozen=True)
class Event:
    """A trigger or several, the page, what it does to the session, and the components it takes values of;
    with `values`, those are controls of which only what a person entered is taken."""

    trigger: Any
    page: str
    act: Act
    inputs: tuple[Any, ...]
    mode: str
    click: bool = False
    values: Values | None = None


def tab_of(component: Any) -> str:
    """The id of the tab that a component stands on."""
    tab = ABOVE
    while component is not None:
        if isinstance(component, gr.Tab):
            tab = str(component.id)
        component = component.parent
    return tab


def trigger_component(trigger: Any) -> Any:
    """The component whose event this is; of several, the first one's."""
    first = trigger[0] if isinstance(trigger, list) else trigger
    return first.__self__ if hasattr(first, "__self__") else first.args[0]
