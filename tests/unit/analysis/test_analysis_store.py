"""Analyses and moments come back from disk as they went."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from slimllm import pipeline
from slimllm.analysis import analysis_store
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration
from slimllm.files import atomic_write
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from tests.support.tiny_models import tiny_subject


def test_an_analysis_comes_back_whole(tmp_path: Path, page: Path) -> None:
    subject = tiny_subject("gemma3_text")
    text = texts.find_text(str(page))
    made = pipeline.finish_job(pipeline.analyse_model(subject, text, Calibration(str(page), 4, 32)))
    file = analysis_store.save_analysis(made, tmp_path / "a")
    back = analysis_store.open_analysis(tmp_path / "a")
    assert file.is_file()
    assert (back.shape, back.calibration, back.options, back.cosine) == (
        made.shape,
        made.calibration,
        made.options,
        made.cosine,
    )
    for allocation in ("cosine", "error", "uniform"):
        one = plan_making.make_plan(made, PlanRules(0.3, allocation=allocation))
        assert one == plan_making.make_plan(back, PlanRules(0.3, allocation=allocation))
    for here, there in zip(made.layers, back.layers, strict=True):
        assert torch.equal(here.mlp.ranking.order, there.mlp.ranking.order)
        assert here.mlp.energy == there.mlp.energy
        for unit, site in here.attention.items():
            assert torch.equal(site.ranking.subsets, there.attention[unit].ranking.subsets)
            assert torch.equal(site.ranking.unsearched, there.attention[unit].ranking.unsearched)
        assert torch.equal(here.mlp.spectrum, there.mlp.spectrum)
        assert (here.mlp.spectrum.diff() <= 0).all()


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "truncated", "format", "earlier", "tensors", "nan", "huge"]
)
def test_bad_input_analysis_is_refused(damage: str, tmp_path: Path, page: Path) -> None:
    subject = tiny_subject("llama")
    made = pipeline.finish_job(
        pipeline.analyse_model(subject, texts.find_text(str(page)), Calibration(str(page), 4, 32))
    )
    analysis_store.save_analysis(made, tmp_path)
    head = tmp_path / "analysis.json"
    if damage == "missing":
        head.unlink()
    elif damage == "empty":
        head.write_text("")
    elif damage == "truncated":
        head.write_text(head.read_text()[:100])
    elif damage == "format":
        head.write_text(head.read_text().replace(f'"format": {analysis_store.STORE_FORMAT}', '"format": 99'))
    elif damage in ("nan", "huge"):
        number = "NaN" if damage == "nan" else str(2**53)
        head.write_text(re.sub(r'"cosine": [^,]+', f'"cosine": {number}', head.read_text(), count=1))
    elif damage == "earlier":
        head.write_text(head.read_text().replace(f'"format": {analysis_store.STORE_FORMAT}', '"format": 1'))
    else:
        next(tmp_path.glob("analysis-*.safetensors")).write_bytes(b"none")
    said = "by an earlier version, which told errors on the text" if damage == "earlier" else "no readable"
    with pytest.raises(Refusal, match=said):
        analysis_store.open_analysis(tmp_path)


def test_moments_by_an_earlier_version_are_read_again_and_told(tmp_path: Path, page: Path) -> None:
    calibration, said = Calibration(str(page), 6, 32), []
    for _ in range(3):
        job = pipeline.analyse_model(
            tiny_subject("llama"), texts.find_text(str(page)), calibration, folder=tmp_path / "m"
        )
        steps: list[str] = []
        pipeline.finish_job(job, lambda step, steps=steps: steps.append(step.words))  # type: ignore[misc]
        said.append(steps[0])
        if len(said) == 1:
            key = tmp_path / "m/moments.json"
            key.write_text(key.read_text().replace(f'"format": {analysis_store.STORE_FORMAT}', '"format": 1'))
    assert "scored" in said[0]
    assert "by another version of this program, so the text is read again" in said[1]
    assert "used again" in said[2]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    atomic_write.write_text(file, "old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(Refusal, match=r"x.json' cannot be written \(disk full\); free space"):
        atomic_write.replace_file(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_moments_stay_until_the_last_of_their_readers_is_done(tmp_path: Path, page: Path) -> None:
    text, calibration, folder = texts.find_text(str(page)), Calibration(str(page), 4, 32), tmp_path / "m"
    pipeline.finish_job(pipeline.analyse_model(tiny_subject("llama"), text, calibration, folder=folder))
    store, before = analysis_store.MomentStore(folder), sorted(path.name for path in folder.iterdir())
    with store.read():
        with store.read(), store.read():
            store.remove_unread()
        store.remove_unread()
        assert sorted(path.name for path in folder.iterdir()) == before, "nothing is left lying, either"
    with store.filled({"key": 1}) as begun:
        begun.remove_unread()
        assert begun.folder.is_dir()
    store.remove_unread()
    assert not folder.exists()
    with store.read():
        store.remove_unread()
