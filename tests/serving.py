"""The app on a free port of this machine, for tests."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import torch

from ui.app import Settings, build, launch_options


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(model: str) -> Iterator[str]:
    """The address of a running app; tiny models are fastest on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = Settings(port=free_port(), model=model, device="cpu", dtype="float32", offline=True)
    demo = build(settings)
    demo.launch(**launch_options(settings), prevent_thread_lock=True)
    try:
        yield f"http://127.0.0.1:{settings.port}/"
    finally:
        demo.close(verbose=False)
        torch.set_num_threads(threads)
