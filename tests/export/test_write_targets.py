"""Claims about what is never lost: a model that is read, and whatever in a folder this program did not write
as it is now. All files are looked at before and after."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import slimllm
from slimllm.analysis import analysis_store
from slimllm.calibration import texts
from slimllm.cli import commands, export_commands, main
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration
from slimllm.export import checkpoint, write_targets
from slimllm.files import atomic_write, written_files
from slimllm.models import loading
from tests.export.test_tiers import by_groups, prune
from tests.page.session.test_presets import planned  # noqa: F401 – a fixture
from tests.support.tiny_models import tiny_subject
from tests.unit.cli.test_bad_days import mounted
from ui.session.kept import crash_recovery, presets
from ui.session.kept.run_store import RunStore
from ui.session.session import Session
from ui.tabs.tune import preset_row
from ui.tasks import work

READING = ["--samples", 4, "--length", 32, "--dtype", "float32"]


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports skip the fresh process, which other tests pay for."""
    monkeypatch.setattr(checkpoint, "reload_elsewhere", lambda *_, **__: [None])
    monkeypatch.setattr(checkpoint, "compare_reload", lambda *_: 0.0)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export of this program."""
    subject = tiny_subject()
    slimllm.save(prune(subject, by_groups(subject)), tmp_path / "out/a")
    return tmp_path / "out/a"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones and links too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one sentence with which a command refuses."""
    capsys.readouterr()
    assert main.main([*map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len([line for line in err.splitlines() if line.startswith("slimllm: ")]) == 1
    return err.splitlines()[-1]


# Where a model comes from ----------------------------------------------------------------------------------


def linked(place: Path) -> Path:
    (place.parent / "link").symlink_to(place.name)
    return place.parent / "link"


def roundabout(place: Path) -> Path:
    return place / ".." / place.name


SAME: dict[str, Callable[[Path], tuple[Path, Path]]] = {  # a folder → (the model, where it is to go)
    "itself": lambda a: (a, a),
    "a link to it": lambda a: (a, linked(a)),
    "from a link": lambda a: (linked(a), a),
    "dots": lambda a: (a, roundabout(a)),
    "inside": lambda a: (a, a / "deep/small"),
    "inside, through a link": lambda a: (a, linked(a) / "small"),
    "around it": lambda a: (Path(shutil.copytree(a, a / "model")), a),
    "what its files link to": lambda a: (links_to(a), a),
}


def links_to(place: Path) -> Path:
    """A folder of links to the files of another one."""
    folder = place.parent / "links"
    folder.mkdir()
    for file in place.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


@pytest.mark.parametrize("command", ["prune --ratio 0.3", "tune"])
@pytest.mark.parametrize("case", SAME)
def test_a_model_is_never_written_over(
    case: str,
    command: str,
    export: Path,
    page: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        commands.export_reading, "load_export", lambda *_, **__: pytest.fail("the model was read")
    )
    model, out = SAME[case](export)
    before = contents(export.parent)
    said = refusal(capsys, *command.split(), "--model", model, "--text", page, *READING, "--out", out)
    assert f"the place that the model '{model}' comes from; choose another folder." in said
    assert contents(export.parent) == before


def test_a_model_is_never_written_over_by_the_library(export: Path) -> None:
    subject = loading.load_model(str(export), device="cpu", dtype="float32")
    again = prune(subject, [([0, 1], 30)] * 3)
    before = contents(export)
    with pytest.raises(Refusal, match="the place that the model"):
        slimllm.save(again, export)
    assert contents(export) == before
    assert slimllm.save(again, export.parent / "b").verified, "beside it there is room"


def test_a_mounted_folder_is_what_is_mounted_there(export: Path) -> None:
    (export.parent / "mounted").mkdir()
    with mounted(export.parent / "mounted", "--bind", str(export)) as there:
        with pytest.raises(Refusal, match="the place that the model"):
            write_targets.check_target(there, str(export))
        with pytest.raises(Refusal, match="is a mount point"):
            write_targets.check_target(there)


def test_only_the_file_is_the_model_where_a_gguf_is_named(tmp_path: Path, export: Path) -> None:
    many = tmp_path / "ggufs"
    many.mkdir()
    for name in ("one.gguf", "two.gguf"):
        (many / name).write_bytes(b"GGUF")
    write_targets.check_target(many / "small", str(many / "one.gguf"))
    shutil.copy(many / "one.gguf", export / "one.gguf")
    with pytest.raises(Refusal, match="the place that the model"):
        write_targets.check_target(export, str(export / "one.gguf"))
    (many / "two.gguf").unlink()
    with pytest.raises(Refusal, match="the place that the model"):
        write_targets.check_target(many / "small", str(many))


# What is in an earlier export ------------------------------------------------------------------------------


def edit(file: Path) -> None:
    file.write_text(file.read_text() + "\nMy own findings.\n")


def train(file: Path) -> None:
    """Other numbers in a file of the same size."""
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def facts_with_a_note(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "note": "mine"}))


