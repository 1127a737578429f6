"""What can be done with a model, before any work: from its config, its weight files' headers and trials."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slimllm.core.attention_unit import UNITS
from slimllm.core.errors import Refusal
from slimllm.core.shapes import Shape
from slimllm.export import formats, gguf_writer
from slimllm.export.dry_run import TriedStep, Way, list_ways, sketch_subject, width_steps
from slimllm.export.transformers_versions import NEWER, loading_options, reader_versions
from slimllm.models import folder_check, loading, sources, weight_coverage
from slimllm.models.loading import Subject
from slimllm.models.weight_reading import settle_head

# llama.cpp's converter uses these names for the families' architectures; vLLM lists the classes of them all.
GGUF = {
    **{name: name for name in ("llama", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "granite")},
    **{name: name for name in ("smollm3", "starcoder2", "stablelm", "olmo", "olmo2", "ernie4_5", "seed_oss")},
    **{name: name for name in ("arcee", "nemotron", "apertus", "cohere2", "exaone4", "glm4")},
    "olmo3": "olmo2",
    "hunyuan_v1_dense": "hunyuan-dense",
    "glm": "chatglm",
    "mistral": "llama",
    "gemma3_text": "gemma3",
    "phi": "phi2",
    "cohere": "command-r",
}
DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Card:
    """What a model is and what can be done with it; for an unsupported model only the reason."""

    model: str
    supported: bool
    reason: str = ""
    family: str = ""
    stored_as: str = ""
    layers: int = 0
    heads: int = 0
    groups: int = 0
    head_size: int = 0
    channels: int = 0
    vocab: int = 0
    max_length: int = 0
    dtype: str = ""
    bytes: int = 0
    files: int = 0
    parameters: dict[str, int] = dataclasses.field(default_factory=dict)
    attention: tuple[TriedStep, ...] = ()
    attention_words: str = ""
    exports: tuple[Way, ...] = ()
    runtimes: tuple[str, ...] = ()
    notes: str = ""


def inspect_model(source: str, *, offline: bool = False) -> Card:
    """Return the card of a model, by the same names as in `loading.load_model`.

    Nothing is converted and no weight is read.
    """
    source = str(source).strip()
    try:
        return describe_model(source, offline)
    except Refusal as refusal:
        return Card(source, False, str(refusal))


def examine_source(source: str, offline: bool) -> tuple[Path | None, Subject]:
    """Return (folder or GGUF file or None, model without memory) of a supported model.

    Raise `Refusal` for any other model.
    """
    place = sources.source_path(source) if source else None
    if place is not None and place.suffix == ".gguf" and sources.conversion_folder(place).is_dir():
        place = sources.conversion_folder(place)
    folder = None if place is None or place.suffix == ".gguf" else place
    if folder is not None:
        sources.check_folder(folder, source)
    config = loading.read_config(place, source, offline)
    stored = (
        []
        if folder is None
        else folder_check.stored_tensors(sources.weight_files(folder, source), config, source)
    )
    tensors = [] if folder is None else sources.stored_in(folder, source)
    settle_head(config, tensors, source, str)
    subject = sketch_subject(config, source)
    if folder is not None:
        folder_check.check_promise(subject.model, stored, source)
        subject = dataclasses.replace(subject, notes=notes_of(tensors, subject))
        with loading.refuse_load_failures(source, local=True):
            loading.check_tokenizer(loading.read_tokenizer(folder, source), subject.shape.vocab, source)
    return place, subject


def describe_model(source: str, offline: bool) -> Card:
    """Return the card of a supported model; raise `Refusal` for any other."""
    place, subject = examine_source(source, offline)
    with loading.refuse_load_failures(source, local=True):
        steps, kinds = tuple(width_steps(subject)), tuple(list_ways(subject))
    shape = subject.shape
    dtype, size, files = str(subject.model.config.dtype or ""), 0, 0
    if place is not None and place.is_dir():
        dtype, size, files = describe_weights(sources.stored_in(place, source))
    elif place is not None:
        dtype, size, files = "gguf, converted to float32 once", place.stat().st_size, 1
    return Card(
        model=source,
        supported=True,
        family=shape.family,
        stored_as=formats.base_of(subject),
        layers=len(shape.layers),
        heads=shape.heads,
        groups=shape.groups,
        head_size=shape.head_size,
        channels=shape.channels,
        vocab=shape.vocab,
        max_length=shape.max_length,
        dtype=dtype.removeprefix("torch."),
        bytes=size,
        files=files,
        parameters={"all": shape.parameters, **model_parts(shape)},
        attention=steps,
        attention_words=attention_words(subject),
        exports=kinds,
        runtimes=list_runtimes(subject),
        notes=" ".join(subject.notes),
    )


def model_parts(shape: Shape) -> dict[str, int]:
    """Return the number of parameters of each part."""
    return {
        "embeddings": shape.outside,
        "attention": sum(a.heads * a.head_cost + a.groups * a.group_cost for a in shape.layers),
        "mlp": sum(a.channels * a.channel_cost for a in shape.layers),
        "other": sum(a.fixed for a in shape.layers),
    }


def notes_of(tensors: Sequence[sources.Stored], subject: Subject) -> tuple[str, ...]:
    """Return a sentence about tensors that the model does not read, if there are any.

    Raise `Refusal` if tensors are missing, or if the model should read them.
    """
    missing, unused = weight_coverage.compare_names(tensors, subject.model)
    weight_coverage.check_missing(missing, subject.source)
    said = weight_coverage.judge_unused(unused, subject.model, subject.family, subject.source)
    return (said,) if said else ()


def describe_weights(tensors: Sequence[sources.Stored]) -> tuple[str, int, int]:
    """Return the dtype of most tensors, and the bytes and number of the weight files."""
    files = {tensor.file for tensor in tensors}
    ((kind, _),) = Counter(tensor.dtype for tensor in tensors).most_common(1) or [("", 0)]
    return DTYPE_NAMES.get(kind, kind.lower()), sum(file.stat().st_size for file in files), len(files)


# Words ------------------------------------------------------------------------------------------------------


def attention_words(subject: Subject) -> str:
    """Return why attention cannot shrink as in other models, or an empty string if it can."""
    shape = subject.shape.layers[0]
    if shape.whole:
        return f"Heads stay: {subject.family.whole}. Method fasp can take value columns out of them."
    if any(layer.values < subject.shape.head_size for layer in subject.shape.layers):
        return "Heads have lost value columns (method fasp); they can lose more, or go out as they are."
    if shape.groups == 1:
        return "There is one key/value head, so heads go out of its one group, one by one."
    return ""


def list_runtimes(subject: Subject) -> tuple[str, ...]:
    """Return a sentence for each program that can read the exports, as far as known."""
    name, kind = formats.base_of(subject), subject.shape.family
    settings = subject.model.config.to_dict()
    said = [
        f"{reader_versions(settings)}: every tier; shim with trust_remote_code=True, {name} or its twin "
        "as they are."
    ]
    for key, value in loading_options(settings).items():
        said[0] += f" Before transformers {NEWER}, {key}={value!r} has to be asked for."
    if kind in GGUF:
        said += [
            f"vLLM: lists {name}, so native and padded, not shim; not tried here.",
            f"llama.cpp: {in_llamacpp(subject)}",
        ]
    return tuple(said)


def in_llamacpp(subject: Subject) -> str:
    """Return how the model can be used in llama.cpp."""
    name, config = formats.base_of(subject), subject.model.config
    reason = gguf_writer.llamacpp_hindrance(name, config, subject.shape.head_size, subject.tokenizer)
    if not reason:
        return "--export gguf writes what it reads; with --align 32 it can quantise all of that."
    return (
        f"no GGUF is written here ({reason}); its own converter knows the architecture "
        f"'{GGUF[subject.shape.family]}', so native and padded by that; not tried here."
    )


def unit_words(step: TriedStep, heads: int) -> str:
    """Return one sentence about a way in which attention can shrink."""
    if UNITS[step.unit].narrows_heads:
        return f"value columns of every head (method fasp): {step.steps} steps per layer"
    each = heads // step.steps
    what = "single heads" if each == 1 else f"{each} heads at a time"
    kind = (
        "whole KV groups" if UNITS[step.unit].takes_groups else "the same number of heads of every KV group"
    )
    plain = ", ".join(map(str, step.plain_heads)) or "none"
    return (
        f"{kind}, {what}: {step.steps} steps per layer; all layers alike need no code file at {plain} heads"
    )


def card_lines(found: Card) -> list[str]:
    """Return the lines of the card for a terminal."""
    if not found.supported:
        return [found.model, f"  cannot be used: {found.reason}"]
    p = found.parameters
    share = {key: f"{p[key]:,} ({p[key] / p['all']:.0%})" for key in p}
    heads = f"{found.heads} heads in {found.groups} groups of size {found.head_size}"
    stored = f", {found.dtype}" if found.dtype else ""
    where = f", {found.bytes / 2**20:,.1f} MiB in {found.files} file(s)" if found.bytes else ""
    return [
        f"{found.model}: {found.family}, {found.stored_as}{stored}{where}",
        f"  {found.layers} layers, {heads}, {found.channels:,} channels; reads {found.max_length:,} tokens",
        f"  {p['all']:,} parameters: " + ", ".join(f"{k} {v}" for k, v in share.items() if k != "all"),
        "can be pruned",
        *(f"  attention, {unit_words(step, found.heads)}" for step in found.attention),
        *([f"  {found.attention_words}"] if found.attention_words else []),
        f"  MLP channels, one by one: {found.channels:,} steps per layer",
        "can be stored",
        *(f"  {line}" for line in export_lines(found.exports)),
        "is read by",
        *(f"  {line}" for line in found.runtimes),
        *([found.notes] if found.notes else []),
    ]


def export_lines(found: Iterable[Way]) -> list[str]:
    """Return one sentence for each kind of plan."""
    plain = {
        "native": "a standard {}, without a code file (native)",
        "twin": "a standard {}, which computes the same, without a code file (twin)",
        "shim": "with a short code file that it needs elsewhere (shim)",
    }
    said = []
    for way in found:
        other = [", or filled up with zeros (padded)"] * way.padded + [", or for llama.cpp (gguf)"] * way.gguf
        said.append(f"{way.plan}: {plain[way.tier].format(way.stored_as)}{''.join(other)}.")
    return said


def export_outlook(subject: Subject) -> list[str]:
    """Return how pruned versions of a loaded model can be stored, one sentence for each kind of plan."""
    empty = dataclasses.replace(
        sketch_subject(subject.model.config, subject.source), tokenizer=subject.tokenizer
    )
    fewer = {heads for step in width_steps(empty) for heads in step.plain_heads} - {subject.shape.heads}
    said = export_lines(list_ways(empty))
    if fewer:
        counts = " or ".join(map(str, sorted(fewer)))
        said.append(f"Fewer heads, all layers alike, recovery none: no code file where {counts} heads stay.")
    return said
