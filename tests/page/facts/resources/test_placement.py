"""What the Load tab says of the device: its name, its free memory and what is offloaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from slimllm.core import devices
from slimllm.models import loading, offload_loading
from tests.support.devices.made_up_devices import install_apple, install_cuda
from tests.support.tiny_models import tiny_subject
from ui.facts.resources.estimates import Rates, time_work
from ui.facts.resources.placement import placement_facts, placement_sentence
from ui.session.loaded import Loaded
from ui.session.session import Session
from ui.session.settings import SessionSettings
from ui.tabs import load_tab


def test_device_of_a_loaded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    install_cuda(monkeypatch, "NVIDIA H200", "NVIDIA T4")
    assert placement_facts(tiny_subject(), "cuda:1", "float16") == [
        ("Runs on", "NVIDIA T4 (cuda:1), float16"),
        ("Free memory there", "67.65 GB"),
        ("Kept on disk", "nothing"),
    ]


def test_device_of_a_model_that_is_offloaded(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(offload_loading, "available_mib", lambda _: 0.1)
        subject = loading.load_model(str(tiny_folder), dtype="float32", device="cpu")
    facts = dict(placement_facts(subject, "cpu", "float32"))
    assert facts["Runs on"] == "processor (cpu), float32"
    assert facts["Kept on disk"] == "all 3 layers"


def test_device_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    install_apple(monkeypatch)
    monkeypatch.setattr(devices, "available_to_process", lambda: 100 * 1024.0)
    after = "The layers of a model that is larger are read from disk when they are needed."
    assert placement_sentence("auto") == (
        f"Models run on Apple GPU (mps), with 10.74 GB of memory free. {after}"
    )
    monkeypatch.setattr(devices, "available_to_process", lambda: float("inf"))
    assert placement_sentence("cpu") == (
        f"Models run on the processor, with an unknown amount of memory free. {after}"
    )


def test_device_on_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is foreign text, too."""
    install_cuda(monkeypatch, "<b>card</b>")
    session = Session("a" * 24, SessionSettings(device="cuda"))
    assert "Models run on &lt;b&gt;card&lt;/b&gt; (cuda), with 67.65 GB of" in load_tab.draw_card(session)
    session.loaded = Loaded(tiny_subject(), Rates(100.0), "cuda:0", "bfloat16")
    card = load_tab.draw_card(session)
    assert "<dd>&lt;b&gt;card&lt;/b&gt; (cuda:0), bfloat16</dd>" in card
    assert "<dd>67.65 GB</dd>" in card
    assert "<dd>nothing</dd>" in card


def test_device_is_waited_for_when_work_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    row = dataclasses.replace(devices.KINDS["cpu"], wait_for=lambda _: done.append("wait"))
    monkeypatch.setitem(devices.KINDS, "cpu", row)
    assert time_work(lambda: done.append("work"), torch.device("cpu")) >= 0
    assert done == ["wait", "work", "wait"] * 4
