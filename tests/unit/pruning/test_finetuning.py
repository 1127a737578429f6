"""Claims about fine-tuning: it learns, it merges what was learned, and nothing it was given changes."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.cli import main
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration, LayerReport, Progress, Repair
from slimllm.evaluation import evaluate
from slimllm.export import checkpoint, export_reading
from slimllm.models import loading
from slimllm.models.families import layer_shape, linear_of, narrows_values, shape_of
from slimllm.models.loading import Pruned, Subject
from slimllm.models.shared_copy import share_model
from slimllm.planning import plan_making
from slimllm.planning.plan_json import read_plan
from slimllm.planning.rules import PlanRules
from slimllm.pruning import finetuning
from slimllm.pruning.finetuning import Tuning
from slimllm.pruning.surgery import slice_values
from tests.support.tiny_models import PAGE, tiny_subject, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

pytest.importorskip("peft")
ROOT = Path(__file__).parents[3]
FAST = Tuning(samples=8, length=32, epochs=6, batch=4, rank=4, rate=1e-2)


def pieces(samples: int = 8, length: int = 32) -> Tensor:
    """Tokens (samples, length) of a page that says the same over and over."""
    ids = texts.tokenize_documents([PAGE * 20], tiny_tokenizer())
    return ids[: samples * length].view(samples, length)


def pruned(dense: Subject, page: Path) -> Pruned:
    """A subject pruned for real, so that its layers have different widths and new biases."""
    text = texts.find_text(str(page))
    calibration = Calibration(str(page), 4, 32)
    analysis = pipeline.finish_job(pipeline.analyse_model(dense, text, calibration))
    plan = plan_making.make_plan(analysis, PlanRules(0.3, align=1))
    made = pipeline.finish_job(pipeline.prune_model(dense, plan, text))
    assert len(set(made.subject.shape.widths)) > 1
    return made


def state(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: Any, before: dict[str, Tensor]) -> bool:
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in before)


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits.float()


def losses(job: Any) -> tuple[Pruned, list[float]]:
    found: list[Progress] = []
    return pipeline.finish_job(job, found.append), [step.result for step in found]


# Learning ---------------------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_merged_model_has_learned(page: Path) -> None:
    given = pruned(tiny_subject(), page)
    done, found = losses(finetuning.finetune_model(given, pieces(), FAST))
    assert len(found) == finetuning.count_steps(8, FAST) == 12
    assert found[-1] < found[0] - 1
    count = pieces().numel() - len(pieces())
    before, after = (evaluate.window_loss(p.subject, pieces()) / count for p in (given, done))
    assert after < before - 1
    assert done.subject.shape == given.subject.shape
    assert (done.plan, done.layers) == (given.plan, given.layers)


def test_progress_says_step_and_loss(page: Path) -> None:
    found = list(
        finetuning.finetune_model(pruned(tiny_subject(), page), pieces(), dataclasses.replace(FAST, epochs=1))
    )
    assert [(p.stage, p.done, p.total) for p in found] == [("tune", 1, 2), ("tune", 2, 2)]
    assert [p.words for p in found] == [f"Step {p.done} of 2 · loss {p.result:.3f}" for p in found]


def test_a_loss_is_the_mean_over_all_predicted_tokens(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = pruned(tiny_subject(), page)
    expected = evaluate.window_loss(given.subject, pieces()) / (8 * 31)
    for at_once in (1, 96, 10_000):  # however a step's pieces are spread over passes
        monkeypatch.setattr(finetuning, "TOKENS_PER_PASS", at_once)
        job = finetuning.finetune_model(given, pieces(), dataclasses.replace(FAST, batch=8))
        first, second = next(job).result, next(job).result
        assert math.isclose(first, expected, rel_tol=1e-5)
        monkeypatch.setattr(finetuning, "TOKENS_PER_PASS", 10_000)
        again = finetuning.finetune_model(given, pieces(), dataclasses.replace(FAST, batch=8))
        next(again)
        assert math.isclose(second, next(again).result, rel_tol=1e-4)


def test_a_step_knows_nothing_of_the_pieces_before_it() -> None:
    first, second = pieces().split(4)

    def gradients(*steps: Tensor) -> list[Tensor]:
        model = scrambled(tiny_subject(), 0.1)
        learned = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(learned, lr=0.0)
        for rows in steps:
            finetuning.training_step(model, optimizer, rows)
        return [p.grad for p in learned if p.grad is not None]

    assert len(gradients(second)) == 3 * 7 * 2
    torch.testing.assert_close(gradients(first, second), gradients(second))


def test_the_same_seed_gives_the_same_bytes_and_no_other_does(page: Path) -> None:
    given = pruned(tiny_subject(), page)
    torch.manual_seed(1)
    first = pipeline.finish_job(finetuning.finetune_model(given, pieces(), FAST)).subject.model
    torch.manual_seed(2)
    assert same(
        pipeline.finish_job(finetuning.finetune_model(given, pieces(), FAST)).subject.model, state(first)
    )
    other = dataclasses.replace(FAST, seed=1)
    assert not same(
        pipeline.finish_job(finetuning.finetune_model(given, pieces(), other)).subject.model, state(first)
    )


def test_the_global_generator_is_left_alone(page: Path) -> None:
    given = pruned(tiny_subject(), page)
    before = torch.get_rng_state()
    pipeline.finish_job(finetuning.finetune_model(given, pieces(), FAST))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_reads_every_piece_once_in_another_order() -> None:
    tokens = torch.arange(10)[:, None].repeat(1, 4)
    rows = list(finetuning.training_batches(tokens, dataclasses.replace(FAST, epochs=2, batch=4)))
    assert [len(some) for some in rows] == [4, 4, 2] * 2
    first, second = (torch.cat(rows[i : i + 3])[:, 0].tolist() for i in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


@pytest.mark.parametrize("total", [1, 2, 9, 100])
def test_the_pace_rises_to_one_and_falls_but_never_to_nothing(total: int) -> None:
    found = [finetuning.learning_rate_share(index, total) for index in range(total)]
    assert max(found) == 1
    assert min(found) > 0
    top = found.index(1)
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert top <= total * 0.1


# What was given ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [1, 5, None])
def test_nothing_given_changes_even_when_closed_half_way(page: Path, taken: int | None) -> None:
    dense = tiny_subject(tie_word_embeddings=True)
    given = pruned(dense, page)
    dense.model.model.norm.weight.requires_grad_(True)
    flags = [[p.requires_grad for p in m.parameters()] for m in (dense.model, given.subject.model)]
    before, slim = state(dense.model), state(given.subject.model)
    config = given.subject.model.config.to_dict()
    job = finetuning.finetune_model(given, pieces(), FAST)
    for _ in itertools.islice(job, taken):
        pass
    job.close()
    assert same(dense.model, before)
    assert same(given.subject.model, slim)
    assert [[p.requires_grad for p in m.parameters()] for m in (dense.model, given.subject.model)] == flags
    assert all(p.grad is None for m in (dense.model, given.subject.model) for p in m.parameters())
    assert given.subject.model.config.to_dict() == config
    assert_plain(given.subject.model)


def assert_plain(model: Any) -> None:
    """No part of peft is left in the model."""
    assert not [name for name, module in model.named_modules() if "peft" in type(module).__module__]
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    assert not hasattr(model, "peft_config")


def test_untouched_weights_are_shared_and_tuned_ones_are_not(page: Path) -> None:
    given = pruned(tiny_subject(), page)
    done = pipeline.finish_job(finetuning.finetune_model(given, pieces(), FAST))
    names = {f"{n}.weight" for n in finetuning.linear_names(given.subject.family, len(given.subject.layers))}
    assert len(names) == 3 * 7
    theirs = dict(given.subject.model.named_parameters())
    for name, parameter in done.subject.model.named_parameters():
        assert (parameter.data_ptr() == theirs[name].data_ptr()) == (name not in names), name
        assert torch.equal(parameter, theirs[name]) == (name not in names), name
        assert not parameter.requires_grad
    assert_plain(done.subject.model)
    assert type(done.subject.model) is type(given.subject.model)


# Merging ----------------------------------------------------------------------------------------------------


def scrambled(subject: Subject, size: float) -> Any:
    """An adapted model whose B, which start from zero, are random."""
    model = finetuning.add_adapters(subject, FAST)
    dice = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=dice) * size)
    return model


def test_merged_equals_base_plus_adapter_in_every_family(any_subject: Subject) -> None:
    names = finetuning.linear_names(any_subject.family, len(any_subject.layers))
    before = state(any_subject.model)
    model = scrambled(any_subject, 0.1)
    learned = [n.removeprefix("base_model.model.") for n, p in model.named_parameters() if p.requires_grad]
    trained = {name.partition(".lora_")[0] for name in learned}
    assert trained == set(names)
    done = finetuning.merge_adapters(any_subject, model)
    ids = pieces(2, 24)
    dense, adapter = logits(any_subject.model, ids), logits(model, ids)
    assert (adapter - dense).abs().max() > 0.1
    torch.testing.assert_close(logits(done, ids), adapter, atol=1e-3, rtol=1e-3)
    assert same(any_subject.model, before)
    for name in names:  # by hand: W + alpha/rank · B·A
        lora = model.base_model.model.get_submodule(name)
        delta = FAST.alpha / FAST.rank * lora.lora_B["default"].weight @ lora.lora_A["default"].weight
        torch.testing.assert_close(done.get_submodule(name).weight, before[f"{name}.weight"] + delta)


def test_bfloat16_stays_bfloat16_and_is_learned_in_float32(page: Path) -> None:
    dense = tiny_subject()
    half = pruned(loading.make_subject("half", dense.model.to(torch.bfloat16), dense.tokenizer), page)
    model = scrambled(half.subject, 0.3)
    kinds = {p.requires_grad: p.dtype for p in model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    done = finetuning.merge_adapters(half.subject, model)
    assert {p.dtype for p in done.parameters()} == {torch.bfloat16}
    name = finetuning.linear_names(half.subject.family, 1)[0]
    lora, weight = model.base_model.model.get_submodule(name), half.subject.model.get_submodule(name).weight
    exact = weight.double() + lora.get_delta_weight("default").double()
    off = (done.get_submodule(name).weight.double() - exact).abs()
    assert (off <= exact.abs() * 2.0**-8).all()  # rounded once
    tuned, found = losses(finetuning.finetune_model(half, pieces(), FAST))
    assert found[-1] < found[0] - 0.5
    assert {p.dtype for p in tuned.subject.model.parameters()} == {torch.bfloat16}


def narrowed(subject: Subject) -> Subject:
    """The subject with other values of every group gone, 5 of 8 kept in the first layer, 3 in the last."""
    slim = dataclasses.replace(subject, model=share_model(subject.model))
    size, family = subject.shape.head_size, subject.family
    for layer, count in ((slim.layers[0], 5), (slim.layers[-1], 3)):
        shape = layer_shape(layer, family)
        kept = torch.stack([(torch.arange(count) + g).sort().values for g in range(shape.groups)]) % size
        kept, heads = kept.sort(1).values, torch.arange(shape.heads)
        inputs = (heads[:, None] * size + kept[heads // (shape.heads // shape.groups)]).flatten()
        weight = linear_of(layer, family.attention.reader).weight[:, inputs]
        slice_values(layer, family, shape, size, kept, Repair(weight))
    return dataclasses.replace(slim, shape=shape_of(slim.model, family))


def test_narrow_values_learn_nothing_where_they_are_gone(
    any_subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not narrows_values(any_subject.family):
        pytest.skip("its values are no block of their own")
    slim, trained = narrowed(any_subject), []
    merge, before = finetuning.merge_adapters, state(slim.model)
    monkeypatch.setattr(
        finetuning, "merge_adapters", lambda *given: (trained.append(given[1]), merge(*given))[1]
    )
    report = LayerReport(6, 96, (), (), 0.0, 0.0)
    given = Pruned(slim, export_reading.as_pruned(any_subject).plan, (report,) * 3, 0.0, 0.0)
    done, found = losses(finetuning.finetune_model(given, pieces(), FAST))
    assert found[-1] < found[0] - 0.5
    assert same(slim.model, before)
    assert done.subject.shape.parameters == slim.shape.parameters
    torch.testing.assert_close(
        logits(done.subject.model, pieces()), logits(trained[0], pieces()), atol=1e-3, rtol=1e-3
    )
    shuffled = scrambled(slim, 0.1)
    torch.testing.assert_close(
        logits(merge(slim, shuffled), pieces()), logits(shuffled, pieces()), atol=1e-3, rtol=1e-3
    )


# What is tuned ----------------------------------------------------------------------------------------------


def test_a_dense_model_is_something_pruned_that_keeps_everything(tiny_folder: Path) -> None:
    subject = loading.load_model(str(tiny_folder), dtype="float32")
    found = export_reading.as_pruned(subject)
    assert found.subject is subject
    assert (found.plan.heads, found.plan.channels) == ((6, 6, 6), (96, 96, 96))
    plan_making.check_plan(found.plan, subject.shape)
    assert [len(layer.kept_channels) for layer in found.layers] == [96] * 3


@pytest.fixture
def unproven(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Exports without the proof in a fresh process, where a test only needs the folder."""

    def export(given: Pruned, folder: Path, tier: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "reload_elsewhere", lambda *_, **__: [None])
            patch.setattr(checkpoint, "compare_reload", lambda *_: 0.0)
            assert pipeline.finish_job(checkpoint.export_checkpoint(given, folder, wanted=tier)).tier == tier

    return export


