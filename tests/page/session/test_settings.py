"""What a page was started with reaches the jobs of its sessions: device, dtype, and that the network is left
alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.types import Calibration
from slimllm.models import hub_download
from tests.support.tiny_models import PAGE, tiny_subject
from ui.app import Settings, build_page
from ui.facts.resources.estimates import Rates
from ui.facts.runs import Asked, Protocol
from ui.jobs.worker import Job
from ui.session.loaded import Loaded
from ui.session.registry import REGISTRY, Registry
from ui.session.settings import AUTOMATIC, SessionSettings
from ui.tabs.analyse import overlay
from ui.tasks import comparing, comparing_methods, model_probes, plan_preview, work
from ui.tasks.model_remaking import weights_of
from ui.tasks.run_return import start_restore

SET, READ = "wikitext2", Calibration("wikitext2", 4, 32)


def end_of(job: Job) -> Job:
    assert job.finished.wait(60)
    return job


def finished(job: Job) -> None:
    assert end_of(job).state == "done", job.error


@pytest.fixture
def asked_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each file was asked for offline; a hub set has our page, and there is no model on the hub."""
    heard: list[bool] = []
    file = tmp_path / "set.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [PAGE] * 12}), file)

    def fetch_data(_source: str, _file: str, _revision: str, offline: bool) -> Path:
        heard.append(offline)
        return file

    def fetch_model(*_: Any, local_files_only: bool, **__: Any) -> str:
        heard.append(local_files_only)
        raise OSError("There is no such model.")

    monkeypatch.setattr(texts, "fetched_data", fetch_data)
    monkeypatch.setattr(hub_download.huggingface_hub, "snapshot_download", fetch_model)
    return heard


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("offline", [False, True])
def test_every_job_asks_the_hub_as_the_session_is_set(asked_offline: list[bool], offline: bool) -> None:
    registry = Registry(settings=SessionSettings(offline=offline))
    session = registry.open(None)

    def heard() -> set[bool]:
        told = set(asked_offline)
        asked_offline.clear()
        return told

    assert end_of(work.start_load(registry, session, "some/model")).state == "failed"
    assert heard() == {offline}
    session.set_loaded(Loaded(tiny_subject(), Rates(1000.0), "cpu", "float32"))
    asked = Asked(Protocol(SET, 32, 128), ("A model",), 4)
    finished(work.start_analyse(registry, session, READ, "magnitude"))
    assert heard() == {offline}
    for start in (
        lambda: work.start_second(registry, session, READ, "wanda-sp", None),
        lambda: comparing.start_compare(registry, session, asked),
        lambda: comparing.start_measure(registry, session, asked),
        lambda: comparing_methods.start_methods(registry, session, ["wanda-sp"], asked),
        lambda: model_probes.start_passage(registry, session, "", SET),
        lambda: plan_preview.start_preview(registry, session),
        lambda: start_restore(registry, session, session.runs[0].number),
    ):
        finished(start())
        assert heard() == {offline}
    session.results.weights.clear()  # so that an export prunes again
    pipeline.finish_job(weights_of(session, session.runs[0]))
    assert heard() == {offline}
    overlay.press_overlay(session, "wanda-sp", "")
    assert heard() <= {offline}


def test_sessions_follow_what_the_page_was_built_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REGISTRY, "settings", AUTOMATIC)
    build_page(Settings(device="cpu", dtype="bfloat16", offline=True))
    assert REGISTRY.open(None).settings == SessionSettings("cpu", "bfloat16", offline=True)
    build_page(Settings())
    assert REGISTRY.open(None).settings == AUTOMATIC


def test_a_model_is_loaded_on_the_device_and_in_the_dtype_of_the_session(tiny_folder: Path) -> None:
    registry = Registry(settings=SessionSettings("cpu", "bfloat16", offline=True))
    session = registry.open(None)
    finished(work.start_load(registry, session, str(tiny_folder)))
    assert session.loaded is not None
    assert (session.loaded.device, session.loaded.dtype) == ("cpu", "bfloat16")
