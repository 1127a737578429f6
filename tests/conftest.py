"""Fixtures: tiny models, a page of text, the app, a browser and a person in front of it. Gradio and
Playwright are imported only when asked for. Nothing is downloaded."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as app.py: a browser shares the cores
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # they share the cores, too
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import pytest
import torch

from slimllm.models.loading import Subject
from tests.support import leftovers
from tests.support.tiny_models import FAMILY_CONFIGS, PAGE, tiny_model, tiny_subject, tiny_tokenizer

if TYPE_CHECKING:
    from tests.support.visitor import Browser, Visitor


def pytest_configure(config: pytest.Config) -> None:
    """Stop what an earlier run, which was killed, left running."""
    if not hasattr(config, "workerinput"):
        leftovers.mark_run()
        leftovers.stop_leftovers(own=False)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what this run left running, also where it was interrupted."""
    if not hasattr(config, "workerinput"):
        leftovers.stop_leftovers(own=True)


@pytest.fixture(params=list(FAMILY_CONFIGS))
def any_subject(request: pytest.FixtureRequest) -> Subject:
    """Return a tiny subject of each family in turn."""
    return tiny_subject(request.param)


@pytest.fixture
def tiny() -> Callable[..., Subject]:
    return tiny_subject


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny Llama, saved as a user would have it."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Return a text file of a few thousand bytes."""
    file = tmp_path / "page.txt"
    file.write_text(PAGE * 12, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run a whole file on one thread: small matrices are many times faster so, most on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All caches go to a temporary folder, and nothing is reached beyond loopback."""
    monkeypatch.setenv("SLIMLLM_HOME", str(tmp_path / "home"))
    connect = socket.socket.connect

    def loopback_only(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"
        if not str(host).startswith("127.") and str(host) not in ("::1", "localhost"):
            raise OSError(f"tests may not reach {host}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", loopback_only)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a text that fills the page's boxes."""
    from tests.support.serving import text_of

    return text_of(tmp_path_factory.mktemp("texts"), 40)


@pytest.fixture(scope="module")
def address(tiny_folder: Path) -> Iterator[str]:
    """Return the address of the app, which runs on the tiny model."""
    from tests.support.serving import served

    with served(str(tiny_folder)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a browser for one file of tests: nothing else in this process may drive one meanwhile."""
    from tests.support.serving import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(browser: Browser, address: str) -> Iterator[Visitor]:
    """Somebody who sees the page for the first time, and has nothing to complain of in the end."""
    from tests.support.visitor import Visitor

    visitor = Visitor(browser, address)
    yield visitor
    visitor.close()
