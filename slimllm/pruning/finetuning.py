"""Fine-tuning after pruning: LoRA on every prunable linear layer, trained on a text and merged.

LoRA (Hu et al. 2021, arXiv:2106.09685) learns W + (alpha / rank)·B·A with W frozen, B (outputs, rank)
initialised to zero and A (rank, inputs) at random. The defaults are those of pruning papers (all projections,
samples of 256 tokens, two epochs), except for the learning rate: 1e-3 gives more than their 1e-4 in the few
steps that a small machine can make, and 2e-3 makes other texts worse (docs/log.md).
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

INSTALL = "pip install peft==0.21.2"
# Tokens per forward pass, because logits and their gradient are the largest tensors of a step.
TOKENS_PER_PASS = 1024
# The share of the steps in which the learning rate rises to its highest value; then it falls to zero.
WARM_UP = 0.1
# The norm to which a step's gradient is clipped.
LONGEST_STEP = 1.0


@dataclass(frozen=True)
class Tuning:
    """The settings of a fine-tuning.

    It reads `samples` pieces of `length` tokens of a text `epochs` times, with `batch` pieces per step.
    Adapters have this rank and are scaled by alpha / rank; `rate` is the highest learning rate.
    """

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
    """Raise `Refusal` if a setting is impossible or if peft is not installed."""
    for name, most in (("epochs", 1000), ("batch", 1024), ("rank", 1024)):
        value = getattr(tuning, name)
        if not 1 <= value <= most:
            raise Refusal(
                f"{name.capitalize()} {value} is not possible; use a whole number from 1 to {most}."
            )
    for name, limit, usual in (("alpha", 65_536.0, "16"), ("rate", 1e30, "1e-3")):
        value = getattr(tuning, name)
        # A learning rate that is possible but too high shows in the loss of the first steps.
        if not 0 < value <= limit:
            raise Refusal(
                f"{name.capitalize()} {value} is not possible; use a number above 0, such as {usual}."
            )
    check_seed(tuning.seed)
    if lack := missing_peft():
        raise Refusal(lack)


def missing_peft() -> str:
    """Return a sentence that says what must be installed first, or an empty string if nothing is missing."""
    if importlib.util.find_spec("peft") is not None:
        return ""
    return f"Fine-tuning needs peft, which is not installed; run '{INSTALL}'."


def finetuning_words(tuning: Tuning) -> str:
    """Return a sentence about the fine-tuning for the model card."""
    return (
        f"Tuned after pruning, so `plan.json` alone does not repeat it: LoRA of rank {tuning.rank}, alpha "
        f"{tuning.alpha}, on all projections, {tuning.epochs} epochs over {tuning.samples} pieces of "
        f"{tuning.length} tokens of `{tuning.text}`, {tuning.batch} per step, rate {tuning.rate:g}, seed "
        f"{tuning.seed}."
    )


def finetuning_command(tuning: Tuning, model: str) -> str:
    """Return the command line that repeats the fine-tuning on a model."""
    settings = [
        word for name, value in dataclasses.asdict(tuning).items() for word in (f"--{name}", str(value))
    ]
    return shlex.join(["python", "-m", "slimllm", "tune", "--model", model, *settings, "--out", "DIR"])


def finetune_model(pruned: Pruned, tokens: Tensor, tuning: Tuning) -> Generator[Progress, None, Pruned]:
    """Fine-tune a pruned model on tokens (samples, length), and return it with the adapters merged.

    Weights keep their dtype. The given model and the dense model stay unchanged bit for bit, even if the
    generator is closed early. Every `Progress` carries the loss of its step, in nats per token. Raise
    `Refusal` if a setting is impossible, if peft is missing, or if the loss is no longer finite.
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
    """Return the full names of all readers and writers of both sites, layer by layer."""
    inside = [name for site in (family.attention, family.mlp) for name in (*site.writers, site.reader)]
    return [f"{family.layers}.{index}.{name}" for index in range(layers) for name in inside]


