"""What an answer leaves as it is costs nothing and is told in the browser's own words."""

from __future__ import annotations

import asyncio
from typing import Any

import gradio as gr
import pytest
from gradio.blocks import BlockFunction
from gradio.state_holder import SessionState

from ui.page.fast_blocks import LEAVE_ALONE, Page
from ui.page.plotview import PlotView

MARK = {"__type__": "update"}


@pytest.fixture
def page() -> Page:
    with Page() as page:
        parts = [gr.State(0), gr.Textbox(), gr.Button("press"), gr.HTML(), PlotView()]
        parts[2].click(lambda: parts, None, parts)
    return page


def answer(page: Page, predictions: list[Any]) -> tuple[list[Any], SessionState]:
    (press,) = (fn for fn in page.fns.values() if isinstance(fn, BlockFunction))
    state = SessionState(page)
    return asyncio.run(page.postprocess_data(press, predictions, state)), state


@pytest.mark.parametrize("changed", [(), (1,), (3,), (0, 2), (4,), (0, 1, 2, 3, 4)])
def test_only_what_changed_is_made(page: Page, changed: tuple[int, ...]) -> None:
    new: list[Any] = [7, "words", gr.Button(interactive=False), "<p>more</p>", None]
    sent, state = answer(page, [new[i] if i in changed else LEAVE_ALONE for i in range(5)])
    told = [None, "words", MARK | {"interactive": False}, "<p>more</p>", None]
    expected = [told[i] if i in changed or i == 0 else MARK for i in range(5)]
    assert [
        {k: v for k, v in each.items() if k in expected[i]} if isinstance(each, dict) else each
        for i, each in enumerate(sent)
    ] == expected
    parts = next(iter(page.fns.values())).outputs
    assert state[parts[0]._id] == (7 if 0 in changed else 0)


def test_an_answer_of_the_wrong_length_is_an_error(page: Page) -> None:
    with pytest.raises(ValueError, match="enough output values"):
        answer(page, [LEAVE_ALONE, LEAVE_ALONE])
