"""On a host that shows the page to everybody: what the environment says, what a visitor may ask for, and the
whole program behind such a host's proxies."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import io
import json
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from slimllm.calibration import texts
from slimllm.core.errors import HIDDEN, Refusal, one_line
from slimllm.core.types import Calibration, Progress
from slimllm.files import paths, starter_kit
from tests.page.server.test_proxies import Visit
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.servers.fake_hub import Hub, serve_hub
from tests.support.servers.reverse_proxies import Way, small_proxy
from tests.support.serving import free_port
from tests.support.tiny_models import PAGE
from ui import app
from ui.facts.runs import Asked, Protocol
from ui.jobs.bounds import AT_HOME, JobBounds
from ui.jobs.visitors import Visitor
from ui.jobs.worker import Job, Steps, Worker
from ui.server import hosting
from ui.server.address import Address
from ui.server.responses import protective_headers
from ui.session import registry as registry_module
from ui.session.limits import UNLIMITED, Limits
from ui.session.registry import Registry
from ui.session.requests import text_choices
from ui.session.session import Session
from ui.session.settings import SessionSettings
from ui.tabs.history.downloads import exported_words
from ui.tasks import work

ROOT = Path(__file__).parents[3]
ON_SPACES = {
    "SYSTEM": "spaces",
    "SPACE_ID": "me/slim",
    "SPACE_HOST": "me-slim.hf.space",
    "SPACE_AUTHOR_NAME": "me",
}
pytestmark = pytest.mark.filterwarnings("ignore:.*(no_silent_downcasting|copy keyword)")  # Gradio's own


# What the environment says ----------------------------------------------------------------------------------


def test_a_machine_of_ones_own_is_no_host() -> None:
    assert hosting.find_hosting({"GRADIO_SERVER_PORT": "80", "SPACE_HOST": "x.hf.space"}) is None


def test_the_host_says_where_to_listen_and_what_the_page_is_called() -> None:
    found = hosting.find_hosting(ON_SPACES)
    assert found is not None
    assert (found.server, found.port, found.public) == ("0.0.0.0", 7860, "https://me-slim.hf.space")
    assert found.limits.models == ("smollm2", *hosting.MODELS)
    named = {"GRADIO_SERVER_NAME": "127.0.0.2", "GRADIO_SERVER_PORT": "7961", hosting.VARIABLE: "a/b, c/d,"}
    found = hosting.find_hosting({"SPACE_ID": "me/slim", **named})
    assert found is not None
    assert (found.server, found.port, found.public) == ("127.0.0.2", 7961, "")
    assert found.limits == dataclasses.replace(hosting.LIMITS, models=("smollm2", "a/b", "c/d"))


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (hosting.VARIABLE, "a/b,/etc", "SLIMLLM_MODELS lists '/etc', which is no hub id"),
        (hosting.VARIABLE, "a/b/c", "no hub id"),
        ("GRADIO_SERVER_PORT", "http", "no port"),
        ("SPACE_HOST", "a b", "no address"),
    ],
)
def test_a_variable_that_says_nothing_is_refused(variable: str, value: str, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        hosting.find_hosting({**ON_SPACES, variable: value})


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> app.Settings:
    """The settings of the page on a host, as started there."""
    for name in (starter_kit.VARIABLE, HIDDEN, paths.ROOTS, "SYSTEM"):
        monkeypatch.setenv(name, "")
    found = hosting.find_hosting(ON_SPACES)
    assert found is not None
    return app.share_server(app.Settings(model="/etc", roots=(Path("/"),)), found)


def test_a_host_serves_everybody_without_a_password_and_opens_no_file(
    shared: app.Settings, tmp_path: Path
) -> None:
    settings = app.check_settings(dataclasses.replace(shared, host="127.0.0.2", port=free_port()))
    assert (settings.model, settings.roots) == ("smollm2", ())
    assert not settings.address.unknown_host({"host": "10.1.2.3:7860"}), "the host looks whether it answers"
    assert not settings.address.foreign({"host": "x", "origin": "https://me-slim.hf.space"})
    assert settings.address.foreign({"host": "me-slim.hf.space", "origin": "https://evil.example"})
    app.declare_roots(settings)
    (tmp_path / "mine.txt").write_text("words")
    assert not paths.path_exists(tmp_path / "mine.txt")
    assert starter_kit.comes_from_hub()
    said = one_line(f"'{paths.home_folder() / 'history' / 'ab' / 'run-0001.json'}' cannot be written")
    assert said == "'…/run-0001.json' cannot be written"
    with pytest.raises(Refusal, match="needs a password"):
        app.check_settings(dataclasses.replace(settings, limits=UNLIMITED))


def test_the_address_of_a_visitor_is_the_last_public_one_in_front_of_inner_proxies() -> None:
    behind = Address(listen=True, forwarded=True, inner=True)
    for forwarded, place in {
        "9.9.9.9": "9.9.9.9",
        "1.1.1.1, 9.9.9.9, 10.0.0.7": "9.9.9.9",
        "1.1.1.1, 2620:fe::fe, 10.0.0.7, 172.16.0.1": "2620:fe::fe",
        "10.0.0.7": "10.0.0.7",
        "": "172.17.0.1",
        "9.9.9.9, nonsense": "172.17.0.1",
    }.items():
        assert behind.place(("172.17.0.1", 1), {"x-forwarded-for": forwarded}) == place, forwarded


def test_only_the_named_sites_may_frame_the_page() -> None:
    usual = protective_headers()
    assert usual["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in usual["Content-Security-Policy"]
    framed = protective_headers(frames=hosting.FRAMES)
    assert "frame-ancestors https://huggingface.co" in framed["Content-Security-Policy"]
    assert "X-Frame-Options" not in framed


# What a visitor may ask for ---------------------------------------------------------------------------------

READ, KNOWN = Calibration("encyclopedia"), "encyclopedia"
PLAN = Calibration("encyclopedia", 100_000, 1_000)
REFUSED: dict[str, tuple[Callable[[Limits], object], str]] = {
    "model": (lambda at: at.check_model("gpt2"), "'gpt2' cannot be opened here; the models of this server"),
    "folder": (lambda at: at.check_model("/etc"), "'/etc' cannot be opened here"),
    "text": (lambda at: at.check_text("/etc/hosts.txt"), "the texts of this server are encyclopedia, wiki"),
    "samples": (lambda at: at.check_calibration(PLAN), "32,768 tokens (samples × length), not 100,000,000"),
    "length": (lambda at: at.check_calibration(Calibration(KNOWN, 1, 5000)), "1,024 tokens of one sample"),
    "window": (lambda at: at.check_protocol(Protocol(KNOWN, 4096)), "1,024 tokens of one window, not 4,096"),
    "whole text": (lambda at: at.check_protocol(Protocol(KNOWN, 128, 0)), "tokens of a measurement, not all"),
    "prompts": (lambda at: at.check_answers(Asked(prompts=("x" * 5000,))), "4,000 letters of all prompts"),
    "answer": (lambda at: at.check_answers(Asked(new_tokens=4096)), "128 tokens of an answer, not 4,096"),
    "steps": (lambda at: at.check_finetuning(made_plan(), KNOWN, 20_000), "200 steps of fine-tuning"),
    "speed": (lambda at: at.check_speed(512, 64, 100), "32,768 tokens of all rounds, not 57,600"),
    "run": (lambda at: at.check_run(dataclasses.replace(made_plan(), model="/etc")), "'/etc' cannot be op"),
    "plan": (
        lambda at: at.check_comparison(dataclasses.replace(made_plan(), calibration=PLAN), Asked()),
        "(samples × length)",
    ),
}


def made_plan() -> Any:
    """A plan of the starter."""
    from slimllm.planning.plan_making import make_plan
    from slimllm.planning.rules import PlanRules

    made = make_plan(synthetic_analysis(layers=2, channels=96), PlanRules(0.2))
    return dataclasses.replace(made, model="smollm2", calibration=READ)


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_beyond_a_limit_is_one_sentence_that_says_it(name: str) -> None:
    ask, words = REFUSED[name]
    with pytest.raises(Refusal, match=re.escape(words)) as caught:
        ask(hosting.LIMITS)
    assert str(caught.value).endswith(f"({AT_HOME}).")
    ask(UNLIMITED)


def test_what_the_page_offers_at_first_is_within_the_limits() -> None:
    at = hosting.LIMITS
    at.check_model("smollm2")
    at.check_comparison(dataclasses.replace(made_plan(), calibration=Calibration()), Asked())
    at.check_finetuning(made_plan(), "encyclopedia", 100)
    at.check_speed(128, 32, 5)
    at.check_text("encyclopedia/Mathematics")
    assert {name.partition("/")[0] for _, name in text_choices(at)} == {"encyclopedia", "wikitext2"}
    assert "c4" in dict(map(reversed, text_choices()))  # type: ignore[arg-type]
    assert not UNLIMITED.shared


def waiting_job(end: threading.Event, place: str) -> Job:
    """A job of a visitor from a place, which goes on until `end`."""

    def run_steps(_: Job) -> Steps:
        yield Progress("work", 0, 1)
        end.wait(20)
        yield Progress("work", 1, 1)

    return Job("work", "Work", run_steps, owner=Visitor("", place))


def test_a_visitor_has_one_job_at_a_time_and_the_queue_is_bounded() -> None:
    end, worker = threading.Event(), Worker(JobBounds(each=1, waiting=2))
    jobs = [worker.submit(waiting_job(end, "one"))]
    while jobs[0].state == "queued":
        time.sleep(0.01)
    with pytest.raises(Refusal, match=r"You have 1 job on this server already, and a visitor may have 1 at"):
        worker.submit(waiting_job(end, "one"))
    jobs += [worker.submit(waiting_job(end, place)) for place in ("two", "three")]
    assert [worker.place(job) for job in jobs] == [0, 1, 2]
    with pytest.raises(Refusal, match=r"The server is busy: 2 jobs wait already.*try again in a minute"):
        worker.submit(waiting_job(end, "four"))
    spare = dataclasses.replace(waiting_job(end, "one"), spare=True)
    worker.submit(spare)
    end.set()
    for job in (*jobs, spare):
        assert job.finished.wait(20)
        assert job.state == "done", job.error
    assert worker.submit(waiting_job(end, "one")).finished.wait(20), "the next job of the same visitor"


def test_a_job_that_takes_too_long_is_stopped_and_says_so() -> None:
    closed = threading.Event()

    def run_steps(_: Job) -> Steps:
        try:
            while True:
                time.sleep(0.01)
                yield Progress("work", 0, 1)
        finally:
            closed.set()

    job = Worker(JobBounds(seconds=0.05)).submit(Job("work", "Work", run_steps))
    assert job.finished.wait(20)
    assert closed.is_set()
    assert job.state == "failed"
    assert re.match(r"Work was stopped: a job on this server may take 0\.000\d+ minutes; ask for", job.error)


def shared_registry(**changes: Any) -> Registry:
    """A registry whose sessions have the limits of a host."""
    limits = dataclasses.replace(hosting.LIMITS, **changes)
    return Registry(settings=SessionSettings("cpu", "float32", True, limits))


def test_a_forbidden_model_is_refused_before_it_waits() -> None:
    registry = shared_registry()
    session = registry.open(None, Visitor("", "9.9.9.9"))
    with pytest.raises(Refusal, match="cannot be opened here"):
        work.start_load(registry, session, "/etc")
    assert session.job is None
    assert session.visitor.place == "9.9.9.9"
    assert registry.worker.bounds == hosting.LIMITS.jobs


def test_two_pages_of_a_visitor_share_one_job_at_a_time() -> None:
    registry, end = shared_registry(), threading.Event()
    here, also, other = (registry.open(None, Visitor("", place)) for place in ("one", "one", "two"))
    first = here.begin(registry.worker, waiting_job(end, ""))
    with pytest.raises(Refusal, match="You have 1 job on this server already"):
        also.begin(registry.worker, waiting_job(end, ""))
    assert also.job is None
    second = other.begin(registry.worker, waiting_job(end, ""))
    end.set()
    assert first.finished.wait(20)
    assert second.finished.wait(20)
    assert also.begin(registry.worker, waiting_job(end, "")).finished.wait(20)


def test_a_session_left_alone_makes_room_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [math.inf]
    monkeypatch.setattr(registry_module, "available_mib", lambda: free[0])
    registry = shared_registry()
    session = registry.open("a" * 20)
    session.touched -= registry_module.CROWDED_SECONDS + 1
    registry.open("b" * 20)
    assert len(registry) == 2
    free[0] = 1_000.0
    registry.open("b" * 20)
    assert len(registry) == 1
    assert registry.open("b" * 20) is not session


def test_exports_on_a_host_go_with_the_session_and_name_no_folder() -> None:
    session = Session("s" * 20, SessionSettings(limits=hosting.LIMITS))
    folder = work.exports_folder(session)
    assert folder.is_relative_to(session.folder)
    (folder / "old").mkdir(parents=True)
    assert not (work.exports_folder(session) / "old").exists(), "the next one replaces it"
    made = {"tier": "native", "bytes": 5, "folder": "/home/user/x", "words": "", "max_logit_difference": 0.0}
    assert "/home/user/x" in exported_words(made)
    assert "/home" not in exported_words(made, shared=True)
    session.close()


# The whole program ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Space:
    """A running Space: its address, the folder with its caches, and the hub that it reaches."""

    host: tuple[str, int]
    home: Path
    hub: Hub


@pytest.fixture(scope="module")
def space(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """The program as the host starts it, with a hub that holds the starter's model and text."""
    home, text = tmp_path_factory.mktemp("space"), tmp_path_factory.mktemp("text")
    wikitext = texts.HUB_SETS[starter_kit.HUB_TEXT]
    for file in wikitext.files.values():
        (text / file).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table({"text": [PAGE] * 40}), text / file)
    hub, port = Hub({starter_kit.HUB_MODEL[0]: tiny_folder, wikitext.path: text}), free_port()
    with serve_hub(hub) as endpoint:
        given = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        given |= ON_SPACES | {
            "GRADIO_SERVER_NAME": "127.0.0.2",
            "GRADIO_SERVER_PORT": str(port),
            "SLIMLLM_HOME": str(home / "slimllm"),
            "HF_HOME": str(home / "hub"),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        log = home / "log.txt"
        with log.open("w") as out:
            program = subprocess.Popen(
                [sys.executable, "app.py"], cwd=ROOT, env=given, stdout=out, stderr=out
            )
        try:
            until = time.monotonic() + 120
            while "slimllm is ready: https://me-slim.hf.space" not in log.read_text():
                assert program.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.1)
            yield Space(("127.0.0.2", port), home, hub)
        finally:
            program.terminate()
            program.wait(20)
        assert "Traceback" not in log.read_text(), log.read_text()


