"""No rule of our style sheets hits a part of Gradio's by a name that both use.

A row of ours was called `options`, as Gradio calls the list of a drop-down, and a rule that hid the empty row
hid every list. So a selector of the page is anchored by a name that Gradio does not have, or says by
`.gradio-container` that it means Gradio's own parts.
"""

from __future__ import annotations

import re
from pathlib import Path

import gradio

from ui.app import PAGES_CSS
from ui.look import theme

CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")
# Gradio puts its own prefix before what stands in a media query, so these mean Gradio's parts without it.
MEANT = {".main", ".tab-container", ".tab-container button", ".dark input[type='range']"}


def of_gradio() -> set[str]:
    """The class names in the style sheets of Gradio's own parts."""
    folder = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
    text = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.css"))
    # what stands in the container of a `gr.HTML` is ours
    return {name for name in CLASS.findall(text) if not name.startswith("svelte-")} - {"html-container"}


def selectors(css: str) -> list[str]:
    """The selectors of a style sheet, each by itself."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.S)
    heads = [head.strip() for head in re.findall(r"([^{};]+)\{", css)]
    parts = [part.strip() for head in heads if head[0] != "@" for part in re.split(r",(?![^()]*\))", head)]
    return [part for part in parts if not re.fullmatch(r"from|to|\d+%|:root", part)]


def loose(css: str, theirs: set[str]) -> list[str]:
    """The selectors that use names of Gradio's and no other."""
    return [
        part
        for part in selectors(css)
        if CLASS.search(part)
        and not part.startswith(".gradio-container")
        and part not in MEANT
        and "#" not in part
        and set(CLASS.findall(part)) <= theirs
    ]


def test_no_rule_hits_gradio_by_accident() -> None:
    theirs = of_gradio()
    assert {"options", "block", "form"} <= theirs
    sheets = [theme.STYLES / name for name in theme.SHEETS] + [PAGES_CSS]
    found = {sheet.name: loose(sheet.read_text(encoding="utf-8"), theirs) for sheet in sheets}
    assert {name: parts for name, parts in found.items() if parts} == {}
    assert loose(".options:not(:has(.block)) { display: none; }", theirs)
