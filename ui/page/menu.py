"""Define a menu in which entries that do not combine stay visible, greyed, with the reason.

It is a native `<select>`: its disabled options cannot be chosen by mouse, keyboard or touch, and screen
readers say that they are unavailable. Gradio's own menus cannot disable a single entry.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from ui.facts.combinations import Choice

MOUNT = """
const select = element.querySelector('select');
const draw = () => {
  const shown = props.value || {chosen: '', choices: []};
  select.replaceChildren(...shown.choices.map(([label, key, why]) => {
    const option = document.createElement('option');
    option.value = key;
    option.disabled = Boolean(why);
    option.textContent = why ? `${label} (${why})` : label;
    return option;
  }));
  select.value = shown.chosen ?? '';
};
select.addEventListener('change', () => {
  props.value = {...props.value, chosen: select.value};
  trigger('input', {});
});
watch('value', draw);
draw();
"""


class Menu(gr.HTML):
    """A menu; its value in Python is the chosen key or None, and its updates are made by `menu_value(…)`.

    `.input(handler)` fires when a person has chosen.
    """

    def __init__(
        self,
        value: dict[str, Any] | None = None,
        *,
        label: str = "",
        info: str = "",
        elem_id: str | None = None,
        **kwargs: Any,
    ):
        name = f'<span class="menu-label">{html.escape(label)}</span>'
        hint = f'<span class="menu-info">{html.escape(info)}</span>'
        # The select has its own label: the glossary turns terms into buttons, and a <label> around one would
        # belong to that button.
        named = html.escape(f"{label}: {info}", quote=True)
        template = f'<div class="menu">{name}{hint}<select aria-label="{named}"></select></div>'
        kwargs.setdefault("html_template", template)
        kwargs.setdefault("js_on_load", MOUNT)
        kwargs.setdefault("apply_default_css", False)
        kwargs.setdefault("padding", False)
        super().__init__(value, label=label, elem_id=elem_id, elem_classes="menu-block", **kwargs)

    def postprocess(self, value: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the value as it is: the browser needs no other form."""
        return value

    def preprocess(self, payload: Any) -> str | None:
        """Return the chosen key, or None where the browser sent anything else."""
        chosen = payload.get("chosen") if isinstance(payload, dict) else None
        return chosen if isinstance(chosen, str) else None

    def api_info(self) -> dict[str, Any]:
        """Return the JSON schema of the value."""
        return {"type": "object", "description": "the chosen key and the choices of a list"}


def menu_value(choices: Sequence[Choice], chosen: str | None) -> dict[str, Any]:
    """Return an update of a menu: its choices and the key of the chosen one."""
    return {"chosen": chosen, "choices": [list(choice) for choice in choices]}
