"""What a page says of itself when it loads: whose browser it is, and which tab was open before. No Gradio."""

from __future__ import annotations

# The browser's own name for itself, and the tab that was open before a reload. JavaScript reads them at once;
# a `BrowserState` may still be empty when a cold page asks for it, and then a reload would find a new session
# instead of the one with the running job.
OPENED = """() => {
  const key = "slimllm-browser";
  let id = localStorage.getItem(key);
  if (!id) {
    const bytes = crypto.getRandomValues(new Uint8Array(18));
    id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    localStorage.setItem(key, id);
  }
  const [how] = performance.getEntriesByType("navigation");
  return [id, how?.type === "navigate" ? "" : window.slimTab ?? "", null];
}"""
# Runs once the server knows the page: what is pressed before would be lost, so it is not shown (style.css).
KNOWN = '() => { document.documentElement.classList.add("known"); }'
# Wraps the event that a tab is opened.
REMEMBER = """(...given) => {
  sessionStorage.setItem("slimllm-tab", "%s");
  return given;
}"""
