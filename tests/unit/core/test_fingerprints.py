"""Claims about stored results: they are found by what weights, texts and code are, never by a name; where one
of them has changed, it is computed anew and told."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimllm import api, pipeline
from slimllm.analysis import analysis_store
from slimllm.calibration import texts
from slimllm.cli import commands
from slimllm.core import fingerprints
from slimllm.core.errors import Refusal
from slimllm.core.fingerprints import hash_files, hash_tensors, hash_tokens
from slimllm.core.types import NOTE, Analysis, Calibration, Progress
from slimllm.models import loading, offload_loading, sources
from slimllm.models.layer_offload import open_layer
from slimllm.models.loading import Subject
from slimllm.planning import forecast, plan_json
from tests.support.tiny_models import PAGE, tiny_model, tiny_subject, tiny_tokenizer
from ui.facts.runs import Asked, Protocol
from ui.jobs.worker import Job
from ui.session.registry import Registry
from ui.session.session import Session
from ui.session.settings import SessionSettings
from ui.tasks import comparing, comparing_methods, measuring, work
from ui.tasks.plan_preview import preview_windows
from ui.tasks.run_return import start_restore

OTHER = PAGE[::-1] * 12
SAID_TEXT = "The text has changed since its moments were stored, so it is read again."
SAID_WEIGHTS = "The model's weights have changed since its moments were stored, so the text is read again."
SAID_CODE = "The stored moments are by another version of this program, so the text is read again."


def model_folder(place: Path, seed: int = 0) -> Path:
    tiny_model("llama", seed=seed).save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return place


def change_weights(place: Path, seed: int = 5) -> None:
    """Writes other weights of the same shapes into the folder."""
    tensors = {
        name: tensor.contiguous() for name, tensor in tiny_model("llama", seed=seed).state_dict().items()
    }
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})


def load(source: str | Path) -> Subject:
    return loading.load_model(str(source), dtype="float32", device="cpu")


def analysed(subject: Subject, page: Path, folder: Path | None) -> tuple[Analysis, list[str]]:
    """The analysis, and what was told meanwhile."""
    told: list[Progress] = []
    asked = Calibration(str(page), 4, 32)
    job = pipeline.analyse_model(subject, texts.find_text(str(page)), asked, folder=folder)
    return pipeline.finish_job(job, told.append), [step.words for step in told if step.stage == NOTE]


def scores(analysis: Analysis) -> list[list[float]]:
    return [layer.mlp.ranking.scores.tolist() for layer in analysis.layers]


# The moments ------------------------------------------------------------------------------------------------


def test_a_text_that_was_rewritten_is_read_again(page: Path, tmp_path: Path) -> None:
    subject, folder = tiny_subject(), tmp_path / "m"
    first, told = analysed(subject, page, folder)
    assert told == []
    again, told = analysed(subject, page, folder)
    assert (scores(again), told) == (scores(first), [told[0]])
    assert "are used again" in told[0]
    page.write_text(OTHER)
    changed, told = analysed(subject, page, folder)
    assert told == [SAID_TEXT]
    assert scores(changed) == scores(analysed(subject, page, None)[0]) != scores(first)
    assert changed.fingerprints["tokens"] != first.fingerprints["tokens"]
    assert changed.fingerprints["weights"] == first.fingerprints["weights"]


def test_weights_that_were_changed_in_place_are_read_again(page: Path, tmp_path: Path) -> None:
    place, folder = model_folder(tmp_path / "model"), tmp_path / "m"
    first, _ = analysed(load(place), page, folder)
    change_weights(place)
    changed, told = analysed(load(place), page, folder)
    assert told == [SAID_WEIGHTS]
    assert scores(changed) == scores(analysed(load(place), page, None)[0]) != scores(first)


def test_a_relative_path_is_not_a_model(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, where in enumerate(("one", "two")):
        model_folder(tmp_path / where / "model", seed=seed)
    found = []
    for where in ("one", "two"):
        monkeypatch.chdir(tmp_path / where)
        found.append(analysed(load("./model"), page, tmp_path / "m"))
    assert found[1][1] == [SAID_WEIGHTS]
    assert scores(found[1][0]) == scores(analysed(load("./model"), page, None)[0]) != scores(found[0][0])


def test_a_pruned_model_in_memory_is_not_the_one_it_came_from(page: Path, tmp_path: Path) -> None:
    """Also where its shape is the same."""
    subject = load(model_folder(tmp_path / "model"))
    analysis, _ = analysed(subject, page, tmp_path / "m")
    plan = dataclasses.replace(api.plan(analysis, 0.3), heads=(6,) * 3, channels=(96,) * 3)
    pruned = pipeline.finish_job(
        pipeline.prune_model(subject, forecast.fill_forecast(analysis, plan), texts.find_text(str(page)))
    ).subject
    assert pruned.read_from is subject.read_from
    assert pruned.fingerprint != subject.fingerprint
    model = pruned.model
    model.model.layers[1].mlp.down_proj.weight = torch.nn.Parameter(torch.zeros(48, 96), requires_grad=False)
    _, told = analysed(pruned, page, tmp_path / "m")
    assert told == [SAID_WEIGHTS]


@pytest.mark.parametrize("what", ["format", "code", "nothing known"])
def test_moments_of_an_earlier_version_are_not_used(what: str, page: Path, tmp_path: Path) -> None:
    subject, folder = tiny_subject(), tmp_path / "m"
    first, _ = analysed(subject, page, folder)
    key = json.loads((folder / analysis_store.KEY).read_text())
    if what == "nothing known":
        key = {name: value for name, value in key.items() if name not in ("code", "weights", "tokens")}
    else:
        key[what] = 0
    (folder / analysis_store.KEY).write_text(json.dumps(key))
    again, told = analysed(subject, page, folder)
    assert told == [SAID_CODE]
    assert scores(again) == scores(first)


def test_another_text_or_model_is_no_change(page: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(OTHER)
    analysed(tiny_subject(), page, tmp_path / "m")
    assert analysed(tiny_subject(), other, tmp_path / "m")[1] == []
    assert analysed(tiny_subject("qwen3"), page, tmp_path / "m")[1] == []


def test_weights_that_change_under_a_lent_model_are_refused(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = model_folder(tmp_path / "model")
    with monkeypatch.context() as patch:
        patch.setattr(offload_loading, "available_mib", lambda _: 0.1)
        subject = load(place)
    with open_layer(subject.layers[0]):
        pass
    change_weights(place)
    with pytest.raises(Refusal, match="have changed since they were loaded; load the model again"):
        analysed(subject, page, None)


# Plans and analyses -----------------------------------------------------------------------------------------


def notes_of_pruning(subject: Subject, plan: Any, page: Path) -> list[str]:
    told: list[Progress] = []
    pipeline.finish_job(pipeline.prune_model(subject, plan, texts.find_text(str(page))), told.append)
    return [step.words for step in told if step.stage == NOTE]


def test_a_plan_says_for_which_weights_and_text_it_was_made(page: Path, tmp_path: Path) -> None:
    place = model_folder(tmp_path / "model")
    analysis, _ = analysed(load(place), page, None)
    analysis_store.save_analysis(analysis, tmp_path / "a")
    analysis = analysis_store.open_analysis(tmp_path / "a")
    plan_json.save_plan(api.plan(analysis, 0.3), tmp_path / "plan.json")
    plan = plan_json.read_plan(tmp_path / "plan.json")
    assert dict(plan.fingerprints) == analysis.fingerprints
    assert notes_of_pruning(load(place), plan, page) == []
    moved = shutil.copytree(place, tmp_path / "moved")
    assert notes_of_pruning(load(moved), plan, page) == []
    change_weights(place)
    page.write_text(OTHER)
    weights, text = notes_of_pruning(load(place), plan, page)
    assert weights == f"The weights of '{place}' are others than those that the plan was made for."
    assert text == f"The text '{page}' has changed since the plan was made from it."


def test_a_plan_of_an_earlier_version_is_read(page: Path) -> None:
    analysis, _ = analysed(tiny_subject(), page, None)
    data = plan_json.plan_to_dict(api.plan(analysis, 0.3))
    del data["fingerprints"]
    plan = plan_json.plan_from_text(json.dumps(data))
    assert plan.fingerprints == ()
    assert notes_of_pruning(tiny_subject(seed=5), plan, page) == []


def test_a_method_that_learned_from_another_text_learns_again(page: Path) -> None:
    subject, text = tiny_subject(), texts.find_text(str(page))
    asked = Calibration(str(page), 4, 32)
    known = pipeline.finish_job(pipeline.analyse_model(subject, text, asked, method_name="llm-pruner"))
    plan = api.plan(known, 0.3)
    stages: list[Progress] = []
    pipeline.finish_job(pipeline.prune_model(subject, plan, text, known), stages.append)
    assert "gradients" not in {step.stage for step in stages}
    page.write_text(OTHER)
    pipeline.finish_job(pipeline.prune_model(subject, plan, texts.find_text(str(page)), known), stages.append)
    assert "gradients" in {step.stage for step in stages}


def test_the_plan_command_says_that_weights_have_changed(page: Path, tmp_path: Path) -> None:
    place, said = model_folder(tmp_path / "model"), []

    class Report:
        say = staticmethod(said.append)

    def plan() -> None:
        given = commands.Arguments(
            analysis=tmp_path / "a",
            out=tmp_path / "p.json",
            ratio=0.2,
            allocation=None,
            recovery="none",
            unit="auto",
            align=1,
            count="decoder",
            same_width=False,
            named={},
        )
        commands.run_plan(given, Report())  # type: ignore[arg-type]

    analysis_store.save_analysis(analysed(load(place), page, None)[0], tmp_path / "a")
    plan()
    assert not any("have changed" in words for words in said)
    change_weights(place)
    plan()
    assert f"The weights of '{place}' have changed since this analysis; analyse them again." in said


# What a fingerprint sees ------------------------------------------------------------------------------------


def large(file: Path, size: int) -> Path:
    """A safetensors file of so many bytes of zeros, which take no room on the disk."""
    header = {
        f"t{n}": {
            "dtype": "U8",
            "shape": [size // 64],
            "data_offsets": [size // 64 * n, size // 64 * (n + 1)],
        }
        for n in range(64)
    }
    words = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(words)) + words)
        opened.truncate(8 + len(words) + size)
    return file


def test_every_byte_of_small_files_counts_and_nothing_else(tmp_path: Path) -> None:
    place = model_folder(tmp_path / "one")
    moved = shutil.copytree(place, tmp_path / "two")
    os.utime(moved / "model.safetensors", (1, 1))
    known = sources.hash_source(place, "x")
    assert sources.hash_source(moved, "x") == known
    tensors = load_file(moved / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][7, 9] += 1e-6
    save_file(tensors, moved / "model.safetensors", metadata={"format": "pt"})
    assert sources.hash_source(moved, "x").content != known.content
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert sources.hash_source(place, "x").content != known.content


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_large_files_are_told_apart_by_samples_and_by_when_they_were_written(
    suffix: str, tmp_path: Path
) -> None:
    file = large(tmp_path / f"model{suffix}", 1 << 31)
    start = time.perf_counter()
    known = hash_files([file])
    assert time.perf_counter() - start < 2  # 0.03 s on a quiet machine
    size = file.stat().st_size
    for place in (size // 64 * 20, size - 1):  # the beginning of a tensor, the last byte
        with file.open("r+b") as opened:
            opened.seek(place - place % (1 << 25) if suffix == ".gguf" and place < size - 1 else place)
            opened.write(b"\1" * (1 << 20 if place < size - 1 else 1))
        assert hash_files([file]).content != known.content
        known = hash_files([file])
    os.utime(file, (1, 1))
    again = hash_files([file])
    assert (again.content == known.content, again.exact == known.exact) == (True, False)


def test_samples_of_large_tensors_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "WHOLE", 1)
    tensors = {"a": torch.zeros(1 << 20), "b": torch.zeros(3, 5, dtype=torch.bfloat16)}
    known = hash_tensors(tensors)
    for name, place in (("a", 0), ("a", -1), ("b", 7)):
        changed = {key: tensor.clone() for key, tensor in tensors.items()}
        changed[name].view(-1)[place] = 1
        assert hash_tensors(changed) != known
    assert hash_tensors({**tensors, "b": torch.zeros(5, 3, dtype=torch.bfloat16)}) != known


def test_a_gguf_that_was_changed_in_place_is_converted_again(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF" + bytes(1000))
    before, state = sources.conversion_folder(file), file.stat()
    file.write_bytes(b"GGUF" + bytes(999) + b"\1")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert sources.conversion_folder(file) != before
    moved = shutil.copy(file, tmp_path / "sub.gguf")
    assert (
        sources.conversion_folder(Path(moved)).name.partition("-")[2]
        == sources.conversion_folder(file).name.partition("-")[2]
    )


def test_a_conversion_by_an_earlier_version_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF" + bytes(1000))
    before = sources.conversion_folder(file)
    monkeypatch.setattr(sources, "CONVERSION", sources.CONVERSION + 1)
    assert sources.conversion_folder(file) != before


# The page ---------------------------------------------------------------------------------------------------


def finished(job: Job) -> Job:
    assert job.finished.wait(120)
    assert job.state == "done", job.error
    return job


@pytest.fixture
def here(tmp_path: Path, page: Path) -> tuple[Registry, Session, Path]:
    """A session that has loaded a model from a folder and analysed it on the page."""
    registry = Registry(settings=SessionSettings("cpu", "float32", offline=True))
    session, place = registry.open(None), model_folder(tmp_path / "model")
    finished(work.start_load(registry, session, str(place)))
    finished(work.start_analyse(registry, session, Calibration(str(page), 4, 32), "slimllm"))
    return registry, session, place


def test_a_model_whose_files_changed_is_loaded_again_and_told(
    here: tuple[Registry, Session, Path], page: Path
) -> None:
    registry, session, place = here
    first = session.loaded
    finished(work.start_load(registry, session, str(place)))
    assert session.loaded is first
    change_weights(place)
    finished(work.start_analyse(registry, session, Calibration(str(page), 4, 32), "magnitude"))
    assert f"The files of '{place}' have changed since it was loaded" in session.notes["analyse"][1]
    other = registry.open(None)
    finished(work.start_load(registry, other, str(place)))
    assert other.loaded is not first
    said = f"The files of '{place}' have changed since they were loaded, so they are read again."
    assert said in other.notes["load"][1]
    key = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(other.subject.model.state_dict()[key], load_file(place / "model.safetensors")[key])


def test_the_page_says_that_a_text_has_changed(here: tuple[Registry, Session, Path], page: Path) -> None:
    registry, session, _ = here
    assert SAID_TEXT not in session.notes.get("analyse", ("", ""))[1]
    page.write_text(OTHER)
    finished(work.start_analyse(registry, session, Calibration(str(page), 4, 32), "slimllm"))
    assert SAID_TEXT in session.notes["analyse"][1]


def test_figures_of_the_dense_model_are_those_of_the_text_as_it_is(
    here: tuple[Registry, Session, Path], page: Path
) -> None:
    registry, session, _ = here
    asked = Asked(Protocol(str(page), 32, 512))

    def dense() -> float | None:
        finished(comparing.start_compare(registry, session, asked))
        return session.runs[-1].columns["dense"].perplexity

    first, again = dense(), dense()
    assert first == again
    page.write_text(OTHER)
    changed = dense()
    afresh = pipeline.finish_job(measuring.measured_column(session.subject, asked.protocol, True)).perplexity
    assert changed == afresh != first
    assert f"The text '{page}' has changed since the plan was made from it." in session.notes["compare"][1]
    one, _, other = session.runs[-3:]
    assert not one.is_like(other)


def test_remembered_scores_are_those_of_the_text_as_it_is(
    here: tuple[Registry, Session, Path], page: Path
) -> None:
    registry, session, _ = here
    asked = Asked(Protocol(str(page), 32, 512))
    finished(comparing_methods.start_methods(registry, session, ["magnitude", "wanda-sp"], asked))
    first = {e.method: e.plan for e in session.results.entries if e.plan and not e.present}
    known = dict(session.analyses.remembered)
    page.write_text(OTHER)
    assert not work.is_current(session.known, session.subject, True)
    finished(comparing_methods.start_methods(registry, session, ["magnitude", "wanda-sp"], asked))
    again = {e.method: e.plan for e in session.results.entries if e.plan and not e.present}
    assert {n: dict(p.fingerprints)["tokens"] for n, p in again.items()} != {
        n: dict(p.fingerprints)["tokens"] for n, p in first.items()
    }
    assert len(session.analyses.remembered) == len(known)


def test_a_preview_reads_the_text_as_it_was_analysed(
    here: tuple[Registry, Session, Path], page: Path
) -> None:
    registry, session, _ = here
    before = preview_windows(session.subject, session.known, session.preview, 1000.0, True)
    assert preview_windows(session.subject, session.known, session.preview, 1000.0, True) is before
    page.write_text(OTHER)
    finished(work.start_analyse(registry, session, Calibration(str(page), 4, 32), "slimllm"))
    after = preview_windows(session.subject, session.known, session.preview, 1000.0, True)
    assert hash_tokens(after) != hash_tokens(before)


def test_going_back_to_a_run_whose_weights_are_gone_says_so(
    here: tuple[Registry, Session, Path], page: Path
) -> None:
    registry, session, place = here
    finished(comparing.start_compare(registry, session, Asked(Protocol(str(page), 32, 512))))
    run = session.runs[-1]
    finished(start_restore(registry, session, run.number))
    assert "weights" not in session.notes["tune"][1]
    change_weights(place)
    other = registry.open(None)
    other.archive.runs = [run]
    finished(start_restore(registry, other, run.number))
    assert f"The weights of '{place}' have changed since {run.name}." in other.notes["tune"][1]
    assert f"The plan of {run.name} is in Tune again." in other.notes["tune"][1]
