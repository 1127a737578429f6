"""The page as a whole: its settings, its five tabs, and the server behind it."""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# By default, Gradio makes a table of up to 10,000 past events at every event.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")

import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from huggingface_hub.constants import HF_HOME
from starlette.middleware import Middleware

from slimllm.core.errors import Refusal, hide_folders
from slimllm.files import atomic_write, paths, starter_kit
from ui.look import theme
from ui.page.events import EVENTS, Served
from ui.page.page_states import MOST_PAGES, PageStates
from ui.page.screen import Screen
from ui.server import access, api, delivery
from ui.server.address import HERE, Address
from ui.server.hosting import FRAMES, Hosting, upload_limit
from ui.server.module_files import ModuleFiles
from ui.server.request_limits import UPLOAD
from ui.server.responses import Safe
from ui.session.kept import crash_recovery
from ui.session.limits import UNLIMITED, Limits
from ui.session.registry import REGISTRY
from ui.session.settings import SessionSettings
from ui.tabs import load_tab
from ui.tabs.analyse import analyse_tab
from ui.tabs.compare import compare_tab
from ui.tabs.history import history_tab
from ui.tabs.tune import preview_panel, tune_tab
from ui.tour import tour

# The fewest characters of a password: others may guess at it, but only a few times an hour.
SHORTEST = 8
# Seconds that a job has to end when the program is interrupted.
PATIENCE = 3.0
PAGES_CSS = theme.STYLES / "pages.css"


@dataclass(frozen=True)
class Settings:
    """How the app is served, and what the model box contains at first.

    `listen` lets other machines connect, which needs `auth` (user, password). `public` is the address at
    which a proxy serves the page, or empty, and `forwarded` says that the proxy names the visitor's address.
    `roots` are the folders in which files may be opened. `limits` are what a visitor may ask of a server for
    everybody, and `frames` the sites that may show the page in a frame. `inner` says that the host has
    further proxies behind the one that visitors reach.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    model: str | None = "smollm2"
    listen: bool = False
    auth: tuple[str, str] | None = None
    public: str = ""
    forwarded: bool = False
    roots: tuple[Path, ...] = ()
    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    limits: Limits = UNLIMITED
    frames: tuple[str, ...] = ()
    inner: bool = False

    @property
    def session_settings(self) -> SessionSettings:
        """The settings that the sessions of the page follow."""
        return SessionSettings(self.device, self.dtype, self.offline, self.limits)

    @property
    def address(self) -> Address:
        """How the server can be reached."""
        return Address(self.listen, self.public, self.forwarded, self.inner)

    @property
    def server(self) -> str:
        """The name that the server binds; an IPv6 address is in brackets."""
        if self.listen and self.host in HERE:
            return "0.0.0.0"
        return f"[{self.host.strip('[]')}]" if ":" in self.host else self.host


def build_page(settings: Settings) -> Served:
    """Return the page; sessions that are made from now on follow these settings."""
    REGISTRY.settings = settings.session_settings
    # The variable may be set for other apps; this one serves no folder.
    os.environ.pop("GRADIO_ALLOWED_PATHS", None)
    # A header can be forged, so only `access.Door` decides who the visitor is.
    os.environ["FORWARDED_ALLOW_IPS"] = ""
    with Served(title="slimllm", delete_cache=(3600, 7200), analytics_enabled=False) as demo:
        screen = Screen()
        with gr.Row(elem_id="masthead"):
            gr.HTML(
                "<h1>slimllm</h1>"
                '<p class="tagline">Make a language model smaller, and see what that costs.</p>',
                padding=False,
            )
            gr.Button("Present", elem_id="present-start", scale=0, min_width=100)
            start = gr.Button("Take the tour", elem_id="tour-start", scale=0, min_width=130)
        model = settings.model or "smollm2"
        tour.build(screen, start, partial(load_tab.press_load, source=model))
        with gr.Tabs(selected="load", elem_id="tabs") as screen.tabs:
            with gr.Tab("Load", id="load"):
                load_tab.build(screen, model)
            with gr.Tab("Analyse", id="analyse") as tab:
                analyse_tab.build(screen)
                screen.on(tab.select, "analyse", analyse_tab.show_tab)
            with gr.Tab("Tune", id="tune") as tab:
                tune_tab.build(screen)
                screen.on(tab.select, "preview", preview_panel.show_tab)
            with gr.Tab("Compare", id="compare"):
                compare_tab.build(screen)
            with gr.Tab("History", id="history"):
                history_tab.build(screen)
        screen.wire(demo)
        api.register_endpoints()
    return demo


def launch_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments for Gradio's `launch`, in tests as well.

    Only this machine can connect unless `listen` is set. Nothing is recorded, and nothing is loaded from
    another server.
    """

    @asynccontextmanager
    async def guard_app(app: Any) -> AsyncIterator[None]:
        app.state_holder = PageStates(app.get_blocks())
        app.middleware_stack = access.Door(app.middleware_stack, settings.address, upload=upload)
        yield

    upload = upload_limit(settings.limits) if settings.limits.shared else UPLOAD
    # The middleware inside Gradio's own, the outermost first.
    layers = [
        Middleware(Safe, frames=settings.frames),
        Middleware(delivery.Delivery),
        Middleware(ModuleFiles),
    ]

    return {
        "server_name": settings.server,
        "server_port": settings.port,
        "share": False,
        "auth": settings.auth,
        "quiet": True,
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": [],
        "show_error": False,
        "ssr_mode": False,
        "pwa": False,
        "root_path": settings.public,
        "max_threads": EVENTS,
        "max_file_size": upload.most,
        "state_session_capacity": MOST_PAGES,
        "auth_message": access.TOLD,
        "app_kwargs": {"middleware": layers, "lifespan": guard_app},
        "theme": theme.build_theme(),
        "css": theme.style_sheet() + PAGES_CSS.read_text(encoding="utf-8"),
        "head": theme.head_scripts(),
    }


