"""Share what tests and benchmarks of the page need.

That is the app and single components on free ports of this machine, a browser, drags with the mouse, texts,
and analyses of unusual shape.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as app.py: a browser shares the cores

import gradio as gr
import torch
from starlette.middleware import Middleware

from slimllm.core.types import Analysis, Plan, Ranking, SiteAnalysis
from tests.support.made_up_analyses import curves, synthetic_analysis
from tests.support.tiny_models import PAGE
from ui.app import Settings, build_page, launch_options
from ui.look import theme
from ui.server.delivery import Delivery
from ui.server.module_files import ModuleFiles
from ui.session.registry import REGISTRY

# Milliseconds that browser tests wait for what must come, as other programs may keep the machine busy. A slow
# machine takes a multiple of them: `SLIMLLM_TEST_PATIENCE=3 make test-all`.
FACTOR = float(os.environ.get("SLIMLLM_TEST_PATIENCE", "1"))
ANSWER, JOB = 15_000 * FACTOR, 60_000 * FACTOR
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


def free_port() -> int:
    """Return a port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(model: str, threads: int = 1, **more: Any) -> Iterator[str]:
    """Yield the address of a running app; `more` are further settings.

    Tiny models are fastest on one thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    usual = {"port": free_port(), "device": "cpu", "dtype": "float32", "offline": True}
    settings = Settings(model=model, **{**usual, **more})
    earlier = REGISTRY.settings
    demo = build_page(settings)
    demo.launch(**launch_options(settings), prevent_thread_lock=True)
    try:
        yield f"http://127.0.0.1:{settings.port}/"
    finally:
        demo.close(verbose=False)
        REGISTRY.settings = earlier  # a page that is served longer goes on with its own
        torch.set_num_threads(before)


@contextlib.contextmanager
def shown(page: gr.Blocks) -> Iterator[str]:
    """Yield the address of a page of single components.

    It has the look of the app, and delivers events as the app does.
    """
    _, url, _ = page.launch(
        server_name="127.0.0.1",
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        theme=theme.build_theme(),
        css=theme.style_sheet(),
        head=theme.head_scripts(),
        app_kwargs={"middleware": [Middleware(Delivery), Middleware(ModuleFiles)]},
    )
    try:
        yield url
    finally:
        page.close(verbose=False)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM or None, args=FLAGS)
        yield browser
        browser.close()


def text_of(folder: Path, times: int, name: str = "page.txt") -> str:
    """Write PAGE `times` times to a new file, and return its path."""
    file = folder / name
    file.write_text(PAGE * times, encoding="utf-8")
    return str(file)


def fader(page: Any, site: str, layer: int) -> Any:
    """Return one fader of the Tune tab."""
    return page.locator(f"#tune-faders [role=slider][data-site={site}][data-layer='{layer}']")


def spot(page: Any, site: str, layer: int, share: float) -> tuple[float, float]:
    """Return (x, y) on the screen at a share of a fader, from 0 at its bottom to 1 at its top."""
    box = fader(page, site, layer).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] * (1 - share)


def drag(page: Any, *spots: tuple[float, float], steps: int = 4) -> None:
    """Press at the first spot, move through the others in `steps` steps each, and release at the last."""
    page.mouse.move(*spots[0])
    page.mouse.down()
    for place in spots[1:]:
        page.mouse.move(*place, steps=steps)
    page.mouse.up()


def columns_analysis(layers: int = 4, channels: int = 96) -> Analysis:
    """Return an analysis by a method that cuts value columns: 6 heads in 3 groups, 8 columns each."""
    return by_columns(synthetic_analysis(layers=layers, heads=6, groups=3, head_size=8, channels=channels))


def by_columns(made: Analysis) -> Analysis:
    """Return the analysis of the same model by a method that cuts value columns."""
    size, hidden = made.shape.head_size, made.shape.hidden
    random = torch.Generator().manual_seed(0)
    found, widths = [], []
    for shape, layer in zip(made.shape.layers, made.layers, strict=True):
        cost = (shape.groups + shape.heads) * hidden
        widths.append(dataclasses.replace(shape, values=size, value_cost=cost))
        scores = torch.rand(shape.groups * size, generator=random)
        places = scores.view(shape.groups, size).argsort(1, descending=True).argsort(1).flatten()
        kept = torch.stack([places < step for step in range(size + 1)])
        ranking = Ranking(scores, scores.argsort(descending=True, stable=True), kept)
        site = SiteAnalysis(ranking, curves(size, 1.5), 3.0)
        found.append(dataclasses.replace(layer, attention={"value-column": site}))
    shapes = dataclasses.replace(made.shape, layers=tuple(widths))
    return dataclasses.replace(made, method="fasp", shape=shapes, layers=tuple(found))


def without_layers(plan: Plan, *gone: int) -> Plan:
    """Return the plan with these layers removed completely."""

    def cut(widths: tuple[int, ...]) -> tuple[int, ...]:
        """Return the widths, with 0 for the removed layers."""
        return tuple(0 if i in gone else width for i, width in enumerate(widths))

    return dataclasses.replace(plan, heads=cut(plan.heads), channels=cut(plan.channels))
