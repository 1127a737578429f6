"""Reloading checkpoints with plain transformers, to verify them.

`verification` starts this program in a fresh process that cannot import this package. The job arrives as JSON
on stdin, and the results are written to safetensors files.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# How many tokens each row of the batch is shorter than the text.
SHORTER = (0, 7, 13)


def fill_from_gguf(model: Any, file: Path) -> None:
    """Load the weights of a GGUF file into a model with per-layer widths.

    Raise `ValueError` if a weight is missing.
    """
    import gguf
    import torch

    heads = model.config.slim["heads"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DECI, len(heads))
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    state = {}
    for key, like in model.state_dict().items():
        stem, _, leaf = key.rpartition(".")
        tensor = found.get(f"{names.get_name(stem)}.{leaf}")
        if tensor is None:
            continue
        values = torch.from_numpy(tensor.data.copy())
        if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
            values = values.view(torch.bfloat16)
        values = values.reshape(like.shape).to(like.dtype)
        place = {"q_proj": 0, "k_proj": 1}.get(stem.rpartition(".")[2])
        # A GGUF stores the two halves of every q and k head interleaved.
        if place is not None:
            count = heads[int(stem.split(".")[2])][place]
            # (heads · e, …) → (heads, e/2, 2, …) → (heads, 2, e/2, …) → (heads · e, …)
            values = values.view(count, -1, 2, *like.shape[1:]).transpose(1, 2).reshape(like.shape)
        state[key] = values
    tied = model._tied_weights_keys if model.config.tie_word_embeddings else ()
    lacking = set(model.load_state_dict(state, strict=False).missing_keys) - set(tied or ())
    model.tie_weights()
    if lacking:
        raise ValueError(f"no weight for {sorted(lacking)[0]}")


def load_folder(folder: str, job: dict[str, Any], offload: str) -> tuple[Any, Any]:
    """Return (model, tokenizer or None) of a folder; raise `SystemExit` if weights and class do not match."""
    import torch
    import transformers

    own: dict[str, Any] = {"local_files_only": True}
    reader, how = transformers.AutoTokenizer, {**own, "dtype": getattr(torch, job["dtype"])}
    words, packed, code = (
        (Path(folder) / name).exists() for name in ("tokenizer_config.json", "model.gguf", "modeling_slim.py")
    )
    # The code file is ours: `checkpoint` has just written it.
    trust = {"trust_remote_code": True} if code else {}
    if packed:
        config = transformers.AutoConfig.from_pretrained(folder, **own)
        how["config"] = config
        if code:
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=how["dtype"], **trust)
            fill_from_gguf(model.eval(), Path(folder) / "model.gguf")
            return model, reader.from_pretrained(folder, **own) if words else None
        how["gguf_file"] = own["gguf_file"] = "model.gguf"
        reader = transformers.PreTrainedTokenizerFast
    how.update(trust)
    if caps_logits(transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **trust)):
        how["attn_implementation"] = "eager"
    if job["places"]:
        how.update(device_map=job["places"], offload_folder=offload)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **how)
    if any(report.values()):
        raise SystemExit(f"Weights and class do not match: {report}")
    return model, reader.from_pretrained(folder, **own) if words else None


def caps_logits(config: Any) -> bool:
    """Return whether attention caps its logits, which only eager attention does in all versions."""
    return bool(getattr(config, "attn_logit_softcapping", None))


def logit_differences(model: Any, ids: Any, logits: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, largest difference of a logit) for every other way to read the same text (1, n).

    The known `logits` have shape (n, v). The other ways are each kind of attention, in a batch of three rows
    padded on the left, with and without a cache.
    """
    import torch

    rows, count = len(SHORTER), ids.shape[1]
    batch, mask = torch.zeros(rows, count, dtype=torch.long), torch.zeros(rows, count, dtype=torch.long)
    for row, short in enumerate(SHORTER):
        batch[row, short:], mask[row, short:] = ids[0, : count - short], 1
    places = (mask.cumsum(1) - 1).clamp_min(0)  # (rows, n)
    half = count // 2
    for kind in ("eager", "sdpa") if model._supports_sdpa and not caps_logits(model.config) else ("eager",):
        model.set_attn_implementation(kind)
        plain = model(batch, attention_mask=mask, position_ids=places, use_cache=False).logits
        first = model(
            batch[:, :half], attention_mask=mask[:, :half], position_ids=places[:, :half], use_cache=True
        )
        rest = model(
            batch[:, half:],
            attention_mask=mask,
            position_ids=places[:, half:],
            past_key_values=first.past_key_values,
            use_cache=True,
        )
        cached = torch.cat((first.logits, rest.logits), 1)  # (rows, n, v)
        for name, found in (("no cache", plain), ("a cache", cached)):
            off = [
                (found[row, short:].float() - logits[: count - short]).abs().max()
                for row, short in enumerate(SHORTER)
            ]
            yield f"{kind} attention, a padded batch and {name}", torch.stack(off).max()


def round_buffers(model: Any, dtypes: dict[str, str]) -> None:
    """Round the named buffers to these dtypes, in which the model in memory computed them."""
    import torch

    for name, buffer in model.named_buffers():
        if name in dtypes:
            buffer.copy_(buffer.to(getattr(torch, dtypes[name])))


def answer_job(folder: str, out: str, job: dict[str, Any]) -> None:
    """Load a folder, continue a prompt with it, and write the tokens and logits to the file `out`."""
    import safetensors.torch
    import torch
    import transformers

    model, tokenizer = load_folder(folder, job, out + ".offload")
    found: dict[str, Any] = {}
    if tokenizer is not None:
        found["words"] = torch.tensor(tokenizer(job["sample"]).input_ids)
    model.generation_config = transformers.GenerationConfig()
    round_buffers(model, job["buffers"])
    prompt = (torch.arange(job["prompt"]) * 7919 % model.config.vocab_size)[None]  # (1, prompt)
    prompt[0, : len(job["begins_with"])] = torch.tensor(job["begins_with"], dtype=torch.long)
    mask = torch.ones_like(prompt)
    with torch.inference_mode():
        ids = model.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=job["new"])
        found.update(ids=ids[0], logits=model(ids, use_cache=False).logits[0].float())
        if not job["places"]:
            found.update(logit_differences(model, ids, found["logits"]))
    safetensors.torch.save_file(found, out)


def main() -> None:
    """Answer the job on stdin."""
    job = json.load(sys.stdin)
    sys.path[:] = job["path"] or sys.path
    # A stored checkpoint must work without this package.
    sys.modules["slimllm"] = None  # type: ignore[assignment]
    import torch

    torch.set_num_threads(job["threads"])
    for folder, out in job["folders"]:
        answer_job(folder, out, job)


if __name__ == "__main__":
    main()
