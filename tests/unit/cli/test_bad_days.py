"""Bad days: kills, full and read-only disks, Ctrl-C, in the program as a user starts it. Nothing finished is
lost, nothing half-written passes for finished, and the next start says what it found.

What a page does when Stop is pressed, when its tab closes or reloads and when the program is started anew is
tested where there is a browser: test_browser.py, test_browser_training.py (Stop), test_browser_history.py.
Ctrl-C during evaluate and during a training: test_cli.py.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from slimllm import pipeline
from slimllm.analysis import analysis_store
from slimllm.calibration import texts
from slimllm.cli import main
from slimllm.core.errors import Refusal
from slimllm.core.process_memory import resident_mib
from slimllm.core.types import Analysis, Calibration, Progress
from slimllm.files import atomic_write
from slimllm.models.loading import load_model
from slimllm.planning import forecast, plan_json, plan_making
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.made_up_runs import family
from tests.support.serving import free_port
from tests.support.tiny_models import PAGE, tiny_model, tiny_tokenizer
from ui.facts.runs import Asked, Protocol
from ui.jobs.worker import Job
from ui.session.kept import presets
from ui.session.kept.run_store import RunStore
from ui.session.registry import Registry
from ui.session.session import Session
from ui.session.settings import SessionSettings
from ui.tabs.history import downloads
from ui.tasks import comparing, work

ROOT = Path(__file__).parents[3]
LAYERS, SAMPLES, LENGTH = 12, 96, 128
OWNER = "a" * 24
PATIENCE = 240  # seconds: other programs may keep the machine busy


# A program, and what is done to it ------------------------------------------------------------------------


@dataclass(frozen=True)
class End:
    """How a program ended."""

    status: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return (self.err.strip().splitlines() or [""])[-1]

    def answer(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


class Program:
    """`python -m slimllm …`, running; what it says goes to files, so that it never waits for a reader."""

    def __init__(self, folder: Path, *arguments: object, home: Path | None = None, **more: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        env = {**os.environ, "OMP_NUM_THREADS": "1", "SLIMLLM_HOME": str(home or folder / "home"), **more}
        with self.out.open("w") as out, self.err.open("w") as err:
            command = [sys.executable, "-m", "slimllm", *map(str, arguments)]
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=err)

    def until(self, fact: Callable[[], Any]) -> Program:
        """Waits for a fact that the program brings about."""
        end = time.monotonic() + PATIENCE
        while not fact():
            assert self.process.poll() is None, f"it ended before: {self.err.read_text()}"
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.001)
        return self

    def said(self, words: str) -> Callable[[], bool]:
        return lambda: words in self.out.read_text() + self.err.read_text()

    def end(self, how: int | None = None) -> End:
        """Ends it by a signal, or waits until it is done."""
        if how is not None:
            self.process.send_signal(how)
        status = self.process.wait(PATIENCE)
        return End(status, self.out.read_text(), self.err.read_text())


def there(folder: Path, pattern: str) -> Callable[[], bool]:
    """Whether something of this name is in the folder."""
    return lambda: any(folder.glob(pattern))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class Bench:
    """What all bad days happen to: a model of twelve layers, a text, an analysis and a plan."""

    model: Path
    text: Path
    plan: Path
    analysis: Analysis

    def reading(self, samples: int = SAMPLES, seed: int = 0) -> list[object]:
        words = ["--model", self.model, "--text", self.text, "--dtype", "float32", "--seed", seed]
        return [*words, "--samples", samples, "--length", LENGTH]

    def analysed(self, seed: int, folder: Path | None = None) -> Analysis:
        subject = load_model(str(self.model), device="cpu", dtype="float32")
        calibration = Calibration(str(self.text), SAMPLES, LENGTH, seed)
        return pipeline.finish_job(
            pipeline.analyse_model(subject, texts.find_text(str(self.text)), calibration, folder=folder)
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("bench")
    tiny_model("llama", num_hidden_layers=LAYERS).save_pretrained(root / "tiny")
    tiny_tokenizer().save_pretrained(root / "tiny")
    (root / "page.txt").write_text(PAGE * 400, encoding="utf-8")
    made = Bench(root / "tiny", root / "page.txt", root / "plan.json", Analysis.__new__(Analysis))
    made = Bench(made.model, made.text, made.plan, made.analysed(0))
    plan_json.save_plan(plan_making.make_plan(made.analysis, PlanRules(0.25)), made.plan)
    return made


# kill −9 --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bad_day_kill_during_analyse(bench: Bench, tmp_path: Path) -> None:
    out, pulse = tmp_path / "a", tmp_path / "a/.moments.unfinished/layer_003.safetensors"
    analysis_store.save_analysis(bench.analysed(0, out / "moments"), out)
    before = contents(out)
    line = ["analyse", *bench.reading(seed=1), "--out", out, "--json"]
    Program(tmp_path / "1", *line).until(pulse.is_file).end(signal.SIGKILL)
    left = contents(out)
    assert {name: left[name] for name in before} == before, "analysis and moments are as they were"
    assert {name.split("/")[0] for name in left.keys() - before.keys()} == {".moments.unfinished"}
    assert analysis_store.open_analysis(out).calibration.seed == 0
    done = Program(tmp_path / "2", *line).end()
    assert re.search(r"interrupted; the moments of \d+ of 12 layers are used again\.", done.err)
    whole_one = bench.analysed(1)
    assert done.answer()["layer_cosine"] == list(whole_one.cosine)
    found = analysis_store.open_analysis(out)
    for here, there in zip(found.layers, whole_one.layers, strict=True):
        assert torch.equal(here.mlp.ranking.order, there.mlp.ranking.order)
        assert torch.equal(here.mlp.ranking.scores, there.mlp.ranking.scores)
    assert sorted(p.name.split("-")[0] for p in out.iterdir()) == [
        "analysis",
        "analysis.json",
        "channel_scores.safetensors",
        "moments",
    ]


@pytest.mark.slow
def test_bad_day_kill_during_prune_and_export(bench: Bench, tmp_path: Path) -> None:
    """The same command is killed at three moments, each time found by the next one, and then let be."""
    small, text = tmp_path / "small", texts.find_text(str(bench.text))
    subject = load_model(str(bench.model), device="cpu", dtype="float32")
    plan = plan_making.make_plan(bench.analysis, PlanRules(0.1))
    earlier = pipeline.finish_job(pipeline.prune_model(subject, plan, text))
    with contextlib.closing(work.checkpoint.export_checkpoint(earlier, small)) as job:
        for _ in job:
            pass
    before = contents(small)
    line = ["prune", "--model", bench.model, "--dtype", "float32", "--plan", bench.plan, "--out", small]
    other = Program(tmp_path / "other", *line[:-1], tmp_path / "twin/small", "--json")
    moments = {
        "pruning": lambda running: running.said("Layer 1 of 12 pruned"),
        "writing": lambda _: there(tmp_path, ".small.*.partial"),
        "proving": lambda _: there(tmp_path, ".small.*.partial/new/plan.json"),
    }
    told = "interrupted while it wrote"
    for number, (name, moment) in enumerate(moments.items()):
        running = Program(tmp_path / name, *line)
        ended = running.until(moment(running)).end(signal.SIGKILL)
        assert contents(small) == before, name
        assert len([*tmp_path.glob(".small.*")]) == (number > 0)
        assert (told in ended.err) == (number > 1)
    done = Program(tmp_path / "last", *line, "--json").end()
    assert done.err.count(told) == 1
    assert f"'{small}'; its unfinished part was removed, and what was complete before is in its" in done.err
    assert done.answer()["verified"]
    assert not [*tmp_path.glob(".small.*")]
    assert (small / "model.safetensors").read_bytes() != before["model.safetensors"]
    assert other.end().answer()["verified"]
    assert contents(tmp_path / "twin/small") == contents(small), "the same plan gives the same bytes"


def test_bad_day_kill_between_two_renames(tmp_path: Path) -> None:
    """What a kill at the worst moment leaves: the earlier export moved away, the new one not yet there."""
    (tmp_path / ".small.0123abcd.partial/old").mkdir(parents=True)
    (tmp_path / ".small.0123abcd.partial/old/slimllm.json").write_text("{}")
    (tmp_path / ".small.0123abcd.partial" / atomic_write.MARK).touch()
    (tmp_path / ".small.4567cdef.begun").mkdir()
    os.utime(tmp_path / ".small.4567cdef.begun", (1, 1))
    said: list[str] = []
    atomic_write.mend_leftovers(tmp_path / "small", said.append)
    assert len(said) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["small"]
    with atomic_write.replace_folder(tmp_path / "small", "It failed", spendable=Path.is_dir) as made:
        (made / "new").touch()
        atomic_write.mend_leftovers(tmp_path / "*", said.append)
        assert made.is_dir(), "what somebody is writing is left alone"
    assert len(said) == 1
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["small", "small/new"]


def client_of(port: int) -> Any:
    from gradio_client import Client

    return Client(f"http://127.0.0.1:{port}", verbose=False, analytics_enabled=False)


def upload(port: int, content: bytes) -> None:
    """A file chosen on the page."""
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="plan.json"\r\n\r\n'
    body, kind = part + content + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}
    where = f"http://127.0.0.1:{port}/gradio_api/upload"
    urllib.request.urlopen(urllib.request.Request(where, body, kind)).close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_bad_day_kill_of_the_page(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, port, temporary = tmp_path / "home", free_port(), tmp_path / "tmp"
    temporary.mkdir()
    serve = ["serve", "--port", port, "--model", bench.model, "--dtype", "float32", "--offline"]
    page = Program(tmp_path / "1", *serve, home=home, TMPDIR=str(temporary))
    page.until(page.said("ready"))
    client = client_of(port)
    upload(port, b"a plan")
    assert [f.read_bytes() for f in temporary.rglob("plan.json")] == [b"a plan"]
    client.predict(str(bench.model), api_name="/load")
    client.predict(str(bench.text), 8, 32, 0, "slimllm", None, api_name="/analyse")
    client.predict(0.25, api_name="/plan")
    run = client.predict(str(bench.text), 32, 512, api_name="/prune")
    client.submit("auto", api_name="/export")
    page.until(there(home, "exports/.*.partial/new/plan.json")).end(signal.SIGKILL)
    assert there(temporary, "slimllm-session-*")()
    owner = "api-" + hashlib.sha256(client.session_hash.encode()).hexdigest()[:32]
    monkeypatch.setenv("SLIMLLM_HOME", str(home))
    RunStore(owner).put(family(synthetic_analysis(layers=4, channels=64))[1])
    half = RunStore(owner).folder / ".run-0003.json.0123abcd.partial"
    half.mkdir()
    (half / atomic_write.MARK).touch()
    (half / "run-0003.json").write_text('{"format"')

    page = Program(tmp_path / "2", *serve, home=home, TMPDIR=str(temporary))
    ended = page.until(page.said("ready")).end(signal.SIGINT)
    assert "An earlier run was interrupted; removed: an unfinished export, an unfinished file" in ended.out
    assert ended.status == 130
    assert not [*home.rglob(".*.partial"), *(home / "exports").iterdir()]
    left = [path for path in temporary.rglob("*") if "gradio" not in path.parts[len(temporary.parts) :][0]]
    assert not left, "also of what was uploaded, and of the check in a fresh process"
    session = Registry().open(owner)
    assert [one.number for one in session.runs] == [run["run"], 2]
    assert session.archive.damaged == []
    _, words = session.notes["load"]
    assert re.fullmatch(r"Export, begun .*, was going on when the program ended: nothing of it .*", words)
    assert "load" not in Registry().open(owner).notes, "it is told once"


# Full and read-only disks ---------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own in this folder; skipped where nothing may be mounted."""
    folder.mkdir(exist_ok=True)
    made = subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=512k", "tmpfs") as folder:
        yield folder


