"""Find what pins on single heads do to the other heads of their KV groups. Pure.

Attention loses whole groups, or equally many heads of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from slimllm.core.attention_unit import QUERY_HEAD, UNITS
from slimllm.core.shapes import LayerShape, Shape
from slimllm.core.types import Plan
from slimllm.planning.budget import pinned_units
from slimllm.planning.locks import name_layers


@dataclass(frozen=True)
class PinEffects:
    """What the pins of one layer do to heads that they do not name, and which pins have no effect.

    `going` holds the heads that go because their KV group goes, `staying` the heads that stay because it
    stays, and `in_vain` the heads that stay although they were forced out, because another head of their
    group is protected.
    """

    layer: int
    going: tuple[int, ...] = ()
    staying: tuple[int, ...] = ()
    in_vain: tuple[int, ...] = ()


def find_effects(plan: Plan, layer: LayerShape, index: int) -> PinEffects:
    """Return the effects of the pins in one layer.

    There are none where attention does not lose whole groups, or where the plan removes all attention heads
    of the layer.
    """
    each = layer.heads // layer.groups
    protected, forced = (pinned_units(pins, index, "attention") for pins in (plan.protected, plan.forced))
    if not UNITS[plan.unit].takes_groups or each == 1 or not plan.heads[index]:
        return PinEffects(index)
    saved = {head // each for head in protected}
    gone = {head // each for head in forced} - saved

    def heads_in(groups: set[int]) -> set[int]:
        return {group * each + i for group in groups for i in range(each)}

    return PinEffects(
        index,
        tuple(sorted(heads_in(gone) - forced)),
        tuple(sorted(heads_in(saved) - protected - forced)),
        tuple(sorted((heads_in(saved) & forced) - protected)),
    )


def tell_effects(plan: Plan, shape: Shape) -> str:
    """Return what the pins do to other heads, in plain sentences; empty where they do nothing more."""
    if plan.unit == QUERY_HEAD.name:
        return tell_equal_heads(plan, shape)
    found = [find_effects(plan, layer, i) for i, layer in enumerate(shape.layers)]
    said = [
        tell_heads([(f.layer, f.going) for f in found], "go", "goes", "the same KV group"),
        tell_heads([(f.layer, f.staying) for f in found], "stay", "stays", "the same KV group"),
    ]
    vain = [f.layer for f in found if f.in_vain]
    if vain:
        said.append(
            f"{name_layers(vain)}: a forced-out head stays where another head of its KV group is protected."
        )
    return " ".join(s for s in (*said, tell_last_group(plan, shape)) if s)


def tell_heads(found: list[tuple[int, tuple[int, ...]]], many: str, one: str, why: str) -> str:
    """Return a sentence on the heads that go, or stay, with others of their group.

    It is empty where there are none.
    """
    hit = [(layer, heads) for layer, heads in found if heads]
    if not hit:
        return ""
    total = sum(len(heads) for _, heads in hit)
    if len(hit) > 1:
        return f"{total:,} more heads in {len(hit)} layers {many} too, because they belong to {why}s."
    layer, heads = hit[0]
    named = [str(head) for head in heads]
    words = f"head {named[0]}" if total == 1 else f"heads {', '.join(named[:-1])} and {named[-1]}"
    verb, belongs = (one, "it belongs") if total == 1 else (many, "they belong")
    return f"In layer {layer}, {words} {verb} too, because {belongs} to {why}."


def tell_last_group(plan: Plan, shape: Shape) -> str:
    """Return a sentence on the layers that keep a KV group although all their heads are forced out.

    It is empty where there are none.
    """
    layers = [
        i
        for i, layer in enumerate(shape.layers)
        if UNITS[plan.unit].takes_groups
        and plan.heads[i]
        and len(pinned_units(plan.forced, i, "attention") - pinned_units(plan.protected, i, "attention"))
        == layer.heads
    ]
    if not layers:
        return ""
    return (
        f"{name_layers(layers)}: attention keeps at least one KV group unless the whole layer is forced out."
    )


def tell_equal_heads(plan: Plan, shape: Shape) -> str:
    """Return a sentence on the layers where pins on single heads change the other KV groups too.

    Every group of a layer keeps equally many heads. The sentence is empty where there are no such layers.
    """
    layers = []
    for i, layer in enumerate(shape.layers):
        pins = (pinned_units(which, i, "attention") for which in (plan.protected, plan.forced))
        if layer.groups > 1 and plan.heads[i] and any(0 < len(units) < layer.heads for units in pins):
            layers.append(i)
    if not layers:
        return ""
    return f"{name_layers(layers)}: every KV group keeps equally many heads, so the other groups follow."
