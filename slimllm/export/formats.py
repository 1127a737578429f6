"""The forms in which a pruned model can be stored, chosen by building the class that will read it.

These are native: the same class at other widths; twin: a stock class that computes the same; shim: any
widths, with a short code file; padded: zeros up to the widest layer, then native or twin; gguf: native or
twin in the one file that llama.cpp reads, or a Llama of any widths. The class is built without memory.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from slimllm.core.errors import Refusal
from slimllm.export import gguf_writer
from slimllm.export.padding import State, Widths, pad_state, padded_widths
from slimllm.models.families import head_norms, linear_of
from slimllm.models.layer_offload import is_offloaded
from slimllm.models.loading import Pruned, Subject
from slimllm.models.modeling_slim import Placed
from slimllm.models.slim_class import slim_class

BIAS_FLAGS = ("attention_bias", "mlp_bias", "use_bias")
TWINS = ("MistralForCausalLM", "GraniteForCausalLM")
# Families that differ only in biases, if they have no sliding window.
LIKE_LLAMA = ("llama", "mistral", "qwen2")

# Class name, config class, config settings.
Build = tuple[str, Any, dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Form:
    """One way to store a pruned model: an empty model of the class that will read it, and its weights."""

    tier: str
    model: Any
    state: State
    words: str


class Misfit(Exception):
    """The reason why a model does not fit a form, and the remedy; both complete a sentence."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


def choose_format(pruned: Pruned, wanted: str = "auto") -> Form:
    """Return the requested form; for auto, the first of native, twin and shim that holds the model.

    Raise `Refusal` if the model does not fit.
    """
    check_wanted(wanted)
    for tier in ("native", "twin", "shim") if wanted == "auto" else (wanted,):
        try:
            return FORMS[tier](pruned)
        except Misfit as misfit:
            last = misfit
    raise Refusal(f"The model cannot be stored as {tier}: {last.reason}; {last.remedy}.")


def check_wanted(wanted: str) -> None:
    """Raise `Refusal` if a name is not a form."""
    if wanted != "auto" and wanted not in FORMS:
        raise Refusal(f"Export '{wanted}' is not known; use auto, {', '.join(FORMS)}.")


def native_format(pruned: Pruned) -> Form:
    """Return the model in its own class at other widths."""
    state = pruned.subject.model.state_dict()
    model = first_fit(native_builds(pruned.subject, same_widths(pruned)), state)
    words = f"All layers are equally wide, so it is a standard {name_of(model)}, without a code file."
    return Form("native", model, state, words)


def twin_format(pruned: Pruned) -> Form:
    """Return the model in another stock class that computes the same."""
    subject, state = pruned.subject, pruned.subject.model.state_dict()
    model = first_fit(twin_builds(subject, same_widths(pruned)), state)
    words = (
        f"Stored as {name_of(model)}, which computes what {base_of(subject)} does and can hold these head "
        "counts and biases; it is a standard checkpoint, without a code file."
    )
    return Form("twin", model, state, words)


def shim_format(pruned: Pruned) -> Form:
    """Return the model in its own class with resized linear layers, which the stored code file reads."""
    subject, base = pruned.subject, base_of(pruned.subject)
    family = subject.family
    names = [name for site in (family.attention, family.mlp) for name in (*site.writers, site.reader)]
    slim = {
        "base": base,
        "layers": family.layers,
        "attention": family.attention_module,
        "heads": [list(row[:2]) for row in subject.shape.widths],
        "linears": {
            name: [linear_extent(linear_of(layer, name)) for layer in subject.layers] for name in names
        },
        **norm_heads(subject),
    }
    code = {"AutoModelForCausalLM": "modeling_slim.SlimForCausalLM"}
    config = type(subject.model.config).from_dict({**plain_settings(subject), "slim": slim, "auto_map": code})
    model = empty_model(slim_class(slim, subject.source), config)
    try:
        native_format(pruned)
        why = "As asked for"
    except Misfit as misfit:
        why = f"Because {misfit.reason}"
    words = (
        f"{why}, stored as {base} with the short code file modeling_slim.py: elsewhere it needs "
        "trust_remote_code=True, this program reads it without running that file."
    )
    return Form("shim", model, subject.model.state_dict(), words)