@pytest.mark.parametrize("tier", ["shim", "padded"])
def test_an_export_is_opened_with_its_plan_and_its_true_widths(
    tmp_path: Path, page: Path, tier: str, unproven: Callable[..., None]
) -> None:
    given = pruned(tiny_subject(), page)
    unproven(given, tmp_path / "out", tier)
    found = export_reading.as_pruned(loading.load_model(str(tmp_path / "out"), dtype="float32"))
    assert found.plan == given.plan
    assert found.layers == given.layers
    assert found.subject.shape.widths == given.subject.shape.widths
    torch.testing.assert_close(logits(found.subject.model, pieces()), logits(given.subject.model, pieces()))


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["shim", "padded"])
def test_a_tuned_export_is_exported_verified_and_reloads(
    tmp_path: Path, page: Path, tier: str, unproven: Callable[..., None]
) -> None:
    unproven(pruned(tiny_subject(), page), tmp_path / "out", tier)
    found = export_reading.as_pruned(loading.load_model(str(tmp_path / "out"), dtype="float32"))
    done = pipeline.finish_job(finetuning.finetune_model(found, pieces(), FAST))
    made = pipeline.finish_job(checkpoint.export_checkpoint(done, tmp_path / "tuned", wanted=tier))
    assert made.verified
    assert made.tier == tier
    again = loading.load_model(str(tmp_path / "tuned"), dtype="float32")
    torch.testing.assert_close(logits(again.model, pieces()), logits(done.subject.model, pieces()))