OWN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a note": (lambda a: (a / "note.txt").write_text("years of work"), "note.txt"),
    "a hidden file": (lambda a: (a / ".git").write_text("years of work"), ".git"),
    "a folder": (lambda a: shutil.copytree(a, a / "plots"), "plots/"),
    "an empty folder": (lambda a: (a / "plots").mkdir(), "plots/"),
    "a link": (lambda a: (a / "there").symlink_to(a.parent), "there/"),
    "a link to nothing": (lambda a: (a / "there").symlink_to("nowhere"), "there"),
    "a pipe": (lambda a: os.mkfifo(a / "pipe"), "pipe"),
    "another README": (lambda a: edit(a / "README.md"), "README.md"),
    "another plan": (lambda a: edit(a / "plan.json"), "plan.json"),
    "weights trained since": (lambda a: train(a / "model.safetensors"), "model.safetensors"),
    "a file that became a link": (
        lambda a: (
            (a / "config.json").rename(a.parent / "c.json"),
            (a / "config.json").symlink_to("../c.json"),
        ),
        "config.json",
    ),
    "a note among the facts": (lambda a: facts_with_a_note(a / "slimllm.json"), "slimllm.json"),
}


@pytest.mark.parametrize("case", OWN)
def test_what_a_person_put_into_an_export_is_named_and_kept(case: str, export: Path) -> None:
    change, name = OWN[case]
    assert write_targets.check_target(export) == export
    change(export)
    before = contents(export)
    with pytest.raises(Refusal, match=rf"this program did not write, .* \({name}\); move them away, or name"):
        slimllm.save(prune(tiny_subject(), by_groups(tiny_subject())), export)
    assert contents(export) == before


def test_an_export_as_it_was_written_gives_way_also_a_copy_of_it(export: Path) -> None:
    copy = Path(shutil.copytree(export, export.parent / "copy", copy_function=shutil.copyfile))
    other = prune(tiny_subject(seed=1), by_groups(tiny_subject()))
    for folder in (export, copy):
        before = contents(folder)
        slimllm.save(other, folder)
        assert contents(folder)["model.safetensors"] != before["model.safetensors"]
    assert sorted(p.name for p in export.parent.iterdir()) == ["a", "copy"]


def test_hard_links_to_a_replaced_export_keep_what_they_had(export: Path) -> None:
    other = export.parent / "weights.safetensors"
    other.hardlink_to(export / "model.safetensors")
    before = other.read_bytes()
    slimllm.save(prune(tiny_subject(seed=1), by_groups(tiny_subject())), export)
    assert other.read_bytes() == before != (export / "model.safetensors").read_bytes()


