"""Every method and every unit, by name, against naive code on the activations of a tiny model.

The naive versions see what a plain forward shows: what the readers read and what a layer hands on. They know
no moments and none of the product's arithmetic; recoveries have such oracles in test_recovery.py.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.attention_unit import UnitName
from slimllm.core.shapes import Grouping
from slimllm.core.types import Analysis, Calibration, Plan
from slimllm.methods.table import METHODS
from slimllm.models.loading import Subject
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from tests.support.tiny_models import tiny_subject
from tests.unit.methods import test_slimgpt
from tests.unit.methods.test_taylor import naive_scores

HEADS, GROUPS, SIZE, CHANNELS = 6, 3, 8, 104  # so many channels that the lowest 1 % are one
CALIBRATION = Calibration(samples=6, length=32)
GATES = {"target": 0.3, "steps": 3}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def text(page: Path) -> texts.Text:
    return texts.find_text(str(page))


@pytest.fixture
def subject() -> Subject:
    return tiny_subject("llama", intermediate_size=CHANNELS)


def tokens_of(subject: Subject, text: texts.Text) -> Tensor:
    return texts.calibration_tokens(text, subject.tokenizer, CALIBRATION, max_length=512)


@dataclass(frozen=True, eq=False)
class Seen:
    """One layer of the dense model over all tokens, in float64: what o_proj and down_proj read (t, d) and
    (t, c), what the MLP reads (t, o), what the layer reads and hands on (t, o); and its weights."""

    subject: Subject
    tokens: Tensor
    index: int
    heads: Tensor
    channels: Tensor
    mlp: Tensor
    before: Tensor
    after: Tensor

    def weight(self, name: str) -> Tensor:
        return self.subject.layers[self.index].get_submodule(name).weight.double()

    @property
    def o(self) -> Tensor:
        return self.weight("self_attn.o_proj")

    @property
    def down(self) -> Tensor:
        return self.weight("mlp.down_proj")


def look(subject: Subject, tokens: Tensor) -> list[Seen]:
    """Every layer, from one forward."""
    found: list[dict[str, Tensor]] = [{} for _ in subject.layers]

    def keep(index: int, name: str, place: Any) -> Callable[..., None]:
        def hook(_: object, inputs: Any, output: Any) -> None:
            value = inputs[0] if place == "input" else output
            found[index][name] = value.double().flatten(0, 1)

        return hook

    handles = []
    for index, layer in enumerate(subject.layers):
        for name, module, place in (
            ("heads", layer.self_attn.o_proj, "input"),
            ("channels", layer.mlp.down_proj, "input"),
            ("mlp", layer.mlp, "input"),
            ("before", layer, "input"),
            ("after", layer, "output"),
        ):
            handles.append(module.register_forward_hook(keep(index, name, place)))
    with torch.inference_mode():
        subject.model(input_ids=tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return [Seen(subject, tokens, index, **values) for index, values in enumerate(found)]


# Naive scores: (heads or value columns, channels) of a layer ------------------------------------------------


def by_similarity(seen: Seen) -> Tensor:
    """What the summed correlation of all outputs with the whole loses without each head, per output."""
    parts = [
        seen.heads[:, h * SIZE : (h + 1) * SIZE] @ seen.o[:, h * SIZE : (h + 1) * SIZE].T
        for h in range(HEADS)
    ]
    whole = torch.stack(parts).sum(0)

    def likeness(kept: list[int]) -> float:
        mine = sum((parts[h] for h in kept), torch.zeros(()))
        return sum(
            float(torch.corrcoef(torch.stack((mine[:, k], whole[:, k])))[0, 1].abs())
            for k in range(whole.shape[1])
        )

    everyone = list(range(HEADS))
    lost = [likeness(everyone) - likeness([h for h in everyone if h != gone]) for gone in everyone]
    return torch.tensor(lost) / whole.shape[1]


def by_directions(seen: Seen, weights: Tensor | None = None) -> Tensor:
    """Channels along the main directions of the output; tokens count by `weights`, alike if None."""
    share = torch.ones(len(seen.mlp)).double() if weights is None else weights
    share = share / share.sum()
    y = seen.channels @ seen.down.T
    y = y - (share[:, None] * y).sum(0)
    values, vectors = torch.linalg.eig((share[:, None] * y).T @ y)
    size = values.real.abs()
    directions = torch.sigmoid(size / size.mean())
    count = len(seen.mlp)
    found = []
    for j in range(CHANNELS):
        along = (seen.down[:, j] @ vectors.real) * directions
        loud = (count * (share * seen.channels[:, j] ** 2).sum()).sqrt()
        score = loud * along.norm()
        for name in ("mlp.gate_proj", "mlp.up_proj"):
            norms = (count * (share[:, None] * seen.mlp**2).sum(0)).sqrt()
            score = score + (seen.weight(name)[j] * norms).norm()
        found.append(score)
    return torch.stack(found)


def per_input(x: Tensor, weight: Tensor, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A score of every input, from its values over tokens (t,) and its column (o,)."""
    return torch.stack([of(x[:, j], weight[:, j]) for j in range(x.shape[1])])


