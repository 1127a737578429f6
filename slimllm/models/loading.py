"""Loading a causal language model onto a device, ready for analysis and pruning."""

from __future__ import annotations

import contextlib
import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import GatedRepoError, HFValidationError
from torch import nn

from slimllm.core.devices import pick_device, pick_dtype
from slimllm.core.errors import Refusal
from slimllm.core.failures import is_failure, known_sentence
from slimllm.core.fingerprints import Fingerprint, ReadFrom, hash_tensors, hash_words
from slimllm.core.shapes import Shape
from slimllm.core.types import LayerReport, Plan
from slimllm.models.families import Family, family_of, shape_of
from slimllm.models.folder_check import check_promise, inspect_tokenizer, stored_tensors
from slimllm.models.hub_download import fetch_model, fetched_whole
from slimllm.models.layer_offload import is_offloaded, open_layer
from slimllm.models.shared_copy import Origin
from slimllm.models.sources import (
    Stored,
    check_folder,
    config_of,
    gguf_arguments,
    hash_source,
    kept_in,
    locate_source,
    stored_in,
    weight_files,
)
from slimllm.models.weight_reading import Notes, empty_model, read_model, settle_head
from slimllm.tokenizers.text_start import Beginning, find_beginning
from slimllm.tokenizers.tokenizer_guard import guard_tokenizer


@dataclass(frozen=True, eq=False)
class Subject:
    """A loaded model with everything needed to analyse it.

    The model is shared and must never be changed in place. `files` are the places of those tensors that an
    export stores as in their files. It is empty if an export stores the tensors in memory: for a model made
    in memory, or if another dtype was requested.
    """

    source: str
    model: Any
    tokenizer: Any
    family: Family
    shape: Shape
    files: Mapping[str, Stored] = field(default_factory=dict)
    # The fingerprint of the files. It counts only while the model is the one that was loaded from them.
    read_from: ReadFrom | None = None
    # Sentences that the user should know about the files.
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the weights.

        It is that of their files, or, if the model is not the one that was loaded from them, that of the
        weights in memory.
        """
        if self.read_from is not None and self.read_from.model() is self.model:
            return self.read_from.fingerprint
        state = self.model.state_dict()
        parts = [hash_tensors({name: tensor for name, tensor in state.items() if not tensor.is_meta})]
        for layer in self.layers if is_offloaded(self.model) else ():
            with open_layer(layer):
                parts.append(hash_tensors(layer.state_dict()))
        content = hash_words([*parts, json.dumps(self.model.config.to_dict(), sort_keys=True, default=str)])
        return Fingerprint(content, content)

    @property
    def device(self) -> torch.device:
        """The device of the embedding."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embedding."""
        return self.model.get_input_embeddings().weight.dtype

    @cached_property
    def beginning(self) -> Beginning:
        """The tokens at the beginning of every text that the model reads."""
        return find_beginning(self.tokenizer)

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers in order."""
        return list(self.model.get_submodule(self.family.layers))


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned model, the plan that it follows, a report on each layer, and the time and peak memory."""

    subject: Subject
    plan: Plan
    layers: tuple[LayerReport, ...]
    seconds: float
    peak_memory_mib: float


def make_subject(source: str, model: Any, tokenizer: Any) -> Subject:
    """Return a subject for a model that is already in memory; raise `Refusal` if it cannot be pruned."""
    family = family_of(model.config, source)
    model.eval().requires_grad_(False)
    return Subject(source, model, tokenizer, family, shape_of(model, family))


def load_model(
    source: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    spread: bool = False,
    say: Callable[[str], object] = str,
) -> Subject:
    """Load a model from the starter's name, a local folder, a .gguf file, an own export or a hub id.

    A model that is only evaluated may be `spread` over several devices if it is too large for one. Raise
    `Refusal`, before any weight is read, if the source is missing or its architecture is not supported.
    """
    source = str(source).strip()
    if not source:
        raise Refusal("No model was named; use smollm2, a folder, a .gguf file or a hub id.")
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    folder = locate_source(source, say)
    if folder is not None:
        check_folder(folder, source)
    config = read_config(folder, source, offline)
    family_of(config, source)
    with refuse_load_failures(source, offline or folder is not None):
        if folder is None:
            say(f"Fetching '{source}' from the model hub, unless it is here already …")
            folder = fetched_whole(source, offline, say)
            check_folder(folder, source)
        stored = stored_tensors(weight_files(folder, source), config, source)
        tensors, notes = stored_in(folder, source), Notes(say)
        settle_head(config, tensors, source, notes.add)
        check_promise(empty_model(config, source), stored, source)
        fingerprint = hash_source(folder, source)
        tokenizer = read_tokenizer(folder, source)
        check_tokenizer(tokenizer, config.vocab_size, source)
        model = read_model(folder, config, source, (place, kind, spread), notes)
        made = check_subject(with_files(make_subject(source, model, tokenizer), folder, dtype))
        if hash_source(folder, source) != fingerprint:
            raise Refusal(f"The files of '{source}' were changed while they were read; load it again.")
        read_from = ReadFrom(weakref.ref(made.model), fingerprint)
        return replace(made, read_from=read_from, notes=tuple(notes.found))


