"""Claims about layers whose weights lie on disk: the same figures and bytes as in memory, little held, all or
nothing on disk."""

from __future__ import annotations

import dataclasses
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import slimllm
from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core import devices, memory
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration
from slimllm.evaluation import evaluate
from slimllm.export.export_reading import as_pruned
from slimllm.files.paths import home_folder
from slimllm.models import loading, offload_loading, weight_reading
from slimllm.models.layer_offload import OnDisk, is_offloaded, open_layer
from slimllm.models.loading import Subject
from slimllm.pruning.finetuning import Tuning, finetune_model
from tests.support.tiny_models import tiny_model, tiny_tokenizer

WANTED = Calibration(samples=6, length=32)


@pytest.fixture(params=["llama", "qwen3", "gemma2", "phi", "phi3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny checkpoint in several files."""
    place = tmp_path / request.param
    tiny_model(request.param).save_pretrained(place, max_shard_size="60KB")
    tiny_tokenizer().save_pretrained(place)
    assert len(list(place.glob("*.safetensors"))) > 1
    return place


def load_offloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """The checkpoint as a machine with too little memory for it loads it."""
    with monkeypatch.context() as patch:
        patch.setattr(offload_loading, "available_mib", lambda _: 0.1)
        found = loading.load_model(str(folder), dtype="float32", device="cpu")
    assert is_offloaded(found.model)
    return found


def resident(subject: Subject) -> int:
    """How many decoder layers are in memory."""
    return sum(not any(p.is_meta for p in layer.parameters()) for layer in subject.layers)


def test_a_borrowed_model_computes_what_the_whole_one_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, offloaded = (
        loading.load_model(str(folder), dtype="float32", device="cpu"),
        load_offloaded(folder, monkeypatch),
    )
    assert offloaded.shape == whole.shape
    ids = torch.arange(40)[None] * 7 % 256
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        assert torch.equal(offloaded.model(ids).logits, whole.model(ids).logits)
    how = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 4}
    assert torch.equal(offloaded.model.generate(ids, **how), whole.model.generate(ids, **how))
    assert resident(offloaded) == 0


@pytest.mark.parametrize("method", ["slimllm", "best", "fasp", "block-influence"])
def test_a_borrowed_model_is_analysed_and_pruned_to_the_same_bytes(
    method: str, tmp_path: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "llama"
    tiny_model("llama").save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    text, pruned, plans = texts.find_text(str(page)), [], []
    for subject in (
        loading.load_model(str(place), dtype="float32", device="cpu"),
        load_offloaded(place, monkeypatch),
    ):
        analysis = pipeline.finish_job(pipeline.analyse_model(subject, text, WANTED, method_name=method))
        plans.append(slimllm.plan(analysis, ratio=0.35))
        pruned.append(pipeline.finish_job(pipeline.prune_model(subject, plans[-1], text, analysis)))
        assert resident(subject) in (0, len(subject.layers))
    assert plans[0].heads == plans[1].heads
    assert plans[0].channels == plans[1].channels
    whole, offloaded = (p.subject for p in pruned)
    assert resident(offloaded) == 0
    assert offloaded.shape == whole.shape
    for mine, other in zip(offloaded.layers, whole.layers, strict=True):
        with open_layer(mine):
            assert {n: p.tolist() for n, p in mine.named_parameters()} == {
                n: p.tolist() for n, p in other.named_parameters()
            }


def pruned_from_disk(folder: Path, page: Path, monkeypatch: pytest.MonkeyPatch) -> loading.Pruned:
    subject, text = load_offloaded(folder, monkeypatch), texts.find_text(str(page))
    analysis = pipeline.finish_job(pipeline.analyse_model(subject, text, WANTED))
    return pipeline.finish_job(pipeline.prune_model(subject, slimllm.plan(analysis, ratio=0.3), text))


@pytest.mark.slow
def test_export_of_a_borrowed_model_is_verified_and_loads_whole(
    tiny_folder: Path, tmp_path: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = pruned_from_disk(tiny_folder, page, monkeypatch)
    slimllm.save(pruned, tmp_path / "small")
    files = sorted(file.name for file in (tmp_path / "small").glob("*.safetensors"))
    assert files == [f"model-{n:05d}-of-00004.safetensors" for n in range(1, 5)]
    again = loading.load_model(str(tmp_path / "small"), dtype="float32", device="cpu")
    ids = torch.arange(30)[None]
    with torch.inference_mode():
        torch.testing.assert_close(again.model(ids).logits, pruned.subject.model(ids).logits)
    elsewhere = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "small", trust_remote_code=True, local_files_only=True
    )
    with torch.inference_mode():
        torch.testing.assert_close(elsewhere(ids).logits, again.model(ids).logits)


@pytest.mark.slow
def test_a_borrowed_export_can_be_borrowed_again(
    tiny_folder: Path, tmp_path: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = pruned_from_disk(tiny_folder, page, monkeypatch)
    slimllm.save(pruned, tmp_path / "small")
    again = load_offloaded(tmp_path / "small", monkeypatch)
    tokens = torch.arange(256)
    first, second = (
        pipeline.finish_job(evaluate.measure_perplexity(subject, tokens, 32)).nll
        for subject in (pruned.subject, again)
    )
    assert first == pytest.approx(second, abs=1e-6)


def test_pruned_layers_leave_the_disk_with_their_model(
    tiny_folder: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = pruned_from_disk(tiny_folder, page, monkeypatch)
    assert len(list(home_folder().glob(".pruned.*/*.safetensors"))) == 3
    del pruned
    gc.collect()
    assert not list(home_folder().glob(".pruned*"))


def test_a_forward_that_fails_leaves_no_layer_in_memory(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offloaded = load_offloaded(tiny_folder, monkeypatch)
    layer = offloaded.layers[1]
    with pytest.raises(RuntimeError):  # a stream of another width
        layer(torch.zeros(1, 4, 47))
    assert resident(offloaded) == 0


def test_a_checkpoint_that_vanished_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "gone"
    tiny_model("llama").save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    offloaded = load_offloaded(place, monkeypatch)
    for file in place.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(Refusal, match="cannot be read any more"), open_layer(offloaded.layers[0]):
        pass


@pytest.mark.parametrize("method", ["llm-pruner", "ddp"])
def test_methods_that_learn_are_refused_on_a_borrowed_model(
    method: str, tiny_folder: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offloaded = load_offloaded(tiny_folder, monkeypatch)
    with pytest.raises(Refusal, match="needs all weights in memory"):
        pipeline.finish_job(
            pipeline.analyse_model(offloaded, texts.find_text(str(page)), WANTED, method_name=method)
        )


def test_fine_tuning_is_refused_on_a_borrowed_model(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    offloaded = as_pruned(load_offloaded(tiny_folder, monkeypatch))
    with pytest.raises(Refusal, match="Fine-tuning needs all weights in memory"):
        pipeline.finish_job(finetune_model(offloaded, torch.zeros(2, 8, dtype=torch.int64), Tuning()))


def test_the_next_layer_is_read_ahead_where_there_is_a_reader(
    tiny_folder: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a CUDA device: the same figures, each layer read once per pass, none left over."""
    whole, plain = loading.load_model(str(tiny_folder), dtype="float32", device="cpu"), OnDisk.read
    read: list[tuple[str, bool]] = []

    def seen(self: OnDisk) -> dict[str, torch.Tensor]:
        ahead = threading.current_thread() is not threading.main_thread()
        read.append((next(iter(self.places.values()))[1].split(".")[2], ahead))
        return plain(self)

    monkeypatch.setattr(OnDisk, "read", seen)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(offload_loading, "read_ahead_executor", lambda _: pool)
        offloaded = load_offloaded(tiny_folder, monkeypatch)
        read.clear()
        ids = torch.arange(40)[None]
        with torch.inference_mode():
            assert torch.equal(offloaded.model(ids).logits, whole.model(ids).logits)
        assert read == [("0", False), ("1", True), ("2", True)]
        assert resident(offloaded) == 0
        text = texts.find_text(str(page))
        analysis = pipeline.finish_job(pipeline.analyse_model(offloaded, text, WANTED, method_name="best"))
        plan = slimllm.plan(analysis, ratio=0.3)
        pruned = [
            pipeline.finish_job(pipeline.prune_model(subject, plan, text)) for subject in (offloaded, whole)
        ]
        with torch.inference_mode():
            one, other = (p.subject.model(ids).logits for p in pruned)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("device", "free", "spread", "how"),
    [
        ("cpu", 0.1, True, "offloaded"),
        ("cpu", 1e6, True, "whole"),
        ("cuda", 0.1, False, "offloaded"),
        ("cuda", 0.1, True, "spread"),
        ("cuda:1", 1e6, True, "whole"),
        ("xpu", 0.1, True, "spread"),
        ("mps", 0.1, True, "offloaded"),  # its memory is the machine's
        ("mps", 1e6, False, "whole"),
    ],
)
def test_where_a_model_goes_on_a_device(
    device: str, free: float, spread: bool, how: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = torch.device(device).type
    row = dataclasses.replace(devices.KINDS[kind], read_free_mib=lambda _: free)
    monkeypatch.setitem(devices.KINDS, kind, row)
    found = offload_loading.place_of(tiny_folder, torch.float32, "tiny", torch.device(device), spread)
    assert found == how


def test_the_next_layer_is_read_ahead_only_for_a_device_with_its_own_memory() -> None:
    for name in devices.KINDS:
        found = offload_loading.read_ahead_executor(torch.device(name))
        assert (found is not None) == (name in ("cuda", "xpu"))
        if found:
            found.shutdown()


def test_a_spread_model_answers_as_the_whole_one(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spread over what there is here, which is one processor."""
    whole = loading.load_model(str(tiny_folder), dtype="float32", device="cpu")
    given, plain = {}, transformers.AutoModelForCausalLM.from_pretrained

    def seen(*args: Any, **how: Any) -> Any:
        given.update(how)
        return plain(*args, **how)

    monkeypatch.setattr(weight_reading, "place_of", lambda *_: "spread")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", seen)
    subject = loading.load_model(str(tiny_folder), dtype="float32", device="cpu", spread=True)
    assert given["device_map"] == "auto"
    tokens = torch.arange(200)
    one, other = (
        pipeline.finish_job(evaluate.measure_perplexity(s, tokens, 32)).nll for s in (subject, whole)
    )
    assert one == other


def test_memory_of_this_machine_is_known() -> None:
    assert 0 < memory.available_mib() < float("inf")