def test_zero_heads_inside_a_group_are_cut_away_too() -> None:
    subject = tiny_subject()
    model = share_model(subject.model)
    for layer in model.model.layers:
        weight = layer.self_attn.o_proj.weight.detach().clone()
        weight[:, [*range(8, 16), *range(24, 32), *range(32, 40)]] = 0  # heads 1, 3 and 4
        layer.self_attn.o_proj.weight = nn.Parameter(weight, requires_grad=False)
    found = export_reading.remove_padding(loading.make_subject("zeros", model, subject.tokenizer))
    assert found.shape.widths == ((3, 3, 96),) * 3
    torch.testing.assert_close(logits(found.model, pieces()), logits(model, pieces()))


def test_padded_values_are_cut_away_again(tmp_path: Path, unproven: Callable[..., None]) -> None:
    slim = narrowed(tiny_subject())
    plan = export_reading.as_pruned(slim).plan
    report = LayerReport(6, 96, (), (), 0.0, 0.0)
    unproven(Pruned(slim, plan, (report,) * 3, 0.0, 0.0), tmp_path / "out", "padded")
    loaded = loading.load_model(str(tmp_path / "out"), dtype="float32")
    assert loaded.shape.parameters > slim.shape.parameters
    found = export_reading.as_pruned(loaded).subject
    assert found.shape == slim.shape
    torch.testing.assert_close(logits(found.model, pieces()), logits(slim.model, pieces()))


