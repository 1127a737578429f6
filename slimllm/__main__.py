"""The entry point of `python -m slimllm` and of the program `slimllm`."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimllm.cli.terminal import Report


def run_command(arguments: list[str]) -> int:
    """Run a command and return its exit status, 130 if it is interrupted while the libraries are loaded."""
    try:
        from slimllm.cli.main import main

        return main(arguments, serve_page)
    except KeyboardInterrupt:
        print("slimllm: cancelled before it began; nothing was changed.", file=sys.stderr)
        return 130


def serve_page(given: argparse.Namespace, report: Report) -> dict[str, Any]:
    """Start the app and run it until it ends; raise a `Refusal` if gradio or the ui folder is missing."""
    from slimllm.cli.commands import NO_PAGE
    from slimllm.cli.credentials import find_credentials
    from slimllm.core.errors import Refusal

    try:
        from ui import app
        from ui.server.address import public_url
        from ui.server.hosting import find_hosting
    except ModuleNotFoundError as failure:
        if failure.name not in ("gradio", "ui"):
            raise
        raise Refusal(NO_PAGE) from failure
    auth, warning = find_credentials(given.auth, given.auth_file, os.environ)
    if warning:
        report.say(warning)
    settings = app.Settings(
        host=given.host,
        port=given.port,
        model=given.model,
        listen=given.listen,
        auth=auth,
        public=public_url(given.public_url) if given.public_url else "",
        forwarded=given.trust_forwarded_for,
        roots=tuple(given.root or ()),
        device=given.device,
        dtype=given.dtype,
        offline=given.offline,
    )
    hosting = find_hosting(os.environ)
    app.serve_page(app.share_server(settings, hosting) if hosting else settings)
    return {"served": True}


def end_program(status: int) -> None:
    """End the program with an exit status.

    A cancelled program (status 130) ends at once. If Ctrl-C met code compiled from a string, as some
    libraries run it, Python would die of the signal whatever status we return, and with a thread inside torch
    it would dump core.
    """
    if status == 130:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run_program() -> None:
    """Run the command of the command line, and end the program with its exit status."""
    end_program(run_command(sys.argv[1:]))


if __name__ == "__main__":
    run_program()