@contextlib.contextmanager
def visitor_at(space: Space, place: str) -> Iterator[int]:
    """The port of the host's proxy for a visitor from a place."""
    way = Way(
        headers=(
            ("Host", "me-slim.hf.space"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-For", f"{place}, 10.1.2.3"),
        )
    )
    with small_proxy(space.host, way) as port:
        yield port


def client(port: int) -> Callable[..., Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        made = Client(f"http://127.0.0.1:{port}/", verbose=False)
    return lambda name, **values: made.predict(api_name=f"/{name}", **values)


def refused(space: Space, call: Callable[..., Any], name: str, **values: Any) -> str:
    """The sentence of a refusal, which names no folder of the machine."""
    with pytest.raises(AppError) as caught:
        call(name, **values)
    said = str(caught.value)
    assert "\n" not in said
    assert not [place for place in (space.home, ROOT, sys.prefix) if str(place) in said], said
    return said


@pytest.mark.slow
def test_the_page_opens_on_the_host(space: Space) -> None:
    with visitor_at(space, "9.9.9.9") as port:
        visit = Visit(port, "", origin="https://me-slim.hf.space")
        config = visit.config()
        assert config["root"] == "https://me-slim.hf.space"
        assert "one of: smollm2, HuggingFaceTB/SmolLM2-135M" in json.dumps(config)
        assert "language model" in json.dumps(visit.attach(config)["data"])
        headers = visit.ask("/").headers
        assert "frame-ancestors https://huggingface.co" in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] is None
    with socket.create_connection(space.host, 10) as line:
        line.sendall(b"GET / HTTP/1.0\r\nHost: 10.0.0.9:7860\r\n\r\n")
        assert b" 200 " in line.recv(64), "the host itself asks by another name"


@pytest.mark.slow
def test_visitors_of_a_host_are_kept_apart_and_within_limits(space: Space) -> None:
    with visitor_at(space, "9.9.9.9") as first, visitor_at(space, "8.8.4.4") as second:
        one, two = client(first), client(second)
        assert (one("load")["family"], one("load")["layers"]) == ("llama", 3)
        assert starter_kit.HUB_MODEL[1] in space.hub.asked
        one("analyse", samples=8, length=32)
        one("plan", ratio=0.3)
        made = one("prune", window=32, limit=256)
        assert [model["name"] for model in made["models"]] == ["dense", "pruned", "recovered"]
        assert one("generate", prompt="A model", max_new_tokens=4)["prompt"] == "A model"

        assert "No model is loaded" in refused(space, two, "generate", prompt="A model")
        assert "No run is chosen" in refused(space, two, "export")
        (run,) = (space.home / "slimllm" / "history").rglob("run-*.json")
        for port in (first, second):
            answer = Visit(port, "").ask(f"/gradio_api/file={run}")
            assert answer.status == 403, answer.read()

        for name, values, words in (
            ("load", {"model": "/etc/passwd"}, "'/etc/passwd' cannot be opened here"),
            ("load", {"model": str(space.home / "hub")}, "cannot be opened here"),
            ("load", {"model": "openai-community/gpt2"}, "the models of this server are smollm2"),
            ("analyse", {"text": "/etc/hosts.txt"}, "the texts of this server are encyclopedia"),
            ("analyse", {"samples": 100_000}, "up to 32,768 tokens (samples × length), not 25,600,000"),
            ("prune", {"limit": 0}, "up to 32,768 tokens of a measurement, not all"),
            ("generate", {"prompt": "A", "max_new_tokens": 4096}, "up to 128 tokens of an answer"),
        ):
            said = refused(space, one, name, **values)
            assert words in said
            assert AT_HOME in said
        line = http.client.HTTPConnection(*space.host, timeout=20)
        line.putrequest("POST", "/gradio_api/upload")
        line.putheader("Content-Type", "multipart/form-data; boundary=x")
        line.putheader("Content-Length", "3000000")
        line.endheaders()
        answer = line.getresponse()
        said = answer.read().decode()
        assert (answer.status, said.count("\n")) == (413, 0)
        assert "uploads of up to 2,000,000 bytes" in said
        assert AT_HOME in said
