"""Writing a pruned model so that plain transformers loads it, and verifying that before it counts as done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from slimllm.core.errors import Refusal
from slimllm.core.types import Progress
from slimllm.export import gguf_writer
from slimllm.export.formats import Form, base_of, choose_format, name_of
from slimllm.export.model_card import Export, write_description
from slimllm.export.transformers_versions import complete_config, complete_tokenizer
from slimllm.export.verification import compare_reload, how_of, reload_elsewhere
from slimllm.export.write_targets import check_target
from slimllm.files import atomic_write
from slimllm.files.written_files import is_all_ours
from slimllm.models import modeling_slim
from slimllm.models.layer_offload import is_offloaded, open_layer
from slimllm.models.loading import Pruned, Subject
from slimllm.planning.plan_json import plan_text
from slimllm.pruning.stored_dtypes import as_stored, dtype_of, dtype_words


def export_checkpoint(
    pruned: Pruned,
    folder: str | Path,
    *,
    wanted: str = "auto",
    recipe: str = "",
    card_notes: Sequence[str] = (),
) -> Generator[Progress, None, Export]:
    """Export a pruned model into `folder`, verified, all or nothing; return the `Export`.

    `recipe` is the command line that repeats the pruning, and `card_notes` are further lines for the model
    card. Raise `Refusal` if the folder holds anything but an earlier export, or what the model is read from
    (see `write_targets`), or if the verification fails.
    """
    folder, how = check_target(folder, pruned.subject.source), how_of(pruned.subject)
    kept = as_stored(pruned)
    form = choose_format(kept, wanted)
    yield Progress("export", 1, 4, form.words)
    unwritten = f"The export cannot be written to '{folder}'"
    aside: list[str] = []
    with atomic_write.replace_folder(
        folder, unwritten, "free space or name another folder", spendable=is_all_ours, say=aside.append
    ) as scratch:
        size, parameters = write_checkpoint(form, kept, scratch)
        yield Progress("export", 2, 4, f"{size / 2**20:.1f} MiB written; loading them in a fresh process")
        found = reload_elsewhere([scratch], how)
        difference = compare_reload((kept if how.exact else pruned).subject, found[0])
        done = Export(
            form.tier, str(folder), size, parameters, True, difference, form.words, dtype_words(kept.subject)
        )
        yield Progress("export", 3, 4, f"Verified; largest difference of a logit {difference:.1e}")
        write_description(done, pruned, scratch, recipe, card_notes)
    yield Progress("export", 4, 4, " ".join((f"Exported to {folder}", *aside)), done)
    return done


def write_checkpoint(form: Form, pruned: Pruned, folder: Path) -> tuple[int, int]:
    """Write weights, config, code, tokenizer and plan; return the bytes and parameters of the weights.

    Raise `Refusal` if the disk has too little space.
    """
    subject, config, tensors = pruned.subject, form.model.config, stored_tensors(form)
    need, free = sum(t.nbytes for t in tensors.values()) / 2**20, shutil.disk_usage(folder).free / 2**20
    if need >= free:
        where = f"The export needs {need:,.1f} MiB and '{folder.parent}' has {free:,.1f} MiB left"
        raise Refusal(f"{where}; free space or name another folder.")
    config.architectures, config.dtype = [name_of(form.model)], dtype_of(subject)
    config.save_pretrained(folder)
    complete_config(folder)
    if form.tier == "gguf":
        weights = [folder / gguf_writer.FILE]
        name = f"{Path(pruned.plan.model).name} pruned"
        gguf_writer.write_gguf(form.model, tensors, subject.tokenizer, name, weights[0])
    else:
        weights = save_weights(tensors, subject, folder)
    for file in weights:
        # safetensors makes files that only the owner can read.
        shutil.copymode(folder / "config.json", file)
    if getattr(config, "auto_map", None):
        code = Path(modeling_slim.__file__).read_text(encoding="utf-8")
        code += f"\n\nclass SlimForCausalLM(Slim, transformers.{base_of(subject)}): ...\n"
        (folder / "modeling_slim.py").write_text(code, encoding="utf-8")
    # Its own `save_pretrained` refuses some settings that it loads.
    generation = subject.model.generation_config.to_json_string()
    (folder / "generation_config.json").write_text(generation, encoding="utf-8")
    if subject.tokenizer is not None:
        subject.tokenizer.save_pretrained(folder)
        complete_tokenizer(folder)
    (folder / "plan.json").write_text(plan_text(pruned.plan), encoding="utf-8")
    size = sum(file.stat().st_size for file in weights)
    return size, sum(t.numel() for t in tensors.values() if t.is_floating_point())


def save_weights(tensors: dict[str, Tensor], subject: Subject, folder: Path) -> list[Path]:
    """Write the weight files and return their paths: one file, or one per layer of an offloaded model."""
    if not is_offloaded(subject.model):
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return [folder / "model.safetensors"]
    count, rest = len(subject.layers) + 1, dict(tensors)
    placed: dict[str, str] = {}

    def save_part(number: int, some: dict[str, Tensor]) -> None:
        file = f"model-{number:05d}-of-{count:05d}.safetensors"
        save_file(some, folder / file, metadata={"format": "pt"})
        placed.update(dict.fromkeys(some, file))

    for index, layer in enumerate(subject.layers):
        prefix = f"{subject.family.layers}.{index}."
        own = {name: rest.pop(name) for name in list(rest) if name.startswith(prefix)}
        with open_layer(layer):
            held = {prefix + name: tensor.detach().contiguous() for name, tensor in layer.named_parameters()}
            save_part(index + 1, {**own, **held})
    save_part(count, rest)
    total = sum(tensor.nbytes for tensor in tensors.values())
    where = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(where, indent=1), encoding="utf-8")
    return [folder / file for file in dict.fromkeys(placed.values())]


def stored_tensors(form: Form) -> dict[str, Tensor]:
    """Return the tensors of the weights file; those of offloaded layers are on the meta device.

    Tied tensors are stored once, and biases that only the stored class has are zeros.
    """
    tied, tensors = form.model.all_tied_weights_keys, {}
    dtype = next(iter(form.state.values())).dtype
    for name, like in form.model.state_dict().items():
        tensor = form.state.get(name)
        if tensor is None:
            tensor = torch.zeros(like.shape, dtype=dtype)
        elif name in tied and tensor.data_ptr() == form.state[tied[name]].data_ptr():
            continue
        tensors[name] = tensor.detach() if tensor.is_meta else tensor.detach().cpu().contiguous()
    return tensors