def test_a_broken_export_is_one_sentence(tmp_path: Path, page: Path, unproven: Callable[..., None]) -> None:
    unproven(pruned(tiny_subject(), page), tmp_path / "out", "shim")
    subject = loading.load_model(str(tmp_path / "out"), dtype="float32")
    for text in ("{", "[]", '{"layers": [{}]}', '{"layers": 3}', "\x00"):
        (tmp_path / "out" / "slimllm.json").write_text(text)
        with pytest.raises(Refusal, match=r"slimllm\.json.*export the model again"):
            export_reading.as_pruned(subject)


# The command ------------------------------------------------------------------------------------------------


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    capsys.readouterr()
    status = main.main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out.strip() else None, err


LITTLE = ["--samples", 8, "--length", 32, "--window", 32, "--dtype", "float32"]


@pytest.mark.slow
def test_the_command_tunes_what_prune_exported(
    tmp_path: Path,
    tiny_folder: Path,
    page: Path,
    capsys: pytest.CaptureFixture[str],
    unproven: Callable[..., None],
) -> None:
    small, out = tmp_path / "small", tmp_path / "tuned"
    unproven(pruned(loading.load_model(str(tiny_folder), dtype="float32"), page), small, "shim")
    more = ["--epochs", 3, "--batch", 3, "--rank", 4, "--rate", 0.01]
    status, found, err = call(capsys, "tune", "--model", small, "--text", page, *LITTLE, *more, "--out", out)
    assert status == 0, err
    assert found["perplexity_after"] < found["perplexity_before"] / 2
    assert found["loss_last"] < found["loss_first"]
    assert (found["steps"], found["tokens"], found["tier"]) == (9, 256, "shim")
    assert found["verified"] is True
    assert found["max_logit_difference"] <= 1e-4
    assert found["bytes"] == (out / "model.safetensors").stat().st_size
    assert found["measured_on_learned_text"] is True
    assert "measured on what is learned" in err
    assert "Step 9 of 9 · loss" in err
    assert {"seconds", "out"} <= set(found)
    assert read_plan(out / "plan.json") == read_plan(small / "plan.json")
    card = (out / "README.md").read_text()
    assert "LoRA of rank 4" in card
    assert f"tune --model {small}" in card
    for folder, key in ((small, "perplexity_before"), (out, "perplexity_after")):
        status, score, _ = call(
            capsys, "evaluate", "--model", folder, "--text", page, "--window", 32, "--dtype", "float32"
        )
        assert math.isclose(score["perplexity"], found[key], rel_tol=1e-4)