def with_files(made: Subject, folder: Path, dtype: str) -> Subject:
    """Return the subject with the places of its tensors, unless a dtype was requested.

    With them, an export stores every tensor as in its file.
    """
    if dtype != "auto":
        return made
    found, prefix = kept_in(folder, made.source), f"{made.model.base_model_prefix}."
    names = made.model.state_dict().keys()
    for name, module in made.model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.origin = Origin(name)
    whole = {f"{prefix}{name}": tensor for name, tensor in found.items() if f"{prefix}{name}" in names}
    return replace(made, files={**whole, **found})


def check_subject(made: Subject) -> Subject:
    """Return the subject; raise an exception if its per-layer widths do not fit together.

    If the tokenizer has tokens without a row in the embedding, a hook refuses them when they are read.
    """
    known = made.tokenizer.get_vocab().items()
    if words := {index: word for word, index in known if index >= made.shape.vocab}:
        made.model.get_input_embeddings().register_forward_pre_hook(partial(check_rows, words))
    if getattr(made.model.config, "slim", None):
        with torch.inference_mode():
            made.model(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=made.device), use_cache=False)
    return made


def read_tokenizer(folder: Path, source: str) -> Any:
    """Return the tokenizer of a folder.

    Raise `Refusal` if it could take unlimited time or memory, or if transformers cannot read it.
    """
    inspect_tokenizer(folder, source)
    how = {"local_files_only": True, "trust_remote_code": False}
    try:
        return guard_tokenizer(transformers.AutoTokenizer.from_pretrained(folder, **how), source)
    except Refusal:
        raise
    except Exception as failure:
        # The libraries of the many kinds of tokenizers raise exceptions of any type.
        reason = str(failure).strip().partition("\n")[0][:200] or type(failure).__name__
        why = "" if reason.endswith(":") else f" ({reason.rstrip('.')})"
        raise Refusal(
            f"The tokenizer of '{source}' cannot be read{why}; give the folder a tokenizer.json, as "
            "save_pretrained writes it."
        ) from failure


def check_tokenizer(tokenizer: Any, rows: int, source: str) -> None:
    """Raise `Refusal` if a tokenizer does not work or has tokens without a row in the model's embedding.

    Special tokens that no text needs may lack a row: padding, images, and ends that the tokenizer's class
    adds.
    """
    sample = tokenizer("A word.").input_ids
    # Decoding raises if the tokenizer's settings are damaged.
    tokenizer.decode(sample)
    if tokenizer.vocab_size > rows:
        raise Refusal(
            f"The tokenizer of '{source}' has {tokenizer.vocab_size:,} words and the model knows {rows:,}; "
            "give it its own tokenizer."
        )
    parts = {token for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}
    beyond = sorted(word for word, index in tokenizer.get_vocab().items() if index >= rows)
    if not parts.issuperset(beyond) or max(sample, default=0) >= rows:
        raise Refusal(
            f"The tokenizer of '{source}' has {len(beyond)} added tokens, such as {beyond[0]}, and the model "
            f"has no row for them among its {rows:,}; add rows (resize_token_embeddings), or take them out."
        )


def check_rows(words: Mapping[int, str], embedding: Any, given: tuple[torch.Tensor, ...]) -> None:
    """Raise `Refusal` for token ids (b, T) that an embedding has no row for; `words` are their texts."""
    token = int(given[0].max())
    if token >= embedding.num_embeddings:
        raise Refusal(
            f"The text holds '{words.get(token, token)}', a token that this model has no row for; take it "
            "out."
        )


def read_config(place: Path | None, source: str, offline: bool) -> Any:
    """Return the config of a folder, a GGUF or a hub id; raise `Refusal` if the model cannot be pruned."""
    with refuse_load_failures(source, offline or place is not None):
        place = place or fetch_model(source, offline, "config.json")
        how: dict[str, Any] = {"pretrained_model_name_or_path": str(place), "local_files_only": True}
        if place.suffix == ".gguf":
            how = gguf_arguments(place)
        config = config_of(how, source)
    config.__dict__.pop("quantization_config", None)
    return config


@contextlib.contextmanager
def refuse_load_failures(source: str, local: bool) -> Iterator[None]:
    """Turn the many failures of loading into a `Refusal`."""
    try:
        yield
    except Refusal:
        raise
    except BaseException as failure:
        # The checks of configs and classes raise exceptions of any type.
        if not is_failure(failure):
            raise
        if isinstance(failure, GatedRepoError):
            raise Refusal(
                f"'{source}' is open only to those whom its owner lets in; ask for access on its page at the "
                "hub, then run 'hf auth login', or set HF_TOKEN."
            ) from failure
        if words := known_sentence(failure):
            raise Refusal(f"'{source}' was not loaded: {words[0].lower()}{words[1:]}") from failure
        where = "locally" if local else "locally or on the model hub"
        reason = str(failure)[:300] or type(failure).__name__
        if isinstance(failure, OSError | HFValidationError) and not Path(source).expanduser().exists():
            raise Refusal(
                f"Model '{source}' was not found {where}; check the name and the network, or give a "
                "local folder."
            ) from failure
        raise Refusal(
            f"'{source}' cannot be loaded as a causal language model ({reason}); give a complete model "
            "folder."
        ) from failure