def loudness(x: Tensor, column: Tensor) -> Tensor:
    return column.abs().sum() * x.square().sum().sqrt()


def length(_: Tensor, column: Tensor) -> Tensor:
    return column.square().sum().sqrt()


def variation(x: Tensor, column: Tensor) -> Tensor:
    return (x - x.mean()).square().mean() * column.square().sum()


def summed(of: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Seen], tuple[Tensor, Tensor]]:
    """Scores of inputs, summed over each head."""

    def scores(seen: Seen) -> tuple[Tensor, Tensor]:
        inputs = per_input(seen.heads, seen.o, of)
        heads = torch.stack([inputs[h * SIZE : (h + 1) * SIZE].sum() for h in range(HEADS)])
        return heads, per_input(seen.channels, seen.down, of)

    return scores


def slimllm(seen: Seen) -> tuple[Tensor, Tensor]:
    return by_similarity(seen), by_directions(seen)


def eliminated(seen: Seen, unit: UnitName, x: Tensor, exact: bool) -> Tensor:
    """What each unit costs when its turn comes, shared by its heads."""
    grouping = Grouping(HEADS, GROUPS, unit)
    _, costs = test_slimgpt.naive_heads(seen.o, x.T @ x, grouping, exact)
    members = HEADS // grouping.units
    return torch.tensor([costs[u] / members for u in grouping.unit_of_head().tolist()])


def best(seen: Seen) -> tuple[Tensor, Tensor]:
    """The exact cost of heads, tokens weighing what the stream behind the layer says; then directions."""
    weights = 1 / seen.after.square().sum(1)
    share = weights / weights.sum()
    centred = seen.heads - (share[:, None] * seen.heads).sum(0)
    return eliminated(seen, "query-head", share.sqrt()[:, None] * centred, exact=True), by_directions(
        seen, weights
    )


def slimgpt(seen: Seen) -> tuple[Tensor, Tensor]:
    root = len(seen.heads) ** 0.5
    gone, costs = test_slimgpt.naive_channels(
        seen.down, seen.channels.T @ seen.channels / len(seen.channels), 8
    )
    channels = torch.zeros(CHANNELS).double()
    channels[gone] = torch.tensor(costs).double()
    return eliminated(seen, "kv-group", seen.heads / root, exact=False), channels


def fasp(seen: Seen) -> tuple[Tensor, Tensor]:
    """A value column is read by both heads of its group."""
    inputs, per = per_input(seen.heads, seen.o, loudness), HEADS // GROUPS
    columns = [
        sum(float(inputs[h * SIZE + j]) for h in range(g * per, (g + 1) * per))
        for g in range(GROUPS)
        for j in range(SIZE)
    ]
    return torch.tensor(columns), per_input(seen.channels, seen.down, loudness)


def flap(seen: Seen) -> tuple[Tensor, Tensor]:
    inputs = per_input(seen.heads, seen.o, variation).square()
    heads = torch.stack([inputs[h * SIZE : (h + 1) * SIZE].mean() for h in range(HEADS)])
    return heads, per_input(seen.channels, seen.down, variation)


