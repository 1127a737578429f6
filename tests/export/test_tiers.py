"""Claims about checkpoints: what is stored is what was pruned, in every family and tier, as read by plain
transformers in a process that cannot import this package; and an export is all or nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import slimllm
from slimllm.cli import main
from slimllm.core.errors import Refusal
from slimllm.core.shapes import Grouping
from slimllm.core.types import LayerReport, Plan, Repair
from slimllm.export import checkpoint, dry_run, formats, verification, write_targets
from slimllm.export.transformers_versions import with_older_keys
from slimllm.export.verification import Reload
from slimllm.files import atomic_write as writing
from slimllm.files import written_files
from slimllm.models import loading
from slimllm.models.families import linear_of, shape_of
from slimllm.models.loading import Pruned, Subject
from slimllm.models.shared_copy import share_model
from slimllm.planning.plan_json import read_plan
from slimllm.pruning.surgery import slice_attention, slice_mlp
from tests.support.exports_on_disk import Stored, stored
from tests.support.tiny_models import FAMILY_CONFIGS, tiny_subject

Cuts = list[tuple[list[int], int]]  # per layer the kept heads, and how many channels are kept


def whole(subject: Subject) -> Cuts:
    return [(list(range(layer.heads)), layer.channels) for layer in subject.shape.layers]


def by_groups(subject: Subject) -> Cuts:
    """Layers of three widths: whole, two groups kept, one group kept."""
    pools = Grouping(subject.shape.heads, subject.shape.groups, "kv-group").unit_of_head()
    kept = [range(int(pools.max()) + 1), (0, 2), (1,)]
    return [
        ([h for h, group in enumerate(pools.tolist()) if group in wanted], c)
        for wanted, c in zip(kept, (96, 40, 64), strict=True)
    ]


def balanced(subject: Subject) -> Cuts:
    """One query head of every group in the outer layers, each group another one."""
    each = subject.shape.heads // subject.shape.groups
    picked = [g * each + g % each for g in range(subject.shape.groups)]
    return [(picked, 33), (list(range(subject.shape.heads)), 96), (picked, 50)]


def equal(heads: int) -> Callable[[Subject], Cuts]:
    """Layers that all keep `heads` heads, but not the same ones, and 40 channels."""
    return lambda _: [([(h + i) % 6 for h in range(heads)], 40) for i in (0, 2, 0)]


def prune(subject: Subject, cuts: Cuts, *, bias: bool = True) -> Pruned:
    """The subject with these cuts; a reader that is cut gets a random bias, like one that a recovery adds."""
    slim = dataclasses.replace(subject, model=share_model(subject.model))
    size, reports, dice = subject.shape.head_size, [], torch.Generator().manual_seed(0)

    def repair(weight: torch.Tensor, kept: torch.Tensor) -> Repair:
        return Repair(weight[:, kept], torch.randn(len(weight), generator=dice) if bias else None)

    for layer, shape, (heads, count) in zip(slim.layers, subject.shape.layers, cuts, strict=True):
        kept = torch.tensor(sorted(heads))
        if len(kept) < shape.heads:
            inputs = (kept[:, None] * size + torch.arange(size)).flatten()
            mended = repair(linear_of(layer, subject.family.attention.reader).weight, inputs)
            slice_attention(layer, subject.family, shape, size, kept, mended)
        channels = torch.randperm(shape.channels, generator=dice)[:count].sort().values
        if count < shape.channels:
            mended = repair(linear_of(layer, subject.family.mlp.reader).weight, channels)
            slice_mlp(layer, subject.family, shape, channels, mended)
        errors = float("nan"), 0.25
        reports.append(LayerReport(len(kept), count, tuple(kept.tolist()), tuple(channels.tolist()), *errors))
    plan = Plan(
        model=subject.source,
        family=subject.shape.family,
        widths=subject.shape.widths,
        heads=tuple(len(heads) for heads, _ in cuts),
        channels=tuple(count for _, count in cuts),
    )
    done = dataclasses.replace(slim, shape=shape_of(slim.model, slim.family))
    return Pruned(done, plan, tuple(reports), 0.0, 0.0)


def uneven(family: str = "llama", **changes: Any) -> Pruned:
    subject = tiny_subject(family, **changes)
    return prune(subject, by_groups(subject))


# Every family and tier -----------------------------------------------------------------------------------

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SLIDING = {"sliding_window": 8}


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to prune one model and what it should be stored as."""

    family: str
    cuts: Callable[[Subject], Cuts]
    tier: str
    stored_as: str
    bias: bool = True
    wanted: str = "auto"
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def pruned(self) -> Pruned:
        subject = tiny_subject(self.family, **self.changes)
        return prune(subject, self.cuts(subject), bias=self.bias)


