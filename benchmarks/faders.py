"""How smoothly the fader bank drags with 80 layers, and how many bytes the maps cost.

    python -m benchmarks.faders [--json]

Measured in headless Chromium without a GPU: milliseconds between painted frames while a pointer paints across
all faders and Python hears every coalesced `input`. The target is 33 ms at the 95th percentile. Frame times
grow when other programs keep the machine busy; the processor time per frame does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import gradio as gr
from playwright.sync_api import CDPSession, Page

from slimllm.planning import make_plan
from slimllm.types import Analysis
from tests.serving import chromium, shown
from tests.synthetic import synthetic_analysis
from ui import charts
from ui.faders import Faders, bank, value_of

LAYERS, HEADS, GROUPS, HEAD_SIZE, CHANNELS = 80, 64, 8, 128, 28_672
STROKES, MOVES = 6, 60
RECORD = """() => {
  window.frames_ = []; window.long_ = 0; window.running_ = true;
  const count = (list) => { window.long_ += list.getEntries().length; };
  new PerformanceObserver(count).observe({entryTypes: ['longtask']});
  let last = performance.now();
  const tick = (now) => {
    window.frames_.push(now - last);
    last = now;
    if (window.running_) requestAnimationFrame(tick);
  };
  requestAnimationFrame((now) => { last = now; requestAnimationFrame(tick); });
}"""


def page_with_faders(analysis: Analysis) -> gr.Blocks:
    """A page with one bank, whose events Python hears."""
    plan = make_plan(analysis, 0.3)
    with gr.Blocks() as page:
        faders = Faders(value_of(plan), bank=bank(analysis, plan))
        total = gr.Number(label="kept channels")
        faders.input(
            lambda v: sum(v["channels"]), faders, total, trigger_mode="always_last", show_progress="hidden"
        )
        faders.release(lambda v: sum(v["channels"]), faders, total, show_progress="hidden")
    return page


def strokes(page: Page) -> dict[str, float]:
    """Frame times of strokes across both lanes."""
    boxes = [page.locator(f"[data-lane={site}]").bounding_box() for site in ("attention", "mlp")]
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = busy(session)
    page.evaluate(RECORD)
    for stroke in range(STROKES):
        box = boxes[stroke % 2]
        assert box is not None
        for move in range(MOVES + 1):
            across = move / MOVES if stroke % 4 < 2 else 1 - move / MOVES
            height = 0.15 + 0.7 * (0.5 + 0.5 * ((-1) ** (move // 6)) * (move % 6) / 6)
            page.mouse.move(box["x"] + 1 + across * (box["width"] - 2), box["y"] + height * box["height"])
            if move == 0:
                page.mouse.down()
        page.mouse.up()
    page.evaluate("window.running_ = false")
    frames = sorted(page.evaluate("window.frames_"))
    return {
        "frames": len(frames),
        "ms_p50": round(statistics.median(frames), 1),
        "ms_p95": round(frames[int(0.95 * (len(frames) - 1))], 1),
        "ms_max": round(frames[-1], 1),
        "long_tasks": page.evaluate("window.long_"),
        "cpu_ms_per_frame": round(1000 * (busy(session) - before) / len(frames), 1),
    }


def busy(session: CDPSession) -> float:
    """Processor seconds of the page's main thread so far, whatever else the machine does."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in metrics if m["name"] == "TaskDuration")


def in_browser(analysis: Analysis) -> dict[str, Any]:
    """Seconds until the faders stand, nodes of the page, frame times while dragging."""
    with shown(page_with_faders(analysis)) as url, chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        start = time.perf_counter()
        page.goto(url)
        page.locator("#tune-faders [role=slider]").first.wait_for()
        seconds = round(time.perf_counter() - start, 2)
        page.wait_for_timeout(1000)
        strokes(page)  # once to warm up
        return {
            "load_seconds": seconds,
            **strokes(page),
            "dom_nodes": page.evaluate("document.querySelectorAll('*').length"),
        }


def payloads(analysis: Analysis) -> dict[str, int]:
    """Bytes of what is sent for 80 layers."""
    plan, total = make_plan(analysis, 0.3), len(analysis.layers)
    return {
        "heads_map": charts.payload(charts.heads_map(analysis.layers, total, analysis.shape)),
        "channels_map_ordered": charts.payload(charts.channels_map(analysis.layers, total, analysis.shape)),
        "channels_map_in_place": charts.payload(
            charts.channels_map(analysis.layers, total, analysis.shape, order="place")
        ),
        "layer_chart": charts.payload(charts.layer_chart(analysis.layers, total, plan, analysis.shape)),
        "error_curves": charts.payload(charts.error_curves(analysis.layers[40], 40, plan, analysis.shape)),
        "fader_bank": len(bank(analysis, plan)),
        "fader_value": len(json.dumps(value_of(plan))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    analysis = synthetic_analysis(LAYERS, HEADS, GROUPS, HEAD_SIZE, CHANNELS)
    found = {"layers": LAYERS, "drag": in_browser(analysis), "bytes": payloads(analysis)}
    if arguments.json:
        print(json.dumps(found))
        return
    for name, numbers in (("Drag, 80 layers x 2", found["drag"]), ("Bytes", found["bytes"])):
        print(name)
        for key, value in numbers.items():  # type: ignore[attr-defined]
            print(f"  {key:24} {value:>12,}")


if __name__ == "__main__":
    main()
