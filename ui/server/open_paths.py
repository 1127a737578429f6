"""The paths of Gradio that the page uses; all others are closed."""

from __future__ import annotations

import re

from ui.look.browser_modules import MODULES

API = "/gradio_api"
# Open before the login.
FREE = (
    r"/|/login_check|/logout|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json"
    rf"|/(assets|static|svelte)/.*|{API}/(theme\.css|startup-events)"
)
GET = re.compile(
    rf"{FREE}|/(config|app_id|user)|{API}/(info|openapi\.json|user|app_id|login_check|queue/(data|status))"
    rf"|{API}/(upload_progress|heartbeat/[^/]*|file[=/].*|call/.*)|/{MODULES}/.*"
)
POST = re.compile(rf"/login|{API}/(upload|queue/join|component_server|cancel|reset|(run|api|call)/.*)")
PAGES = re.compile(rf"{API}/heartbeat/([^/]*)")
EVENTS = re.compile(rf"{API}/call/(?:v2/)?[^/]*/([^/]*)")