def chance(seen: Seen) -> tuple[Tensor, Tensor]:
    """The first numbers of the layer's own generator, for both sites."""

    def drawn(n: int) -> Tensor:
        return torch.rand(n, generator=torch.Generator().manual_seed(seen.index), dtype=torch.float64)

    return drawn(HEADS), drawn(CHANNELS)


def llm_pruner(seen: Seen) -> tuple[Tensor, Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.unit.methods.test_taylor.CHANNELS", CHANNELS)
        heads, channels = naive_scores(seen.subject, seen.tokens[:10, :64], seen.index)
    return torch.tensor(heads), torch.tensor(channels)


def ddp(seen: Seen) -> tuple[Tensor, Tensor]:
    """Gates of KV groups and channels after a few steps, with the gates multiplied into copied weights."""
    units, per = GROUPS, HEADS // GROUPS
    random = torch.Generator().manual_seed(0)
    layers = len(seen.subject.layers)
    groups = (1 + 0.01 * torch.randn(layers * units, generator=random)).requires_grad_()
    channels = (1 + 0.01 * torch.randn(layers * CHANNELS, generator=random)).requires_grad_()
    lines = [torch.zeros(2, 2, requires_grad=True), torch.zeros(2, requires_grad=True)]
    optimiser = torch.optim.AdamW(
        [{"params": [groups, channels]}, *({"params": [line], "maximize": True} for line in lines)],
        weight_decay=0.0,
    )
    model, waiting = copy.deepcopy(seen.subject.model), torch.empty(0, dtype=torch.int64)
    for step in range(GATES["steps"]):
        while len(waiting) < 8:  # 256 tokens a step
            waiting = torch.cat((waiting, torch.randperm(len(seen.tokens), generator=random)))
        batch, waiting = seen.tokens[waiting[:8]], waiting[8:]
        changed = {}
        for i in range(layers):
            read = groups.relu()[i * units : (i + 1) * units].repeat_interleave(per * SIZE)
            written = channels.relu()[i * CHANNELS : (i + 1) * CHANNELS]
            for name, gate in (("self_attn.o_proj", read), ("mlp.down_proj", written)):
                full = f"model.layers.{i}.{name}.weight"
                changed[full] = model.get_parameter(full) * gate
        inputs = {"input_ids": batch, "use_cache": False}
        dense = model(**inputs).logits.log_softmax(-1).detach()
        ours = torch.func.functional_call(model, changed, kwargs=inputs).logits.log_softmax(-1)
        ce = torch.nn.functional.nll_loss(ours[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        kl = (dense.exp() * (dense - ours)).sum(-1).mean()
        loss = ce + 2 * kl
        mu = 0.5 - 0.4 * (step / GATES["steps"]) ** 0.5
        for latents, line, square in zip((groups, channels), lines[0], lines[1], strict=True):
            soft = 1.2 / (1 + 11 ** -((latents.relu() - mu) / mu)) - 0.1
            kept = soft + (soft.clamp(0, 1) - soft).detach()  # what is fully kept still feels the pull
            more = 1 - kept.mean() - GATES["target"]
            loss = loss + line[0] * more + square * more**2 + line[1] * (kept * (1 - kept)).mean()
        optimiser.zero_grad()
        loss.backward()
        for group, rate in zip(optimiser.param_groups, (2e-2, 2e-2, 4e-1), strict=True):
            group["lr"] = 10 * rate * NAIVE_PACE[step]
        optimiser.step()
    mine = slice(seen.index * units, (seen.index + 1) * units)
    gates = groups.detach().relu()[mine].repeat_interleave(per)
    return gates, channels.detach().relu()[seen.index * CHANNELS : (seen.index + 1) * CHANNELS]


NAIVE_PACE = (1.0, 1.0, 0.5)  # one step of warming up; half a cosine over the other two: cos 0, cos π/2

NAIVE: dict[str, Callable[[Seen], tuple[Tensor, Tensor]]] = {
    "slimllm": slimllm,
    "best": best,
    "slimllm-published": slimllm,
    "fasp": fasp,
    "slimgpt": slimgpt,
    "flap": flap,
    "llm-pruner": llm_pruner,
    "ddp": ddp,
    "wanda-sp": summed(loudness),
    "magnitude": summed(length),
    "block-influence": summed(length),
    "random": chance,
}


def analysed(subject: Subject, text: texts.Text, name: str) -> Analysis:
    options = GATES if name == "ddp" else None
    return pipeline.finish_job(
        pipeline.analyse_model(subject, text, CALIBRATION, method_name=name, options=options)
    )


@pytest.mark.parametrize("name", METHODS)
def test_oracle_of_method(
    name: str, subject: Subject, text: texts.Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_slimgpt, "SIZE", SIZE)
    found = analysed(subject, text, name)
    for seen in look(subject, tokens_of(subject, text))[1:]:
        layer = found.layers[seen.index]
        heads, channels = NAIVE[name](seen)
        attention = next(iter(layer.attention.values())).ranking
        close = {"rtol": 1e-3, "atol": 1e-5 * float(channels.abs().max())}
        torch.testing.assert_close(attention.scores.double(), heads.double(), **close)
        torch.testing.assert_close(layer.mlp.ranking.scores.double(), channels.double(), **close)
        if name == "slimllm-published":  # its code sorts the lowest hundredth, one here, to the front
            lowest = int(channels.argmin())
            assert int(layer.mlp.ranking.order[0]) == lowest
        cosine = torch.cosine_similarity(seen.before, seen.after).mean()
        assert layer.cosine == pytest.approx(float(cosine), abs=1e-5)
    if name == "block-influence":
        plan = plan_making.make_plan(found, PlanRules(0.34))
        dropped = [i for i, heads in enumerate(plan.heads) if not heads]
        assert dropped == [max(range(3), key=lambda i: found.cosine[i])]


# Units ------------------------------------------------------------------------------------------------------


def masked(subject: Subject, plan: Plan, pruned: Any, ids: Tensor) -> Tensor:
    """Logits of the dense model whose readers find zeros where the plan has cut."""
    handles = []
    for index, (layer, report) in enumerate(zip(subject.layers, pruned.layers, strict=True)):
        if plan.unit == "value-column":
            columns = {(c // SIZE, c % SIZE) for c in report.kept_heads}
            live = [(h // (HEADS // GROUPS), j) in columns for h in range(HEADS) for j in range(SIZE)]
        else:
            live = [h in report.kept_heads for h in range(HEADS) for _ in range(SIZE)]
        channels = [c in report.kept_channels for c in range(CHANNELS)]
        assert sum(live) == plan.heads[index] * (HEADS if plan.unit == "value-column" else SIZE)
        assert sum(channels) == plan.channels[index]
        for reader, mask in ((layer.self_attn.o_proj, live), (layer.mlp.down_proj, channels)):
            kept = torch.tensor(mask)
            handles.append(reader.register_forward_pre_hook(lambda _, x, kept=kept: (x[0] * kept,)))
    try:
        with torch.inference_mode():
            return subject.model(input_ids=ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(
    ("unit", "method", "heads", "channels"),
    [
        ("kv-group", "slimllm", (2, 4, 6), (CHANNELS,) * 3),
        ("query-head", "slimllm", (3, 6, 3), (CHANNELS,) * 3),
        ("value-column", "fasp", (5, 8, 3), (CHANNELS,) * 3),
        ("channels", "slimllm", (HEADS,) * 3, (60, 104, 41)),
    ],
    ids=["kv-group", "query-head", "value-column", "channels"],
)
def test_oracle_of_unit_cut_is_unit_silenced(
    unit: str,
    method: str,
    heads: tuple[int, ...],
    channels: tuple[int, ...],
    subject: Subject,
    text: texts.Text,
) -> None:
    analysis = analysed(subject, text, method)
    kind = "auto" if unit == "channels" else unit
    plan = plan_making.make_plan(analysis, PlanRules(0.2, recovery="none", unit=kind, align=1))
    plan = dataclasses.replace(plan, heads=heads, channels=channels, allocation="hand")
    pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text, analysis))
    ids = texts.evaluation_tokens(text, subject.tokenizer, limit=60)[None]
    expected = masked(subject, plan, pruned, ids)
    with torch.inference_mode():
        found = pruned.subject.model(input_ids=ids, use_cache=False).logits
        dense = subject.model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - dense).abs().max() > 0.01