@pytest.mark.slow
def test_the_command_tunes_a_dense_folder_and_measures_elsewhere(
    tmp_path: Path, tiny_folder: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Quite another text, to be measured on and nothing else. " * 20)
    status, found, _ = call(
        capsys, "tune", "--model", tiny_folder, "--text", page, "--measure-on", other, *LITTLE,
        "--epochs", 1, "--out", tmp_path / "tuned",
    )  # fmt: skip
    assert status == 0
    assert found["measured_on"] == str(other)
    assert found["measured_on_learned_text"] is False
    assert found["tier"] == "native"


BAD: dict[str, tuple[str, str]] = {
    "rank 0": ("--rank 0", "Rank 0 is not possible"),
    "rank beyond reason": ("--rank 99999", "Rank 99999 is not possible"),
    "epochs 0": ("--epochs 0", "Epochs 0 is not possible"),
    "batch -1": ("--batch -1", "Batch -1 is not possible"),
    "alpha 0": ("--alpha 0", "Alpha 0 is not possible"),
    "rate 0": ("--rate 0", "Rate 0.0 is not possible"),
    "rate nan": ("--rate nan", "Rate nan is not possible"),
    "rate inf": ("--rate inf", "Rate inf is not possible"),
    "rate that explodes": ("--rate 1e30 --samples 8", "use a smaller --rate"),
    "samples 0": ("--samples 0", "say nothing"),
    "too many samples": ("--samples 99999", "fewer than"),
    "length beyond the model": ("--length 9999", "more than this model's"),
    "unknown text": ("--text nowhere", "not known"),
    "unknown text to measure on": ("--measure-on nowhere", "not known"),
    "window 1": ("--window 1", "not possible"),
    "limit 0": ("--limit-tokens 0", "nothing to predict"),
    "no such model": ("--model ./nowhere", "There is no folder"),
    "not a number": ("--epochs many", "invalid int value"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_values_are_one_sentence_and_status_2(
    case: str, tmp_path: Path, tiny_folder: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, words = BAD[case]
    usual = ["--model", tiny_folder, "--text", page, *LITTLE, "--out", tmp_path / "new"]
    status, answer, err = call(capsys, "tune", *usual, *line.split(" "))
    assert status == 2
    assert answer is None
    last = err.strip().splitlines()[-1]
    assert last.startswith("slimllm: ")
    assert words in last
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


def test_a_foreign_folder_is_left_alone(
    tmp_path: Path, tiny_folder: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    status, _, err = call(capsys, "tune", "--model", tiny_folder, "--text", page, *LITTLE, "--out", mine)
    assert status == 2
    assert "not empty" in err
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]


def test_without_peft_it_says_how_to_install_it_before_any_work(
    tmp_path: Path, page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, find = pruned(tiny_subject(), page), importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "peft" else find(name, *more)
    )
    with pytest.raises(Refusal, match="pip install peft=="):
        next(finetuning.finetune_model(given, pieces(), FAST))
    status, _, err = call(capsys, "tune", "--model", "./nowhere", "--text", page, "--out", tmp_path / "new")
    assert status == 2
    assert (
        err.strip() == f"slimllm: Fine-tuning needs peft, which is not installed; run '{finetuning.INSTALL}'."
    )


def test_what_to_install_is_what_the_requirements_name() -> None:
    assert finetuning.INSTALL.split()[2:] == (ROOT / "requirements-tune.txt").read_text().split()
    assert "-r requirements-tune.txt" in (ROOT / "requirements-dev.txt").read_text().splitlines()