def fill(disk: Path, leave: int = 0) -> None:
    """Leaves so many bytes free on a disk."""
    usage = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        file.write(b"x" * max(0, usage.f_bavail * usage.f_frsize - leave))


def refused(capsys: pytest.CaptureFixture[str], *line: object) -> str:
    """The one sentence with which a command refuses."""
    capsys.readouterr()
    assert main.main([*map(str, line)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    said = [row for row in err.splitlines() if row.startswith("slimllm: ")]
    assert len(said) == 1
    return said[0]


@pytest.mark.slow
def test_bad_day_disk_full_during_moments(bench: Bench, small_disk: Path, tmp_path: Path) -> None:
    out = small_disk / "a"
    out.mkdir()
    ended = Program(tmp_path / "1", "analyse", *bench.reading(), "--out", out).end()
    assert ended.status == 2
    assert ended.last == (
        f"slimllm: The moments in '{out}' cannot be written (No space left on device); free space or choose "
        "another place."
    )
    assert "Traceback" not in ended.err
    assert contents(small_disk) == {}


def test_bad_day_disk_full_during_analysis_and_plan(
    bench: Bench, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = plan_making.make_plan(bench.analysis, PlanRules(0.1))
    plan_json.save_plan(tiny, small_disk / "plan.json")
    small = family_analysis()
    analysis_store.save_analysis(small, small_disk / "a")
    fill(small_disk)
    before = contents(small_disk)
    with pytest.raises(
        Refusal, match=r"analysis in '.*/a' cannot be written \(No space left on device\); free"
    ):
        analysis_store.save_analysis(small, small_disk / "a")
    said = refused(
        capsys, "plan", "--analysis", small_disk / "a", "--ratio", 0.2, "--out", small_disk / "plan.json"
    )
    assert "The plan cannot be written to" in said
    assert "(No space left on device); free space or choose another place." in said
    assert contents(small_disk) == before
    assert analysis_store.open_analysis(small_disk / "a").shape == small.shape
    assert plan_json.read_plan(small_disk / "plan.json") == tiny


def family_analysis() -> Analysis:
    return synthetic_analysis(layers=2, heads=4, groups=2, head_size=8, channels=32)


@pytest.mark.slow
@pytest.mark.parametrize("free", [0.5, 1.2])
def test_bad_day_disk_full_during_export(
    free: float, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too little for the weights, which is said before they are written; and just not enough for the rest."""
    weights = 4 * forecast.forecast_plan(bench.analysis, plan_json.read_plan(bench.plan)).parameters
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as disk:
        fill(disk, int(free * weights) // 4096 * 4096 if free < 1 else weights + 60_000)
        before = contents(disk)
        said = refused(
            capsys,
            "prune",
            "--model",
            bench.model,
            "--dtype",
            "float32",
            "--plan",
            bench.plan,
            "--out",
            disk / "small",
        )
        assert "free space or name another folder." in said
        assert ("The export needs" in said) == (free < 1)
        assert ("No space left on device" in said) == (free > 1)
        assert contents(disk) == before
        assert not [*disk.glob(".*")]


def test_bad_day_disk_full_during_history_report_and_zip(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = family(family_analysis(), (0.1,))
    monkeypatch.setenv("SLIMLLM_HOME", str(small_disk / "home"))
    session = Registry().open(OWNER)
    session.archive.add(first)
    full = pytest.raises(
        Refusal, match=r"Run 2 could not be kept on disk \(No space left.*; free space or set"
    )
    fill(small_disk)
    before = contents(small_disk)
    with full:
        session.archive.add(second)
    assert [run.number for run in session.runs] == [1, 2], "it is still there, and can be tried once more"
    with pytest.raises(Refusal, match=r"The preset could not be kept on disk \(No space left"):
        presets.write_presets(session.id, {"mine": first.plan})
    assert contents(small_disk) == before
    session.folder = small_disk / "page"
    session.folder.mkdir()
    drawn = downloads.draw_downloads(session)
    assert "The report cannot be written (No space left on device); free space" in drawn[-1]
    (tmp_path / "export").mkdir()
    (tmp_path / "export/weights").write_bytes(os.urandom(100_000))
    packed = work.pack_export(tmp_path / "export", session.folder)
    assert re.search(
        r"The zip .* could not be packed \(.*No space left.*; free space for it", packed["unpacked"]
    )
    assert contents(small_disk) == before
    (small_disk / "filler").unlink()
    session.archive.amend(2, note="kept after all")
    assert [run.number for run in Registry().open(OWNER).runs] == [1, 2]
    assert downloads.draw_downloads(session)[-1] == ""
    assert (session.folder / "report-run2.html").is_file()


@pytest.mark.slow
def test_bad_day_folder_read_only(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, locked = tmp_path / "out", "(Read-only file system)"
    analysis_store.save_analysis(family_analysis(), out / "a")
    before = contents(out)
    with mounted(out, "--bind", "-o", "ro", str(out)):
        model = ["--model", bench.model, "--dtype", "float32"]
        assert f"'{out}/new' cannot be written to {locked}; choose another --out." in refused(
            capsys, "analyse", *bench.reading(8), "--out", out / "new"
        )
        assert f"The plan cannot be written to '{out}/p.json' {locked}" in refused(
            capsys, "plan", "--analysis", out / "a", "--ratio", 0.2, "--out", out / "p.json"
        )
        said = refused(capsys, "prune", *model, "--plan", bench.plan, "--out", out / "small")
        assert said == f"slimllm: Nothing can be written in '{out}'; name another folder."
        said = refused(capsys, "tune", "--model", bench.model, "--text", bench.text, "--out", out / "small")
        assert said == f"slimllm: Nothing can be written in '{out}'; name another folder."
        ended = Program(tmp_path / "1", "serve", "--port", free_port(), home=out / "home").end()
        assert (ended.status, ended.out) == (2, "")
        assert ended.last == (
            f"slimllm: '{out}/home' cannot be written to {locked}; set SLIMLLM_HOME to another folder."
        )
    assert contents(out) == before


# Ctrl-C ---------------------------------------------------------------------------------------------------

INTERRUPTED = {  # command → its line, and what is waited for
    "methods": ("methods", "start"),
    "card": ("card {model}", "start"),
    "plan": ("plan --analysis {out}/a --ratio 0.2 --out {out}/plan.json", "start"),
    "analyse": ("analyse {reading} --out {out}/a", "a/.moments.unfinished/layer_002.safetensors"),
    "prune": ("prune {reading} --ratio 0.2 --out {out}/small", "Layer 12 of 12 scored"),
    "export": ("prune {reading} --ratio 0.2 --out {out}/small", ".small.*.partial/new/plan.json"),
    "compare": ("compare --model {model} --model {model} --text {text} --window 2", "Loading"),
    "generate": ("generate --model {model} --prompt The --max-new-tokens 400", "Loading"),
    "tune": ("tune --model {model} --text {text} --samples 900 --out {out}/small", "Loading"),
    "serve": ("serve --port {port} --model {model}", "ready"),
}


@pytest.fixture(scope="module")
def interrupted(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[End, Path]]:
    """How every command ended that was interrupted in the middle, and where it wrote; two at a time."""
    root = tmp_path_factory.mktemp("interrupted")

    def interrupt(name: str) -> tuple[End, Path]:
        line, moment = INTERRUPTED[name]
        out = root / name / "out"
        reading = " ".join(map(str, bench.reading()))
        places = {
            "out": out,
            "model": bench.model,
            "text": bench.text,
            "reading": reading,
            "port": free_port(),
        }
        running = Program(root / name, *line.format(**places).split())
        if "/" in moment:
            running.until(there(out, moment))
        elif moment != "start":
            running.until(running.said(moment))
        else:
            running.until(lambda: "torch" in Path(f"/proc/{running.process.pid}/maps").read_text())
        return running.end(signal.SIGINT), out

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(INTERRUPTED, pool.map(interrupt, INTERRUPTED), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("command", INTERRUPTED)
def test_bad_day_interrupted(command: str, interrupted: dict[str, tuple[End, Path]]) -> None:
    ended, out = interrupted[command]
    assert ended.status == 130
    assert "Traceback" not in ended.err
    assert ended.last.startswith("slimllm: cancelled")
    assert ended.err.count("slimllm: ") == 1
    left = {name for name in contents(out) if not name.startswith("a/.moments.unfinished/")}
    assert left == set()


CAUGHT = """
import os, signal
from slimllm.__main__ import end_program
try:
    exec("os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(10)")
except KeyboardInterrupt:
    end_program(130)
"""


def test_bad_day_interrupted_within_code_made_of_a_string(tmp_path: Path) -> None:
    (tmp_path / "caught.py").write_text(CAUGHT)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-m", "caught"], cwd=tmp_path, env=env).returncode == 130


INTERRUPTED_OFTEN = """
import pathlib, random, signal, sys, time
from slimllm.core.failures import is_interruption
from slimllm.files import file_limits
from slimllm.files.atomic_write import Unwritten, write_text

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
place = pathlib.Path(sys.argv[1])
place.write_text("{}")
acts = {
    "read": (lambda: file_limits.read_bytes(place, "x", "y"), 3e-4, (KeyboardInterrupt,)),
    "write": (lambda: write_text(place, "{}"), 3e-3, (KeyboardInterrupt, Unwritten)),
}
for name, (act, longest, expected) in acts.items():
    seen, end = 0, time.monotonic() + 1.5
    while time.monotonic() < end:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, longest))
            while True:
                act()
        except BaseException as raised:
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert isinstance(raised, expected), (name, repr(raised))
            assert is_interruption(raised), (name, repr(raised))
            seen += 1
    assert seen > 20, (name, seen)
"""


def test_bad_day_interrupted_while_a_file_is_opened_or_written(tmp_path: Path) -> None:
    """A Ctrl-C between the opening of a handle and its owner closed it twice: "Bad file descriptor", status
    2. Python's own removal of folders still does; what it raises is known for an interruption."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", INTERRUPTED_OFTEN, str(tmp_path / "config.json")]
    subprocess.run(line, cwd=tmp_path, env=env, check=True, timeout=PATIENCE)


@pytest.mark.parametrize("chained", ["cause", "context", "neither"])
def test_bad_day_interrupted_in_disguise(
    chained: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        try:
            try:
                raise ValueError if chained == "neither" else KeyboardInterrupt
            finally:
                os.close(-1)
        except OSError as failure:
            if chained == "cause":
                raise Refusal("It cannot be written.") from failure
            raise

    monkeypatch.setattr(main.commands, "run_methods", fail)
    expected = (2, "Something went wrong: OSError") if chained == "neither" else (130, "cancelled;")
    assert main.main(["methods"]) == expected[0]
    assert capsys.readouterr().err.strip().startswith(f"slimllm: {expected[1]}")


# Long days, and others at the same time -------------------------------------------------------------------


def done(job: Job) -> None:
    assert job.finished.wait(PATIENCE)
    assert job.state == "done", job.error


def start_all(registry: Registry, session: Session, model: Path, text: Path, ratio: float) -> list[Any]:
    """What a person does on three tabs, one after the other."""
    asked = Asked(Protocol(str(text), 32, 128))

    def compare() -> Job:
        session.push(plan_making.make_plan(session.known, PlanRules(ratio, align=1)))
        return comparing.start_compare(registry, session, asked)

    return [
        lambda: work.start_load(registry, session, str(model)),
        lambda: work.start_analyse(registry, session, Calibration(str(text), 4, 32), "slimllm"),
        compare,
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_bad_day_a_dozen_cycles_leave_memory_flat(tmp_path: Path, bench: Bench) -> None:
    """Analyse, prune, discard: the model alone has 41 MB, so a leak of it would show after one cycle."""
    shape = {"num_hidden_layers": 2, "hidden_size": 384, "intermediate_size": 128, "vocab_size": 13_000}
    tiny_model("llama", **shape).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    registry = Registry(settings=SessionSettings("cpu", "float32", offline=True))
    resident = list[float]()
    for _ in range(12):
        session = registry.open(None)
        for start in start_all(registry, session, tmp_path / "model", bench.text, 0.2):
            done(start())
        session.archive.delete(session.runs[0].number)
        registry._sessions.pop(session.id).close()
        del session, start
        gc.collect()
        resident.append(resident_mib())
    warm, last = sorted(resident[2:7])[2], sorted(resident[-5:])[2]
    assert abs(last / warm - 1) <= 0.05, resident


def test_bad_day_memory_of_a_finished_job_goes_back_to_the_system() -> None:
    """What a thread frees in pieces the C library keeps, until it is told to let go."""
    registry, before = Registry(), resident_mib()

    def steps(_: Job) -> Iterator[Progress]:
        pieces = [torch.ones(25_000) for _ in range(4000)]  # 400 MB, in pieces too small to be mapped alone
        kept = pieces[::400]
        del pieces
        yield Progress("made", 1, 1, "", kept)

    job = Job("load", "Pieces", steps)
    registry.worker.submit(job)
    done(job)
    time.sleep(0.5)
    assert resident_mib() - before < 100


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_bad_day_two_sessions_at_once_share_nothing(tiny_folder: Path, bench: Bench) -> None:
    """Different models and plans, every job of the one queued beside one of the other's. What two sessions
    share of the same model: test_session_jobs.py; what one browser sees of another's runs:
    test_browser_history.py."""
    registry = Registry(settings=SessionSettings("cpu", "float32", offline=True))
    mine, other = registry.open(None), registry.open(None)
    pairs = zip(
        start_all(registry, mine, tiny_folder, bench.text, 0.3),
        start_all(registry, other, bench.model, bench.text, 0.15),
        strict=True,
    )
    for pair in pairs:
        for job in [start() for start in pair]:
            done(job)
    for session, layers, ratio in ((mine, 3, 0.3), (other, LAYERS, 0.15)):
        assert len(session.subject.layers) == len(session.known.layers) == layers
        assert [run.number for run in session.runs] == [1]
        assert session.runs[0].plan == session.plan
        assert session.plan.ratio_requested == ratio
        assert len(session.plan.heads) == len(session.results.weights[1]["recovered"].layers) == layers
        assert session.comparison is not None
        assert session.comparison.columns["dense"].parameters == session.subject.shape.parameters
    dense = weakref.ref(mine.subject.model)
    pruned = weakref.ref(mine.results.weights[1]["recovered"].subject.model)
    registry._sessions.pop(mine.id).close()
    del mine, session, job, pair, pairs
    gc.collect()
    assert (dense(), pruned()) == (None, None)
    assert len(other.subject.layers) == LAYERS
    done(work.start_analyse(registry, other, Calibration(str(bench.text), 4, 32, 1), "slimllm"))


def test_bad_day_moments_that_are_read_are_not_cleared_away(tiny_folder: Path, page: Path) -> None:
    """Two programs with one home: the one that changes its text keeps the other's moments while it reads."""
    subject, text = load_model(str(tiny_folder)), texts.find_text(str(page))
    mine, other, third = (Calibration(str(page), samples, 32) for samples in (2, 3, 4))
    folders = [work.moments_folder(subject, each) for each in (mine, other)]
    for calibration, folder in zip((mine, other), folders, strict=True):
        pipeline.finish_job(pipeline.analyse_model(subject, text, calibration, folder=folder))
    os.utime(folders[0], (1, 1))
    reading = pipeline.analyse_model(subject, text, mine, folder=folders[0])
    while next(reading).done < 1:
        pass
    work.moments_folder(subject, third)
    assert folders[0].is_dir()
    assert pipeline.finish_job(reading).tokens == 64
    work.moments_folder(subject, third)
    assert not folders[0].exists()
    assert folders[1].is_dir()
