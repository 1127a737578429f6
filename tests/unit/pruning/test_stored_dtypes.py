"""Claims about the dtype of what is stored: every tensor keeps the one that it has in the source's files, to
the last bit where nothing changed it, whatever dtype was computed in – unless one is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import slimllm
from slimllm.calibration import texts
from slimllm.cli import main
from slimllm.core import devices
from slimllm.core.types import Calibration
from slimllm.export import checkpoint
from slimllm.models import loading, offload_loading
from slimllm.models.loading import Pruned, Subject
from slimllm.planning import forecast, plan_making
from slimllm.planning.rules import PlanRules
from slimllm.pruning import stored_dtypes
from tests.export.test_gguf import worded
from tests.support.tiny_models import tiny_model, tiny_tokenizer

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
SOURCES: dict[str, Callable[[str], torch.dtype]] = {  # the dtype of a tensor by its name
    "float32": lambda _: FULL,
    "float16": lambda _: HALF,
    "bfloat16": lambda _: BRAIN,
    "mixed": lambda name: FULL if "norm" in name else HALF if "mlp" in name else BRAIN,
}


def folder_of(root: Path, kind: str, family: str = "llama", **changes: object) -> Path:
    """A tiny model on disk whose tensors have these dtypes."""
    folder = root / f"{family}-{kind}"
    tiny_model(family, **changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = {name: tensor.to(SOURCES[kind](name)) for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(autouse=True)
def brain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that computes in bfloat16."""
    monkeypatch.setattr(devices, "has_bfloat16_cpu", lambda: True)


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports that skip the fresh process."""
    monkeypatch.setattr(checkpoint, "reload_elsewhere", lambda *_, **__: [None])
    monkeypatch.setattr(checkpoint, "compare_reload", lambda *_: 0.0)


def pruned_to(subject: Subject, page: Path, ratio: float, **choices: object) -> Pruned:
    text, asked = texts.find_text(str(page)), Calibration(str(page), 4, 32)
    found = slimllm.analyse(subject, text, asked, method=str(choices.pop("method", "magnitude")))
    plan = plan_making.make_plan(found, PlanRules(ratio, align=1, **choices))  # type: ignore[arg-type]
    return slimllm.prune(subject, plan, text)


def same_bytes(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("offloaded", [False, True], ids=["whole", "layer by layer"])
@pytest.mark.parametrize("kind", SOURCES)
def test_nothing_removed_is_the_source_to_the_last_bit(
    kind: str, offloaded: bool, tmp_path: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command line; two of the cases with the fresh process."""
    if (kind, offloaded) not in (("mixed", False), ("float32", True)):
        monkeypatch.setattr(checkpoint, "reload_elsewhere", lambda *_, **__: [None])
        monkeypatch.setattr(checkpoint, "compare_reload", lambda *_: 0.0)
    source = folder_of(tmp_path, kind)
    if offloaded:
        monkeypatch.setattr(offload_loading, "too_large", lambda *_: True)
    line = ["prune", "--model", source, "--text", page, "--samples", 4, "--length", 32, "--ratio", 0]
    assert main.main([*map(str, [*line, "--recovery", "none", "--out", tmp_path / "out"])]) == 0
    given, made = load_file(source / "model.safetensors"), {}
    for file in (tmp_path / "out").glob("*.safetensors"):
        made |= load_file(file)
    assert made.keys() == given.keys()
    assert [name for name in given if not same_bytes(given[name], made[name])] == []
    card = (tmp_path / "out/README.md").read_text()
    size = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")) / 2**20
    assert f"{size:,.1f} MiB" in card
    assert {"float32": "in float32, as", "mixed": "some of it in"}.get(kind, f"in {kind}, as") in card


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("family", ["llama", "phi3", "stablelm", "cohere"])
@pytest.mark.parametrize("kind", ["float32", "mixed"])
def test_what_is_only_sliced_is_sliced_from_the_source(
    kind: str, family: str, tmp_path: Path, page: Path
) -> None:
    source = folder_of(tmp_path, kind, family)
    subject = loading.load_model(str(source), device="cpu")
    assert subject.dtype == BRAIN
    pruned = pruned_to(subject, page, 0.3, recovery="none")
    slimllm.save(pruned, tmp_path / "out")
    given, made = load_file(source / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert {name: made[name].dtype for name in made} == {name: given[name].dtype for name in made}
    cut = 0
    for index, report in enumerate(pruned.layers):
        name = f"model.layers.{index}.mlp.down_proj.weight"
        assert same_bytes(made[name], given[name][:, list(report.kept_channels)])
        cut += made[name].shape != given[name].shape
    assert cut
    random = [
        name
        for name in made
        if kind == "float32" and not torch.equal(given[name], given[name].bfloat16().float())
    ]
    rounded = [name for name in random if torch.equal(made[name], made[name].bfloat16().float())]
    assert rounded == [], "nothing went through bfloat16"


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize(
    ("method", "choices"),
    [
        ("slimllm", {"recovery": "regression"}),
        ("slimllm", {"recovery": "least-squares"}),
        ("slimllm", {"recovery": "bias"}),
        ("slimllm", {"recovery": "guided"}),
        ("fasp", {}),
        ("block-influence", {}),
    ],
)
def test_what_a_recovery_changed_is_stored_as_it_was_computed(
    method: str, choices: dict[str, str], tmp_path: Path, page: Path
) -> None:
    """In the source's dtype, and all else as in the source."""
    source = folder_of(tmp_path, "float32")
    subject = loading.load_model(str(source), device="cpu")
    pruned = pruned_to(subject, page, 0.34, method=method, **choices)
    slimllm.save(pruned, tmp_path / "out")
    made = load_file(tmp_path / "out/model.safetensors")
    held = pruned.subject.model.state_dict()
    readers = ("o_proj", "down_proj")
    for name, tensor in made.items():
        if tensor.is_floating_point():
            assert tensor.dtype == FULL
            assert torch.equal(tensor.bfloat16(), held[name]), name
            changed = method != "block-influence" and any(reader in name for reader in readers)
            if not changed:
                assert not torch.equal(tensor, tensor.bfloat16().float()), name
    if choices.get("recovery") == "bias":
        name = "model.layers.1.mlp.down_proj.weight"
        assert not torch.equal(made[name], made[name].bfloat16().float()), "only its bias is new"


@pytest.mark.usefixtures("trusting")
def test_a_dtype_that_is_asked_for_is_stored(tmp_path: Path, page: Path) -> None:
    source = folder_of(tmp_path, "mixed")
    for name, dtype in (("float32", FULL), ("float16", HALF), ("bfloat16", BRAIN)):
        subject = loading.load_model(str(source), device="cpu", dtype=name)
        slimllm.save(pruned_to(subject, page, 0.2), tmp_path / name)
        made = load_file(tmp_path / name / "model.safetensors")
        assert {tensor.dtype for tensor in made.values()} == {dtype}
        assert json.loads((tmp_path / name / "config.json").read_text())["dtype"] == name


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("kind", SOURCES)
def test_sizes_that_are_told_are_those_of_the_file(kind: str, tmp_path: Path, page: Path) -> None:
    subject = loading.load_model(str(folder_of(tmp_path, kind)), device="cpu")
    found = slimllm.analyse(subject, texts.find_text(str(page)), Calibration(str(page), 4, 32))
    plan = plan_making.make_plan(found, PlanRules(0.0, recovery="none"))
    done = slimllm.save(slimllm.prune(subject, plan, texts.find_text(str(page))), tmp_path / "out")
    told = forecast.forecast_plan(found, plan).bytes
    header = 8 + int.from_bytes((tmp_path / "out/model.safetensors").read_bytes()[:8], "little")
    assert told == pytest.approx(done.bytes - header, abs=2)


def test_too_large_a_number_for_the_dtype_of_the_source_stays_a_number() -> None:
    files = {"x.weight": loading.Stored("x.weight", Path("gone"), "F16", 1)}
    module = torch.nn.Linear(1, 1)
    module.origin = loading.Origin("x")
    held = torch.tensor([[1e30]], dtype=BRAIN)
    assert torch.equal(stored_dtypes.stored_tensor(files, module, "weight", held), held.float())


@pytest.mark.usefixtures("trusting")
def test_a_gguf_of_floats_keeps_them_and_one_of_quantised_weights_is_as_computed(
    tmp_path: Path, page: Path
) -> None:
    subject = worded()
    subject.model.to(HALF)
    whole = pruned_to(subject, page, 0.0, recovery="none")
    slimllm.save(whole, tmp_path / "packed", wanted="gguf")
    (tmp_path / "alone").mkdir()
    file = Path(shutil.copy(tmp_path / "packed/model.gguf", tmp_path / "alone/small.gguf"))
    again = loading.load_model(str(file), device="cpu")
    assert again.dtype == BRAIN
    slimllm.save(pruned_to(again, page, 0.0, recovery="none"), tmp_path / "out")
    given, made = subject.model.state_dict(), load_file(tmp_path / "out/model.safetensors")
    assert [name for name in made if not torch.equal(made[name].to(HALF), given[name])] == []
    assert {tensor.dtype for tensor in made.values()} == {HALF}
    content = bytearray(file.read_bytes())
    place = content.index(b"general.file_type") + len(b"general.file_type") + 4
    content[place] = 7  # as if it were quantised
    file.write_bytes(content)
    assert loading.load_model(str(file), device="cpu").files == {}
