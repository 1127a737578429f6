"""Serve the page's JavaScript modules. No Gradio."""

from __future__ import annotations

from starlette.responses import Response

from ui.look.browser_modules import read_modules
from ui.server.access import App, Receive, Scope, Send

# A browser may keep a module for good, because another version has another address.
KEPT = "private, max-age=31536000, immutable"


class ModuleFiles:
    """The middleware that serves the modules at the addresses of `read_modules`."""

    def __init__(self, app: App):
        self.app = app
        self.scripts = {f"/{address}": script for address, script in read_modules().items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for a module; pass on any other."""
        asked = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        script = self.scripts.get(scope["path"]) if asked else None
        if script is None:
            await self.app(scope, receive, send)
        else:
            answer = Response(script, media_type="text/javascript", headers={"Cache-Control": KEPT})
            await answer(scope, receive, send)