def padded_format(pruned: Pruned) -> Form:
    """Return the model padded with zeros to its widest layer, or further if the stock class requires it."""
    for unpadded in (native_format, twin_format):
        with contextlib.suppress(Misfit):
            return unpadded(pruned)
    subject, state = pruned.subject, pruned.subject.model.state_dict()
    if is_offloaded(subject.model):
        raise Misfit("its weights do not fit into memory together", "use --export auto or shim")
    ghosts = {name: tensor.to("meta") for name, tensor in state.items()}
    misfits = []
    for target in padded_widths(subject):
        builds = itertools.chain(native_builds(subject, target), twin_builds(subject, target))
        try:
            model = first_fit(builds, pad_state(subject, ghosts, target))
        except Misfit as misfit:
            misfits.append(misfit)
            continue
        filled = pad_state(subject, state, target)
        zeros = sum(t.numel() for t in filled.values()) - sum(state[k].numel() for k in filled if k in state)
        words = (
            f"Narrow layers are filled up with zeros to {target[0]} whole heads and {target[2]} channels, "
            f"so that it is a standard {name_of(model)}; {zeros:,} parameters are such zeros, which save "
            "neither memory nor time."
        )
        return Form("padded", model, filled, words)
    raise misfits[-1]


def gguf_format(pruned: Pruned) -> Form:
    """Return the model in one file, if llama.cpp has an architecture that computes the same."""
    subject = pruned.subject
    if is_offloaded(subject.model):
        raise Misfit("its weights do not fit into memory together", "use --export auto or shim")
    name, config = base_of(subject), subject.model.config
    reason = gguf_writer.llamacpp_hindrance(name, config, subject.shape.head_size, subject.tokenizer)
    if reason:
        raise Misfit(reason, "use --export auto")
    if subject.shape.uneven:
        return uneven_gguf(pruned)
    widths = same_widths(pruned)
    own = native_builds(subject, widths) if name in gguf_writer.ARCHITECTURES else iter(())
    state = subject.model.state_dict()
    model = first_fit(itertools.chain(own, twin_builds(subject, widths, gguf_writer.TWINS)), state)
    biased = any(getattr(model.config, flag, False) for flag in BIAS_FLAGS)
    words = (
        "All layers are equally wide, so llama.cpp reads it as one file, model.gguf; transformers reads that "
        f"as {name_of(model)}, by the config.json beside it{', or loses the biases' if biased else ''}."
    )
    words = " ".join(filter(None, (words, coarse_words(subject))))
    return Form("gguf", model, state, words)


def uneven_gguf(pruned: Pruned) -> Form:
    """Return a model of any widths in one file, if llama.cpp has an architecture for it."""
    check_values(pruned)
    model = shim_format(pruned).model
    if reason := gguf_writer.hindrance_uneven(model):
        raise Misfit(reason, "keep every layer the same width, or use --export shim or padded")
    words = (
        "Its layers have different widths, which llama.cpp reads from one file, model.gguf (architecture "
        f"'{gguf_writer.UNEVEN}'); transformers has no class for that file, this program reads it."
    )
    words = " ".join(filter(None, (words, coarse_words(pruned.subject))))
    return Form("gguf", model, pruned.subject.model.state_dict(), words)


def coarse_words(subject: Subject) -> str:
    """Return a sentence about what llama.cpp cannot quantise in a model, or an empty string."""
    return gguf_writer.coarse_words([layer.channels for layer in subject.shape.layers])


FORMS: dict[str, Callable[[Pruned], Form]] = {
    "native": native_format,
    "twin": twin_format,
    "shim": shim_format,
    "padded": padded_format,
    "gguf": gguf_format,
}


def same_widths(pruned: Pruned) -> Widths:
    """Return the widths that all layers share; raise `Misfit` if there are none."""
    check_values(pruned)
    if pruned.subject.shape.uneven:
        remedy = "use --export shim or padded, or keep every layer the same width"
        raise Misfit("its layers have different widths", remedy)
    return pruned.subject.shape.widths[0]


def check_values(pruned: Pruned) -> None:
    """Raise `Misfit` if values are narrower than heads."""
    size = pruned.subject.shape.head_size
    if any(0 < layer.values < size for layer in pruned.subject.shape.layers):
        remedy = "use --export auto, shim or padded"
        raise Misfit("values narrower than heads have no place in a stock class", remedy)


def native_builds(subject: Subject, widths: Widths) -> Iterator[Build]:
    """Yield the model's own class at these widths."""
    settings = {**plain_settings(subject), **sized_settings(subject, widths)}
    return with_biases(base_of(subject), type(subject.model.config), settings)