def test_an_export_that_noted_no_files_is_left_alone(export: Path) -> None:
    facts = json.loads((export / "slimllm.json").read_text())
    del facts["files"]
    (export / "slimllm.json").write_text(json.dumps(facts))
    with pytest.raises(Refusal, match="without a list of its files"):
        write_targets.check_target(export)


def test_what_comes_into_the_folder_meanwhile_is_kept_and_so_is_the_work(
    export: Path,
    tiny_folder: Path,
    page: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A note that is put there while the model is pruned."""
    real = export_commands.pipeline.prune_model

    def prune_and_note(*given: object) -> object:
        (export / "note.txt").write_text("years of work")
        return real(*given)

    monkeypatch.setattr(export_commands.pipeline, "prune_model", prune_and_note)
    before = contents(export)
    line = [
        "prune",
        "--model",
        tiny_folder,
        "--text",
        page,
        *READING,
        "--ratio",
        0.3,
        "--out",
        export,
        "--json",
    ]
    assert main.main([*map(str, line)]) == 0
    out, err = capsys.readouterr()
    made = Path(json.loads(out)["out"])
    assert (made.parent, made.name[:2]) == (export.parent, "a-")
    assert (made / "model.safetensors").is_file()
    assert "(note.txt); move them away, or name another folder. Meanwhile the export goes to" in err
    assert contents(export) == {**before, "note.txt": b"years of work"}


def test_what_comes_at_the_last_moment_is_kept_beside(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = atomic_write.sync_path

    def note_and_sync(path: Path) -> None:
        (export / "note.txt").write_text("years of work")
        sync(path)

    before = contents(export)
    monkeypatch.setattr(atomic_write, "sync_path", note_and_sync)
    steps = list(checkpoint.export_checkpoint(prune(tiny_subject(seed=1), by_groups(tiny_subject())), export))
    (kept,) = (place for place in export.parent.iterdir() if place != export)
    assert contents(kept) == {**before, "note.txt": b"years of work"}
    assert steps[-1].words.endswith(f"is not all from this program; it is kept in '{kept}'.")
    assert written_files.is_all_ours(export) is False, "the note came once more"


@pytest.mark.parametrize("moment", [2, 3, 4, 5])  # the first one is that of a new, empty folder
def test_a_kill_between_any_two_renames_loses_nothing(
    moment: int, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends at the n-th renaming or removing; the next start finds the old or the new export."""
    before, count = contents(export), [0]

    class Killed(SystemExit): ...

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def act(*given: object, **how: object) -> object:
            count[0] += 1
            if count[0] >= moment:
                raise Killed
            return real(*given, **how)

        return act

    monkeypatch.setattr(atomic_write, "move_path", counted(atomic_write.move_path))
    monkeypatch.setattr(atomic_write.shutil, "rmtree", counted(shutil.rmtree))
    with pytest.raises(Killed):
        slimllm.save(prune(tiny_subject(seed=1), by_groups(tiny_subject())), export)
    monkeypatch.undo()
    said: list[str] = []
    atomic_write.mend_leftovers(export, said.append)
    assert len(said) == 1
    assert [p.name for p in export.parent.iterdir()] == ["a"]
    assert written_files.is_all_ours(export)
    assert (contents(export) == before) == (moment < 5)


# What a kill left, and what only looks so -------------------------------------------------------------------


def test_only_what_is_marked_as_ours_is_swept(tmp_path: Path) -> None:
    home = tmp_path / "home"
    mine = [
        home / ".thesis.0123abcd.partial/mine.txt",
        home / "exports/.small.0123abcd.partial/mine.txt",
        home / "exports/.small.0123abcd.old/mine.txt",
        home / "moments/precious/mine.txt",
        home / "moments/other/mine.txt",
        home / "moments/third/layer_000.safetensors",
        home / "pictures/.x.0123abcd.partial" / atomic_write.MARK,
    ]
    for file in mine:
        file.parent.mkdir(parents=True)
        file.write_text("years of work")
    ours = home / "exports/.small.4567cdef.partial"
    (ours / "new").mkdir(parents=True)
    (ours / atomic_write.MARK).touch()
    for folder in home.rglob("*"):
        os.utime(folder, (1, 1))
    said: list[str] = []
    crash_recovery.recover_all(said.append)
    atomic_write.mend_leftovers(home / "exports" / "*", said.append)
    work.moments_folder(tiny_subject(), Calibration("x", 1, 2))
    assert [file.read_text() for file in mine] == ["years of work"] * len(mine)
    assert not ours.exists()
    assert len(said) == 1


def test_presets_that_cannot_be_read_are_laid_aside(planned: Session) -> None:  # noqa: F811
    preset_row.keep_plan(planned, "Mine")
    file = RunStore(planned.id).folder / presets.FILE
    newer = file.read_text().replace('"format": 1', '"format": 99', 1)
    file.write_text(newer)
    planned.presets = {}
    preset_row.keep_plan(planned, "Other")
    assert list(presets.read_presets(planned.id)) == ["Other"]
    assert [old.read_text() for old in file.parent.glob("presets-unread-*.json")] == [newer]


# Analyses and plans ----------------------------------------------------------------------------------------


def test_an_analysis_writes_over_nothing_but_an_analysis(
    tmp_path: Path, tiny_folder: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["analyse", "--model", tiny_folder, "--text", page, *READING, "--out"]
    for name, words in {
        "analysis.json": "not from an analysis",
        "channel_scores.safetensors": "not from an analysis",
        "config.json": "folder of a model",
        "moments/weights.safetensors": "other things than moments",
        "moments/layer_000.safetensors": "other things than moments",
        "moments/moments.json": "other things than moments",
        ".moments.unfinished/mine.txt": "other things than moments",
    }.items():
        file = tmp_path / name.replace("/", "-").replace(".", "-") / name
        file.parent.mkdir(parents=True)
        if file.suffix == ".safetensors":
            save_file({"mine": torch.ones(2)}, file)
        else:
            file.write_text('{"mine": true}')
        out = file.parent if "moments" not in str(file.parent.name) else file.parent.parent
        before = contents(out)
        assert words in refusal(capsys, *line, out)
        assert contents(out) == before


def test_tensors_of_others_beside_an_analysis_stay(tmp_path: Path, page: Path) -> None:
    subject = tiny_subject()
    found = slimllm.analyse(subject, texts.find_text(str(page)), Calibration(str(page), 4, 32))
    for name in ("analysis-mine.safetensors", "analysis-0123abcd.safetensors", "analysis.safetensors"):
        save_file({"mine": torch.ones(2)}, tmp_path / name)
    before = contents(tmp_path)
    for _ in range(2):
        analysis_store.save_analysis(found, tmp_path)
    left = contents(tmp_path)
    assert before.items() <= left.items()
    assert len(left) == len(before) + 3


@pytest.mark.usefixtures("export")
def test_a_plan_writes_over_nothing_but_a_plan(
    tmp_path: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = slimllm.analyse(tiny_subject(), texts.find_text(str(page)), Calibration(str(page), 4, 32))
    analysis_store.save_analysis(found, tmp_path / "A")
    line = ["plan", "--analysis", tmp_path / "A", "--ratio", 0.3, "--out"]
    (tmp_path / "notes.txt").write_text("years of work")
    (tmp_path / "to-notes.json").symlink_to("notes.txt")
    for name, words in {
        "notes.txt": "is no plan; choose another path",
        "to-notes.json": "is no plan; choose another path",
        "A/analysis.json": "is no plan; choose another path",
        "out/a/plan.json": "belongs to an export",
    }.items():
        before = contents(tmp_path)
        assert words in refusal(capsys, *line, tmp_path / name)
        assert contents(tmp_path) == before
    for _ in range(2):
        assert main.main([*map(str, line), str(tmp_path / "plan.json")]) == 0
