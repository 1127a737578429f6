"""Fine-tuning after pruning: LoRA beside every prunable linear layer, trained on a text and merged.

LoRA (Hu et al. 2021, arXiv:2106.09685) learns W + (alpha / rank)·B·A with W frozen, B (outputs, rank) from
zero and A (rank, inputs) at random. The defaults are those that pruning papers tune with (all projections,
pieces of 256 tokens, two epochs) but for the rate: 1e-3 brings more than their 1e-4 in the few steps that a
small machine takes, and 2e-3 hurts other texts (docs/log.md).
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import math
import shlex
import time
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimllm.core.errors import Refusal
from slimllm.core.memory import watch_peak
from slimllm.core.types import Progress, check_seed
from slimllm.models.families import Family
from slimllm.models.layer_offload import check_resident
from slimllm.models.loading import Pruned, Subject
from slimllm.models.modeling_slim import Placed, Selected
from slimllm.models.shared_copy import freeze_tensor, share_model

INSTALL = "pip install -r requirements-tune.txt"
TOKENS_PER_PASS = 1024  # logits and their gradient are the largest tensors of a step
WARM_UP = 0.1  # share of the steps in which the rate rises to what was asked for; then it falls to zero
LONGEST_STEP = 1.0  # norm to which a step's gradient is cut


@dataclass(frozen=True)
class Tuning:
    """How to tune: `samples` pieces of `length` tokens of a text, read `epochs` times, `batch` pieces per
    step; adapters of this rank, scaled by alpha / rank; `rate` is the highest learning rate."""

    text: str = "encyclopedia"
    samples: int = 256
    length: int = 256
    epochs: int = 2
    batch: int = 4
    rank: int = 8
    alpha: int = 16
    rate: float = 1e-3
    seed: int = 0


def check_finetuning(tuning: Tuning) -> None:
    """A `Refusal` where a setting is impossible, or where peft is not installed."""
    for name, most in (("epochs", 1000), ("batch", 1024), ("rank", 1024)):
        value = getattr(tuning, name)
        if not 1 <= value <= most:
            raise Refusal(
                f"{name.capitalize()} {value} is not possible; use a whole number from 1 to {most}."
            )
    for name, limit, usual in (("alpha", 65_536.0, "16"), ("rate", 1e30, "1e-3")):
        value = getattr(tuning, name)
        if not 0 < value <= limit:  # far below, a rate that explodes says so by its first steps
            raise Refusal(
                f"{name.capitalize()} {value} is not possible; use a number above 0, such as {usual}."
            )
    check_seed(tuning.seed)
    if lack := missing_peft():
        raise Refusal(lack)


def missing_peft() -> str:
    """What has to be installed first, as a sentence; empty where all is there."""
    if importlib.util.find_spec("peft") is not None:
        return ""
    return f"Fine-tuning needs peft, which is not installed; run '{INSTALL}'."


def finetuning_words(tuning: Tuning) -> str:
    """What was done, as a sentence for the model card."""
    return (
        f"Tuned after pruning, so `plan.json` alone does not repeat it: LoRA of rank {tuning.rank}, alpha "
        f"{tuning.alpha}, on all projections, {tuning.epochs} epochs over {tuning.samples} pieces of "
        f"{tuning.length} tokens of `{tuning.text}`, {tuning.batch} per step, rate {tuning.rate:g}, seed "
        f"{tuning.seed}."
    )


def finetuning_command(tuning: Tuning, model: str) -> str:
    """The command line that repeats it on a model."""
    settings = [
        word for name, value in dataclasses.asdict(tuning).items() for word in (f"--{name}", str(value))
    ]
    return shlex.join(["python", "-m", "slimllm", "tune", "--model", model, *settings, "--out", "DIR"])


def finetune_model(pruned: Pruned, tokens: Tensor, tuning: Tuning) -> Generator[Progress, None, Pruned]:
    """The pruned model tuned on `tokens` (samples, length), with the adapters merged into its own dtype.

    What was given, and the dense model behind it, stay bit for bit as they were, also when the generator is
    closed early. Every `Progress` carries the loss of its step, in nats per token. Raises `Refusal` for
    impossible settings, where peft is missing, and where the loss stops being a number.
    """
    check_finetuning(tuning)
    if tokens.ndim != 2 or len(tokens) < 1 or tokens.shape[1] < 2:
        raise Refusal("There is nothing to learn from; give at least one piece of 2 tokens.")
    subject = pruned.subject
    check_resident(subject.model, "Fine-tuning")
    start, peak = time.perf_counter(), watch_peak(subject.device)
    model = add_adapters(subject, tuning)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=tuning.rate, weight_decay=0.0)
    total = count_steps(len(tokens), tuning)
    for index, rows in enumerate(training_batches(tokens, tuning)):
        for group in optimizer.param_groups:
            group["lr"] = tuning.rate * learning_rate_share(index, total)
        loss = training_step(model, optimizer, rows.to(subject.device), subject.beginning.predicted_from)
        if not math.isfinite(loss):
            raise Refusal(
                f"The loss is no number any more after step {index + 1}; use a smaller --rate, or "
                "--dtype float32."
            )
        yield Progress("tune", index + 1, total, f"Step {index + 1} of {total} · loss {loss:.3f}", loss)
    done = dataclasses.replace(subject, model=merge_adapters(subject, model))
    seconds = time.perf_counter() - start
    return dataclasses.replace(pruned, subject=done, seconds=seconds, peak_memory_mib=peak())


def linear_names(family: Family, layers: int) -> list[str]:
    """The full names of all readers and writers of both sites, layer by layer."""
    inside = [name for site in (family.attention, family.mlp) for name in (*site.writers, site.reader)]
    return [f"{family.layers}.{index}.{name}" for index in range(layers) for name in inside]


def add_adapters(subject: Subject, tuning: Tuning) -> Any:
    """A peft model whose float32 adapters are all that can be trained, around the subject's weights.

    It has modules and parameters of its own over the same storage: nothing writes there, because the adapters
    are never merged into it, and no flag of the subject's parameters changes.
    """
    import peft

    own = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in subject.model.parameters()}
    model = copy.deepcopy(subject.model, memo=own)
    names = linear_names(subject.family, len(subject.layers))
    config = peft.LoraConfig(
        r=tuning.rank, lora_alpha=tuning.alpha, lora_dropout=0.0, bias="none", target_modules=names
    )
    devices = [subject.device] if subject.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        torch.manual_seed(tuning.seed)  # peft draws A from the global generator
        warnings.simplefilter("ignore", FutureWarning)  # it asks transformers by an old name
        wrapped = peft.get_peft_model(model, config).eval()
    for name in names:
        leave_unread(wrapped.base_model.model.get_submodule(name))
    return wrapped


def leave_unread(adapter: Any) -> None:
    """Takes inputs that the linear layer does not read out of A: then neither they, nor what would write
    them, ever get a gradient, and the whole of what is learned fits into the weights."""
    base = adapter.get_base_layer()
    if isinstance(base, Selected):
        unread = torch.ones(base.in_features, dtype=torch.bool, device=base.places.device)
        unread[base.places] = False
        adapter.lora_A[adapter.active_adapters[0]].weight.data[:, unread] = 0


def merge_adapters(subject: Subject, model: Any) -> Any:
    """The subject's model with the adapters of a peft model added to its weights; plain modules.

    Added in float32 and rounded once to the dtype it had; everything else is shared, as in a skeleton.
    """
    plain = share_model(subject.model)
    with torch.no_grad():
        for name in linear_names(subject.family, len(subject.layers)):
            linear, adapter = plain.get_submodule(name), model.base_model.model.get_submodule(name)
            learned = adapter.get_delta_weight(adapter.active_adapters[0]).float()
            own = linear.own(learned) if isinstance(linear, Placed) else learned
            linear.weight = freeze_tensor((linear.weight.float() + own).to(linear.weight.dtype))
    return plain


def count_steps(samples: int, tuning: Tuning) -> int:
    """How many steps the tuning takes; the last one of an epoch may be smaller."""
    return tuning.epochs * math.ceil(samples / tuning.batch)


def training_batches(tokens: Tensor, tuning: Tuning) -> Iterator[Tensor]:
    """The pieces (b, length) of every step, in a seeded order that is new in every epoch."""
    random = torch.Generator().manual_seed(tuning.seed)
    for _ in range(tuning.epochs):
        yield from tokens[torch.randperm(len(tokens), generator=random)].split(tuning.batch)


def learning_rate_share(index: int, total: int) -> float:
    """The share (0 to 1] of the rate at a step: up in the first tenth, down to zero in a line from there."""
    warm = max(1, round(WARM_UP * total))
    return min((index + 1) / warm, (total - index) / (total - warm + 1))


@torch.enable_grad()
def training_step(model: Any, optimizer: torch.optim.Optimizer, rows: Tensor, first: int = 1) -> float:
    """Takes one step on pieces (b, length), whose tokens from place `first` on are predicted: their mean loss
    before it, in nats per predicted token."""
    optimizer.zero_grad()
    total, predicted = 0.0, len(rows) * (rows.shape[1] - first)
    for some in rows.split(max(1, TOKENS_PER_PASS // rows.shape[1])):
        logits = model(input_ids=some, use_cache=False).logits[:, first - 1 : -1]  # (b, length−first, vocab)
        flat = logits.flatten(0, 1).float()
        loss = nn.functional.cross_entropy(flat, some[:, first:].flatten(), reduction="sum") / predicted
        loss.backward()
        total += loss.item()
    if math.isfinite(total):
        learned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(learned, LONGEST_STEP)
        optimizer.step()
    return total