SHIMS = {f"{family} shim": Case(family, by_groups, "shim", "Slim") for family in FAMILY_CONFIGS}
OWN_CLASS = {family: "Gemma3" if family == "gemma3_text" else family.title() for family in FAMILY_CONFIGS}
CASES = {
    **SHIMS,
    **{f"{f} equal": Case(f, equal(4), "native", name, bias=False) for f, name in OWN_CLASS.items()},
    **{
        f"{f} padded": Case(f, by_groups, "padded", name, bias=False, wanted="padded")
        for f, name in OWN_CLASS.items()
    },
    "llama balanced": Case("llama", balanced, "shim", "Slim"),
    "phi3 balanced": Case("phi3", balanced, "shim", "Slim"),
    "llama padded balanced": Case("llama", balanced, "padded", "Llama", wanted="padded"),
    "phi3 padded balanced": Case("phi3", balanced, "padded", "Phi3", bias=False, wanted="padded"),
    "llama native biases": Case("llama", equal(4), "native", "Llama", wanted="native"),
    "llama own biases": Case(
        "llama", equal(4), "native", "Llama", changes={"attention_bias": True, "tie_word_embeddings": True}
    ),
    "phi native biases": Case("phi", equal(4), "native", "Phi"),
    "qwen3 heads only": Case("qwen3", lambda _: [([0, 1, 2, 3], 96)] * 3, "native", "Qwen3"),
    "llama odd": Case("llama", equal(5), "twin", "Mistral", bias=False, changes={"num_key_value_heads": 6}),
    "llama odd tied rope": Case(
        "llama",
        equal(5),
        "twin",
        "Mistral",
        bias=False,
        changes={"num_key_value_heads": 6, "tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE},
    ),
    "llama odd biases": Case("llama", equal(5), "twin", "Granite", changes={"num_key_value_heads": 6}),
    "mistral biases": Case("mistral", equal(4), "twin", "Granite"),
    "qwen2 biases": Case("qwen2", equal(4), "twin", "Granite"),
    "mistral sliding": Case("mistral", equal(4), "shim", "Slim", changes=SLIDING),
    "gemma2 odd": Case("gemma2", equal(5), "shim", "Slim", bias=False, changes={"num_key_value_heads": 6}),
    "gemma2 odd padded": Case(
        "gemma2",
        lambda _: [([0, 1, 2, 3, 4], 40), ([1], 30), ([0, 5], 20)],
        "padded",
        "Gemma2",
        bias=False,
        wanted="padded",
        changes={"num_key_value_heads": 6},
    ),
    "asked for a shim": Case("llama", equal(4), "shim", "Slim", wanted="shim"),
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stored]:
    pruned = {name: case.pruned() for name, case in CASES.items()}
    wanted = {name: case.wanted for name, case in CASES.items()}
    return stored(tmp_path_factory.mktemp("shelf"), pruned, wanted, again=SHIMS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_is_read_elsewhere_is_what_was_pruned(shelf: dict[str, Stored], name: str) -> None:
    case, stored = CASES[name], shelf[name]
    config = json.loads((stored.folder / "config.json").read_text())
    assert (stored.form.tier, config["architectures"]) == (case.tier, [f"{case.stored_as}ForCausalLM"])
    difference = verification.compare_reload(stored.pruned.subject, stored.reload)
    assert difference <= (1e-4 if case.tier == "padded" else 1e-6)
    assert (stored.folder / "modeling_slim.py").exists() == (case.tier == "shim") == ("auto_map" in config)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_weights_file_holds_every_parameter_once(shelf: dict[str, Stored], name: str) -> None:
    stored = shelf[name]
    tensors = load_file(stored.folder / "model.safetensors")
    count = sum(t.numel() for t in tensors.values())
    shape, zeros = stored.pruned.subject.shape, count - sum(int(t.count_nonzero()) for t in tensors.values())
    assert shape.parameters <= count <= shape.parameters + zeros
    size = (stored.folder / "model.safetensors").stat().st_size
    assert 4 * count <= size <= 4 * count + 200 * len(tensors)
    assert ("lm_head.weight" in tensors) != stored.pruned.subject.model.config.tie_word_embeddings


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_a_plan_that_cuts_nothing_stores_the_dense_model_bit_for_bit(family: str, tmp_path: Path) -> None:
    subject = tiny_subject(family)
    pruned = prune(subject, whole(subject))
    form = formats.choose_format(pruned)
    checkpoint.write_checkpoint(form, pruned, tmp_path)
    assert (form.tier, type(form.model)) == ("native", type(subject.model))
    state, tensors = subject.model.state_dict(), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in tensors.items())
    assert state.keys() - tensors.keys() <= {"lm_head.weight"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIMS)
def test_a_second_round_through_plain_transformers_changes_nothing(
    shelf: dict[str, Stored], name: str
) -> None:
    stored = shelf[name]
    for file in ("model.safetensors", "modeling_slim.py"):
        assert (stored.second / file).read_bytes() == (stored.folder / file).read_bytes()
    first, second = (json.loads((f / "config.json").read_text()) for f in (stored.folder, stored.second))
    assert first == with_older_keys(second)  # which plain transformers leaves out


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*SHIMS, "llama native biases", "llama odd", "llama odd biases", "phi padded"]
)
def test_it_is_read_here_without_running_its_code(shelf: dict[str, Stored], name: str) -> None:
    stored, case = shelf[name], CASES[name]
    subject = loading.load_model(str(stored.folder), device="cpu", dtype="float32")
    assert verification.compare_reload(subject, stored.reload) <= 1e-6
    if case.tier != "padded":
        assert subject.shape.widths == stored.pruned.subject.shape.widths
    assert subject.tokenizer("As ever.").input_ids == stored.pruned.subject.tokenizer("As ever.").input_ids


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHIMS, "phi3 balanced"])
def test_every_kind_of_attention_and_padded_batches_work_after_reload(
    shelf: dict[str, Stored], name: str
) -> None:
    stored = shelf[name]
    subject = loading.load_model(str(stored.folder), device="cpu", dtype="float32")
    inside = subject.layers[0].get_submodule(subject.family.attention_module)
    ids = torch.arange(20).reshape(2, 10) * 7 % 256
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    places = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.inference_mode():
        alone = stored.pruned.subject.model(ids[:1, 4:]).logits
        for attention in ("eager", "sdpa") if subject.model._supports_sdpa else ("eager",):
            subject.model.set_attn_implementation(attention)
            assert inside.config._attn_implementation == attention
            both = subject.model(ids, attention_mask=mask, position_ids=places).logits
            assert (both[0, 4:] - alone[0]).abs().max() < 1e-4


