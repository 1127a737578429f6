"""Define what a page sends when it loads: its browser's id and the tab that was open before. No Gradio."""

from __future__ import annotations

# Returns the browser's id and the tab that was open before a reload. JavaScript reads both at once. A
# `BrowserState` may still be empty when a cold page asks for it, and then a reload would open a new session
# instead of the one with the running job.
OPENED = """() => {
  const key = "slimllm-browser";
  let id = null;
  try { id = localStorage.getItem(key); } catch { /* in a frame of another site, nothing may be stored */ }
  if (!id) {
    const bytes = crypto.getRandomValues(new Uint8Array(18));
    id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    try { localStorage.setItem(key, id); } catch { /* then a reload begins anew */ }
  }
  const [how] = performance.getEntriesByType("navigation");
  return [id, how?.type === "navigate" ? "" : window.slimTab ?? "", null];
}"""
# Runs once the server knows the page. A press before that would be lost, so style.css hides the controls.
KNOWN = '() => { document.documentElement.classList.add("known"); }'
# Runs when a tab is opened.
REMEMBER = """(...given) => {
  try { sessionStorage.setItem("slimllm-tab", "%s"); } catch { /* a reload opens the first tab */ }
  return given;
}"""
