"""Measure in the browser the time from a person's action to the last change that it causes on the screen.

The browser itself reports when it received the action (`event.timeStamp`) and when a frame with a change was
painted, so neither Playwright's time before nor Python's time after counts. The DevTools report the bytes on
the wire and the size of the heap.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page

# After this many milliseconds without a change, no further change is expected.
QUIET = 250
# Runs before every page of the context. Times are milliseconds since the page began to load.
SCRIPT = """(() => {
  const watch = {began: 0, ended: 0, parts: 'body'};
  const label = '.hoverlayer, .pv-voice, .toast-wrap';
  const painted = () => requestAnimationFrame(() => {
    const {port1, port2} = new MessageChannel();
    port1.onmessage = () => { watch.ended = performance.now(); };
    port2.postMessage(0);
  });
  const within = (node) => {
    const element = node.nodeType === 1 ? node : node.parentElement;
    return element?.closest(watch.parts) && !element.closest(label);
  };
  new MutationObserver((records) => {
    if (records.some((record) => within(record.target))) painted();
  }).observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
  watch.arm = (parts, type) => {
    Object.assign(watch, {parts, began: 0, ended: 0});
    addEventListener(type, (event) => Object.assign(watch, {began: event.timeStamp, ended: 0}),
      {capture: true, once: true});
  };
  watch.settled = (quiet) => watch.ended > watch.began && performance.now() - watch.ended > quiet;
  window.stopwatch = watch;
})();"""
FRAMES = """() => {
  const found = {times: [], tasks: 0, on: true};
  const count = (list) => { found.tasks += list.getEntries().length; };
  new PerformanceObserver(count).observe({entryTypes: ['longtask']});
  let last = 0;
  const tick = (now) => {
    if (last) found.times.push(now - last);
    last = now;
    if (found.on) requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  window.frames_ = found;
}"""


class Stopwatch:
    """Measurements of one page; all times are in milliseconds."""

    def __init__(self, page: Page):
        self.page = page
        page.context.add_init_script(SCRIPT)
        self.tools = page.context.new_cdp_session(page)
        for domain in ("Network", "HeapProfiler", "Performance"):
            self.tools.send(f"{domain}.enable")
        self.received = 0
        self.tools.on("Network.dataReceived", self._count)

    def _count(self, event: dict[str, Any]) -> None:
        self.received += event["dataLength"]

    def loading(self) -> float:
        """Return the milliseconds from the start of a reload to the last change on the page."""
        self.page.reload()
        return self._settled(2 * QUIET)

    def after(self, act: Callable[[], Any], parts: str, event: str = "click") -> float:
        """Return the milliseconds from the event that `act` causes to the last change in these parts.

        `parts` are CSS selectors.
        """
        self.arm(parts, event)
        act()
        return self._settled(QUIET)

    def arm(self, parts: str, event: str) -> None:
        """Start the stopwatch at the next such event."""
        self.page.evaluate("([parts, event]) => stopwatch.arm(parts, event)", [parts, event])

    def taken(self) -> float:
        """Return the milliseconds from the event to the last change so far."""
        return self.page.evaluate("stopwatch.ended - stopwatch.began")

    def _settled(self, quiet: int) -> float:
        self.page.wait_for_function(f"window.stopwatch?.settled({quiet})", polling=50)
        return self.taken()

    def bytes_of(self, act: Callable[[], Any]) -> int:
        """Return the bytes that the page received, unpacked, while `act` ran."""
        before = self.received
        act()
        return self.received - before

    def heap(self) -> float:
        """Return the megabytes of living JavaScript objects."""
        self.tools.send("HeapProfiler.collectGarbage")
        return self.tools.send("Runtime.getHeapUsage")["usedSize"] / 1e6

    def frames(self, act: Callable[[], Any]) -> dict[str, float]:
        """Return how the frames came while `act` ran.

        These are the median, the 95th percentile and the longest frame, the processor time of the page's main
        thread per frame (all in milliseconds), and the number of tasks of more than 50 ms.
        """
        before = self._busy()
        self.page.evaluate(FRAMES)
        act()
        found = json.loads(
            self.page.evaluate("() => { frames_.on = false; return JSON.stringify(frames_); }")
        )
        times = found["times"]
        return {
            "p50": statistics.median(times),
            "p95": p95(times),
            "longest": max(times),
            "processor": 1000 * (self._busy() - before) / len(times),
            "long_tasks": found["tasks"],
        }

    def _busy(self) -> float:
        """Return the seconds that the page's main thread has been busy."""
        metrics = self.tools.send("Performance.getMetrics")["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "TaskDuration")


def p95(values: list[float]) -> float:
    """Return the 95th percentile, which is one of the values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