@pytest.mark.slow
def test_a_reloaded_shim_can_be_stored_again_and_pruned_to_equal_widths(
    shelf: dict[str, Stored], tmp_path: Path
) -> None:
    stored = shelf["llama shim"]
    subject = loading.load_model(str(stored.folder), device="cpu", dtype="float32")
    same = dataclasses.replace(stored.pruned, subject=subject)
    checkpoint.write_checkpoint(formats.choose_format(same), same, tmp_path)
    for file in ("model.safetensors", "modeling_slim.py", "config.json"):
        assert (tmp_path / file).read_bytes() == (stored.folder / file).read_bytes()
    narrow = prune(subject, [([0, 1], 32)] * 3)
    form = formats.choose_format(narrow)
    assert (form.tier, type(form.model).__name__) == ("native", "LlamaForCausalLM")
    assert not hasattr(form.model.config, "slim")


# One export, for real ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_export_is_verified_complete_and_repeatable(tmp_path: Path) -> None:
    pruned = uneven("gemma3_text", dtype=torch.bfloat16)
    target = tmp_path / "deep" / "small"
    job = checkpoint.export_checkpoint(
        pruned, target, recipe="slimllm prune --ratio 0.3", card_notes=["a note"]
    )
    steps = list(job)
    done = steps[-1].result
    assert [(step.done, step.total) for step in steps] == [(i, 4) for i in range(1, 5)]
    assert (done.tier, done.verified, done.folder) == ("shim", True, str(target))
    assert done.max_logit_difference <= 1e-4
    assert done.parameters == pruned.subject.shape.parameters
    assert done.bytes == (target / "model.safetensors").stat().st_size < 2 * done.parameters + 9000
    assert [p.name for p in target.parent.iterdir()] == ["small"]
    assert dataclasses.replace(read_plan(target / "plan.json"), options=()) == pruned.plan
    facts = json.loads((target / "slimllm.json").read_text())
    assert facts["layers"][1]["kept_heads"] == [0, 1, 4, 5]
    assert facts["layers"][0]["error_predicted"] is None
    assert facts["tier"] == "shim"
    card = (target / "README.md").read_text()
    assert all(
        words in card for words in ("trust_remote_code=True", "Licence", "a note", "--ratio 0.3", done.words)
    )
    assert [line[:3] for line in card.splitlines()] == ["# t", "", *["- *"] * 5, "- a"]
    tensors = load_file(target / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    (tmp_path / "twice").mkdir()
    checkpoint.write_checkpoint(formats.choose_format(pruned), pruned, tmp_path / "twice")
    assert (tmp_path / "twice/model.safetensors").read_bytes() == (target / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_checkpoint_that_does_not_load_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = {"lm_head.weight", "model.layers.2.mlp.down_proj.bias"}
    keep_all = checkpoint.stored_tensors
    monkeypatch.setattr(
        checkpoint, "stored_tensors", lambda form: {k: v for k, v in keep_all(form).items() if k not in lost}
    )
    with pytest.raises(Refusal, match=r"does not load in a fresh process .*down_proj\.bias"):
        slimllm.save(uneven(), tmp_path / "small")
    assert not list(tmp_path.iterdir())


# All or nothing ------------------------------------------------------------------------------------------


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports that skip the fresh process, which the tests above pay for."""
    monkeypatch.setattr(checkpoint, "reload_elsewhere", lambda *_, **__: [None])
    monkeypatch.setattr(checkpoint, "compare_reload", lambda *_: 0.0)


@pytest.mark.usefixtures("trusting")
def test_an_interrupted_export_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "small"
    slimllm.save(uneven(), target)
    before = {file.name: file.read_bytes() for file in target.iterdir()}

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    places = {"place_folder": writing, "sync_path": writing}
    for step in ("reload_elsewhere", "write_checkpoint", "write_description", "place_folder", "sync_path"):
        with monkeypatch.context() as patch:
            patch.setattr(places.get(step, checkpoint), step, fails)
            with pytest.raises(Refusal, match=r"cannot be written .*No space left"):
                slimllm.save(uneven(seed=1), target)
        assert [path.name for path in tmp_path.iterdir()] == ["small"]
        assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    job = checkpoint.export_checkpoint(uneven(seed=1), target)
    next(job), next(job)
    job.close()
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    slimllm.save(uneven(seed=1), target)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    assert (target / "model.safetensors").read_bytes() != before["model.safetensors"]


@pytest.mark.usefixtures("trusting")
def test_a_full_disk_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(Refusal, match=r"needs 0.3 MiB and .* has 0.0 MiB left"):
        slimllm.save(uneven(), tmp_path / "small")
    assert not list(tmp_path.iterdir())


def test_only_an_empty_place_or_an_own_export_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "ours").mkdir()
    written_files.note_files(tmp_path / "ours", {})
    assert checkpoint.check_target(tmp_path / "empty") == tmp_path / "empty"
    assert checkpoint.check_target(tmp_path / "ours") == tmp_path / "ours"
    assert checkpoint.check_target(tmp_path / "new/deeper") == tmp_path / "new/deeper"
    with pytest.raises(Refusal, match="is a file"):
        checkpoint.check_target(tmp_path / "file")
    for place, words in (("file/inside", "name another folder"), ("foreign", "not empty")):
        with pytest.raises(Refusal, match=words):
            checkpoint.check_target(tmp_path / place)
    with pytest.raises(Refusal, match="not empty"):
        next(checkpoint.export_checkpoint(uneven(), tmp_path / "foreign"))
    assert [p.name for p in (tmp_path / "foreign").iterdir()] == ["thesis.txt"]
    monkeypatch.setattr(write_targets.os, "access", lambda *_: False)
    with pytest.raises(Refusal, match="Nothing can be written"):
        checkpoint.check_target(tmp_path / "new")


@pytest.mark.parametrize(
    ("family", "cuts", "wanted", "words"),
    [
        (
            "llama",
            by_groups,
            "native",
            "different widths; use --export shim or padded, or keep every layer the same",
        ),
        ("llama", equal(5), "native", r"LlamaConfig refuses it \(.*multiple.*\); use --export auto or shim"),
        ("mistral", equal(4), "native", "no place for .*o_proj.bias; use --export shim, or --recovery none"),
        ("gemma", equal(4), "native", "no place for .*down_proj.bias; use --export shim"),
        ("phi3", by_groups, "padded", "no place for .*o_proj.bias; use --export shim"),
        ("gemma", equal(4), "twin", "no stock class computes the same"),
        ("llama", equal(4), "onnx", "'onnx' is not known; use auto, native, twin, shim, padded"),
    ],
)
def test_impossible_tiers_are_refused_with_reason_and_remedy(
    family: str, cuts: Callable[[Subject], Cuts], wanted: str, words: str
) -> None:
    subject = tiny_subject(family, num_key_value_heads=6)
    with pytest.raises(Refusal, match=words):
        formats.choose_format(prune(subject, cuts(subject)), wanted)


def refused(ask: Callable[[Any], Any], given: Any) -> str:
    """What a question is refused with; empty where it is not."""
    try:
        ask(given)
    except Refusal as refusal:
        return str(refusal)
    return ""


@pytest.mark.parametrize("wanted", [*formats.FORMS, "auto"])
@pytest.mark.parametrize("family", ["llama", "mistral", "phi3", "gemma2"])
def test_what_can_be_exported_is_told_before_it_is_pruned(family: str, wanted: str) -> None:
    subject = tiny_subject(family, **({} if family == "phi3" else {"num_key_value_heads": 6}))
    for cuts in (whole(subject), by_groups(subject), [([0, 1, 2, 3], 40)] * 3):
        for bias in (True, False):
            pruned = prune(subject, cuts, bias=bias)
            plan = dataclasses.replace(pruned.plan, recovery="regression" if bias else "none")
            after = refused(lambda given: formats.choose_format(given, wanted), pruned)
            before = refused(lambda given: dry_run.check_storable(subject, given, wanted), plan)
            assert before == after


def test_a_doomed_export_is_refused_before_the_work(
    tiny_folder: Path, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", "--model", tiny_folder, "--ratio", 0.3, "--text", page, "--samples", 4, "--length", 32]
    assert main.main([str(w) for w in [*words, "--export", "gguf", "--out", tmp_path / "out"]]) == 2
    said = capsys.readouterr().err
    assert "cannot be stored as gguf" in said
    assert "pruned" not in said
    assert not (tmp_path / "out").exists()


def test_a_plan_that_drops_layers_is_told_to_be_exportable() -> None:
    subject = tiny_subject()
    plan = prune(subject, whole(subject)).plan
    dry_run.check_storable(
        subject, dataclasses.replace(plan, heads=(6, 0, 6), channels=(96, 0, 96)), "native"
    )


# The comparison ------------------------------------------------------------------------------------------


def reload_here(subject: Subject) -> Reload:
    """What a faultless fresh process would answer."""
    ids = (torch.arange(verification.PROMPT) * 7919 % subject.shape.vocab)[None]
    with torch.inference_mode():
        for _ in range(verification.NEW):
            ids = torch.cat((ids, subject.model(ids).logits[:, -1:].argmax(-1)), 1)
        return Reload(ids[0], subject.model(ids).logits[0])


def test_the_comparison_sees_other_logits_other_text_and_other_words() -> None:
    subject = uneven().subject
    good = reload_here(subject)
    assert verification.compare_reload(subject, good) <= 1e-4
    logits, ids = good.logits.clone(), good.ids.clone()
    logits[3, 5] += 1e-3
    with pytest.raises(Refusal, match=r"logits off by 0\.001"):
        verification.compare_reload(subject, Reload(good.ids, logits))
    logits[3, 5] = float("nan")
    with pytest.raises(Refusal, match="logits off by nan"):
        verification.compare_reload(subject, Reload(good.ids, logits))
    ids[-1] = (ids[-1] + 1) % 256
    with torch.inference_mode():
        other = subject.model(ids[None]).logits[0]
    with pytest.raises(Refusal, match="greedy tokens by"):
        verification.compare_reload(subject, Reload(ids, other))
    with pytest.raises(Refusal, match="splits words"):
        verification.compare_reload(subject, Reload(good.ids, good.logits, torch.tensor([1, 2])))


def test_the_float32_copy_leaves_the_model_alone() -> None:
    model = uneven("gemma", tie_word_embeddings=True).subject.model
    assert verification.on_cpu(model, exact=True) is model
    model.to(torch.bfloat16)
    copy = verification.on_cpu(model, exact=True)
    assert {p.dtype for p in copy.parameters()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert copy.lm_head.weight is copy.get_input_embeddings().weight
    assert verification.on_cpu(model, exact=False) is model
    assert transformers.__version__.startswith("5.")