def twin_builds(subject: Subject, widths: Widths, names: Sequence[str] = TWINS) -> Iterator[Build]:
    """Yield the classes called `names` for a model that computes what a Llama does."""
    settings = plain_settings(subject)
    windowed = settings.get("sliding_window") or "sliding_attention" in (settings.get("layer_types") or ())
    if settings["model_type"] not in LIKE_LLAMA or windowed:
        return
    neutral = dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0)
    scale = {"attention_multiplier": subject.shape.head_size**-0.5}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "LlamaForCausalLM": (transformers.LlamaConfig, {}),
        "MistralForCausalLM": (transformers.MistralConfig, {"sliding_window": None}),
        "GraniteForCausalLM": (transformers.GraniteConfig, {**neutral, **scale}),
    }
    for name in names:
        kind, extra = kinds[name]
        if name != base_of(subject):
            known = {key: value for key, value in kind().to_dict().items() if key != "model_type"}
            shared = {key: settings.get(key, value) for key, value in known.items()}
            yield from with_biases(name, kind, {**shared, **sized_settings(subject, widths), **extra})


def with_biases(name: str, kind: Any, settings: dict[str, Any]) -> Iterator[Build]:
    """Yield the build as it is, then with the biases that its config can switch on."""
    flags = [flag for flag in BIAS_FLAGS if settings.get(flag) is False]
    for count in range(len(flags) + 1):
        for chosen in itertools.combinations(flags, count):
            yield name, kind, {**settings, **dict.fromkeys(chosen, True)}


def plain_settings(subject: Subject) -> dict[str, Any]:
    """Return the settings of the model's config without those of an earlier export."""
    ours = ("slim", "auto_map", "architectures", "transformers_version")
    settings = {key: value for key, value in subject.model.config.to_dict().items() if key not in ours}
    head = subject.model.get_output_embeddings()
    if settings.get("tie_word_embeddings") and head.weight is not subject.model.get_input_embeddings().weight:
        # The config may not match the weights.
        settings["tie_word_embeddings"] = False
    return settings


def sized_settings(subject: Subject, widths: Widths) -> dict[str, int]:
    """Return the config settings for these widths."""
    names = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
    return {**dict(zip(names, widths, strict=True)), "head_dim": subject.shape.head_size}


def first_fit(builds: Iterator[Build], state: State) -> Any:
    """Return the first empty model that has a place for all tensors and lacks at most biases.

    Raise `Misfit` if there is none.
    """
    misfit = Misfit("no stock class computes the same", "use --export auto or shim")
    for name, kind, settings in builds:
        try:
            model = empty_model(getattr(transformers, name), kind.from_dict(settings))
        except Exception as failure:
            # The checks of configs and classes raise exceptions of any type.
            reason = str(failure).strip().splitlines()[-1].strip().removeprefix("ValueError: ").rstrip(".")
            misfit = Misfit(f"{kind.__name__} refuses it ({reason})", "use --export auto or shim")
            continue
        places = model.state_dict()
        wrong = [key for key in state if key not in places or places[key].shape != state[key].shape]
        if not wrong and all(key.endswith(".bias") for key in places.keys() - state.keys()):
            return model
        if wrong and all(key.endswith(".bias") for key in wrong):
            misfit = Misfit(f"{name} has no place for {wrong[0]}", "use --export shim, or --recovery none")
        elif wrong:
            misfit = Misfit(f"{name} has another shape for {wrong[0]}", "use --export auto or shim")
    raise misfit


def empty_model(kind: Any, config: Any) -> Any:
    """Return a model of this class on the meta device, without memory."""
    with torch.device("meta"):
        return kind(config)


def name_of(model: Any) -> str:
    """Return the name of a model's class."""
    return type(model).__name__


def base_of(subject: Subject) -> str:
    """Return the name of the stock class that the model is based on."""
    return (getattr(subject.model.config, "slim", None) or {}).get("base") or name_of(subject.model)


def norm_heads(subject: Subject) -> dict[str, dict[str, list[int]]]:
    """Return how many heads each norm with separate weights for each head has in every layer."""
    found: dict[str, list[int]] = {}
    for layer, (heads, groups, _) in zip(subject.layers, subject.shape.widths, strict=True):
        for name, _, letter in head_norms(layer, subject.family):
            found.setdefault(name, []).append(heads if letter == "q" else groups)
    return {"norms": found} if found else {}


def linear_extent(linear: nn.Linear) -> list[int | bool | str]:
    """Return a linear layer's shape in the format of `modeling_slim.resize_linears`."""
    shape: list[int | bool | str] = [linear.out_features, linear.in_features, linear.bias is not None]
    if isinstance(linear, Placed):
        shape += [type(linear).__name__, len(linear.places)]
    return shape