def check_settings(settings: Settings) -> Settings:
    """Return the settings if they can be served.

    Raise `Refusal` if other machines could connect without a password of SHORTEST characters, unless the
    server is for everybody, or if the port is impossible or in use.
    """
    if settings.listen and not settings.auth and not settings.limits.shared:
        raise Refusal(
            "Serving to other machines needs a password; write user:password into a file and add "
            "--auth-file FILE."
        )
    if settings.auth and settings.listen and len(settings.auth[1]) < SHORTEST:
        raise Refusal(
            f"The password is too short to be safe from guessing; use {SHORTEST} characters or more."
        )
    if not settings.listen and settings.host not in HERE:
        raise Refusal(
            f"Host '{settings.host}' can be reached by others; add --listen and --auth-file FILE (one line, "
            "user:password) for that."
        )
    if not 0 < settings.port < 65536:
        raise Refusal(f"Port {settings.port} is not possible; use one from 1 to 65535.")
    host = settings.server.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # On Windows this would take the port away from a program that uses it.
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, settings.port))
        except OSError as failure:
            raise Refusal(
                f"Port {settings.port} on {settings.host} cannot be used ({failure.strerror}); choose "
                "another with --port."
            ) from None
    return settings


def declare_roots(settings: Settings) -> None:
    """Let only files in the named folders be opened, and the model at which the page starts.

    Without named folders every file may be opened, unless other machines may connect.
    """
    if settings.roots or settings.listen:
        mine = [model for model in (settings.model,) if model and os.path.exists(model)]
        paths.declare_roots([*settings.roots, *mine])


def share_server(settings: Settings, hosting: Hosting) -> Settings:
    """Return the settings with which a host shows the page to everybody; a password stays.

    From now on the starter comes from the model hub, no file of this machine may be named, and no message
    names a folder of it.
    """
    starter_kit.take_from_hub()
    # Gradio would watch the files for changes and serve the page by other rules.
    os.environ.pop("SYSTEM", None)
    own = (theme.STYLES.parents[1], paths.home_folder(), HF_HOME, tempfile.gettempdir(), sys.prefix)
    hide_folders(dict.fromkeys(map(str, (*own, Path.home()))))
    return replace(
        settings,
        host=hosting.server,
        port=hosting.port,
        model=starter_kit.STARTER,
        listen=True,
        public=hosting.public,
        forwarded=True,
        inner=True,
        roots=(),
        limits=hosting.limits,
        frames=FRAMES,
    )


def serve_page(settings: Settings) -> None:
    """Serve the page until the process is interrupted.

    Raise `Refusal` if the settings cannot be served or the cache folder cannot be written.
    """
    check_settings(settings)
    declare_roots(settings)
    atomic_write.check_folder(paths.home_folder(), paths.ELSEWHERE)
    say = partial(print, flush=True)
    crash_recovery.recover_all(say)
    crash_recovery.keep_private(say)
    copies, leave = crash_recovery.page_folder()
    # Gradio stores uploads there, and copies of all files that are downloaded.
    os.environ["GRADIO_TEMP_DIR"] = str(copies)
    demo = build_page(settings)
    demo.launch(**launch_options(settings), prevent_thread_lock=True)
    name = f"[{settings.host.strip('[]')}]" if ":" in settings.host else settings.host
    print(f"slimllm is ready: {settings.public or f'http://{name}:{settings.port}'}", flush=True)
    try:
        while demo.is_running:
            time.sleep(0.2)
    finally:
        # The running job ends after its present step, or with the program.
        REGISTRY.worker.stop_all(PATIENCE)
        demo.close(verbose=False)
        leave()