def add_adapters(subject: Subject, tuning: Tuning) -> Any:
    """Return a peft model of the subject's weights in which only float32 adapters can be trained.

    It has its own modules and parameters on the same storage. Nothing writes to that storage, because the
    adapters are never merged into it, and the subject's parameters keep their flags.
    """
    import peft

    own = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in subject.model.parameters()}
    model = copy.deepcopy(subject.model, memo=own)
    names = linear_names(subject.family, len(subject.layers))
    config = peft.LoraConfig(
        r=tuning.rank, lora_alpha=tuning.alpha, lora_dropout=0.0, bias="none", target_modules=names
    )
    where = subject.device.type
    devices = [] if where == "cpu" else [subject.device]
    with torch.random.fork_rng(devices, device_type=where), warnings.catch_warnings():
        # peft draws A from the global generator.
        torch.manual_seed(tuning.seed)
        # peft uses an old name of transformers.
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = peft.get_peft_model(model, config).eval()
    for name in names:
        leave_unread(wrapped.base_model.model.get_submodule(name))
    return wrapped


def leave_unread(adapter: Any) -> None:
    """Set the columns of A for inputs that the linear layer ignores to zero.

    Neither these inputs nor their writers then get a gradient, and everything learned fits into the weights.
    """
    base = adapter.get_base_layer()
    if isinstance(base, Selected):
        unread = torch.ones(base.in_features, dtype=torch.bool, device=base.places.device)  # (inputs,)
        unread[base.places] = False
        # A has the shape (rank, inputs).
        adapter.lora_A[adapter.active_adapters[0]].weight.data[:, unread] = 0


def merge_adapters(subject: Subject, model: Any) -> Any:
    """Return the subject's model, in plain modules, with the adapters of a peft model added to its weights.

    The sum is computed in float32 and rounded once to the weight's dtype; all other tensors are shared.
    """
    plain = share_model(subject.model)
    with torch.no_grad():
        for name in linear_names(subject.family, len(subject.layers)):
            linear, adapter = plain.get_submodule(name), model.base_model.model.get_submodule(name)
            learned = adapter.get_delta_weight(adapter.active_adapters[0]).float()  # (outputs, inputs)
            own = linear.own(learned) if isinstance(linear, Placed) else learned
            linear.weight = freeze_tensor((linear.weight.float() + own).to(linear.weight.dtype))
    return plain


def count_steps(samples: int, tuning: Tuning) -> int:
    """Return the number of steps of the fine-tuning; the last step of an epoch may be smaller."""
    return tuning.epochs * math.ceil(samples / tuning.batch)


def training_batches(tokens: Tensor, tuning: Tuning) -> Iterator[Tensor]:
    """Yield the pieces (b, length) of every step, in a seeded order that is new in every epoch."""
    random = torch.Generator().manual_seed(tuning.seed)
    for _ in range(tuning.epochs):
        # (samples, length) → (b, length) each
        yield from tokens[torch.randperm(len(tokens), generator=random)].split(tuning.batch)


def learning_rate_share(index: int, total: int) -> float:
    """Return the factor (0 to 1] of the learning-rate schedule at a step.

    It rises linearly in the first tenth of the steps and then falls linearly.
    """
    warm = max(1, round(WARM_UP * total))
    return min((index + 1) / warm, (total - index) / (total - warm + 1))


@torch.enable_grad()
def training_step(model: Any, optimizer: torch.optim.Optimizer, rows: Tensor, first: int = 1) -> float:
    """Make one step on pieces (b, length), and return their mean loss before it, in nats per predicted token.

    Tokens from position `first` on are predicted. If the loss is not finite, the weights stay as they are.
    """
    optimizer.zero_grad()
    total, predicted = 0.0, len(rows) * (rows.shape[1] - first)
    for some in rows.split(max(1, TOKENS_PER_PASS // rows.shape[1])):
        logits = model(input_ids=some, use_cache=False).logits[:, first - 1 : -1]  # (b, length−first, vocab)
        flat = logits.flatten(0, 1).float()  # (b · (length − first), vocab)
        loss = nn.functional.cross_entropy(flat, some[:, first:].flatten(), reduction="sum") / predicted
        loss.backward()
        total += loss.item()
    if math.isfinite(total):
        learned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(learned, LONGEST_STEP)
        optimizer.step()
    return total
