"""Write a pruned model so that plain transformers loads it, and prove that before it counts as done.

Four tiers: native (the same class, other widths), twin (a stock class that computes the same), shim (any
widths, with a short code file), padded (zeros up to the widest layer, then native or twin).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import json
import math
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slimllm import modeling_slim
from slimllm.models import Pruned, Subject, part, slim_class
from slimllm.recipes import plan_text
from slimllm.types import Progress, Refusal

BIAS_FLAGS = ("attention_bias", "mlp_bias")
LIKE_LLAMA = ("llama", "mistral", "qwen2")  # one architecture but for biases, where no window slides
LARGE = 2_000_000_000  # parameters beyond which no float32 copy is made for the comparison
PROMPT, NEW = 24, 16  # tokens that the comparison reads, and generates
SAMPLE = "What remains must still say what the whole one said: 3 * 14 = 42."

State = Mapping[str, Tensor]
Widths = tuple[int, int, int]
Build = tuple[str, Any, dict[str, Any]]  # class name, config class, config settings


@dataclass(frozen=True)
class Export:
    """What was written: `parameters` and `bytes` of the weights file, and in plain `words` why this tier."""

    tier: str
    folder: str
    bytes: int
    parameters: int
    verified: bool
    max_logit_difference: float
    words: str


@dataclass(frozen=True, eq=False)
class Form:
    """One way to store a pruned model: an empty model of the class that will read it, and its weights."""

    tier: str
    model: Any
    state: State
    words: str


class Misfit(Exception):
    """Why a model cannot take a form, and the remedy, to be completed to a sentence."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


def export(
    pruned: Pruned,
    folder: str | Path,
    *,
    wanted: str = "auto",
    recipe: str = "",
    card_notes: Sequence[str] = (),
) -> Generator[Progress, None, Export]:
    """The export of a pruned model into `folder`: complete, verified, all or nothing.

    `recipe` is the command line that repeats it, `card_notes` further lines for the model card.
    """
    folder = check_target(folder)
    form = choose(pruned, wanted)
    yield Progress("export", 1, 4, form.words)
    with beside(folder) as scratch:
        size, parameters = write(form, pruned, scratch)
        yield Progress("export", 2, 4, f"{size / 2**20:.1f} MiB written; loading them in a fresh process")
        found = reload_elsewhere([scratch], exact=is_exact(pruned.subject))
        difference = compare(pruned.subject, found[0])
        done = Export(form.tier, str(folder), size, parameters, True, difference, form.words)
        yield Progress("export", 3, 4, f"Verified; largest difference of a logit {difference:.1e}")
        describe(done, pruned, scratch, recipe, card_notes)
        place(scratch, folder)
    yield Progress("export", 4, 4, f"Exported to {folder}", done)
    return done


def save(pruned: Pruned, folder: str | Path, wanted: str = "auto") -> Export:
    """The export, in one blocking call."""
    job = export(pruned, folder, wanted=wanted)
    while True:
        try:
            next(job)
        except StopIteration as end:
            return end.value


def check_target(folder: str | Path) -> Path:
    """The absolute path to export to; a `Refusal` where something else is there or nothing can be written."""
    folder = Path(folder).expanduser().resolve()
    try:
        if folder.exists() and not folder.is_dir():
            raise Refusal(f"'{folder}' is a file; name a folder to export to.")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "slimllm.json").is_file():
            raise Refusal(f"Folder '{folder}' is not empty and no earlier export; name another folder.")
        ground = next(place for place in folder.parents if place.exists())
    except OSError as failure:
        raise Refusal(f"'{folder}' cannot be read ({failure.strerror}); name another folder.") from failure
    if not ground.is_dir() or not os.access(ground, os.W_OK | os.X_OK):
        raise Refusal(f"Nothing can be written in '{ground}'; name another folder.")
    return folder


# Which form -------------------------------------------------------------------------------------------------


def choose(pruned: Pruned, wanted: str = "auto") -> Form:
    """The form asked for; for auto the first of native, twin, shim that holds the model without loss."""
    if wanted != "auto" and wanted not in FORMS:
        raise Refusal(f"Export '{wanted}' is not known; use auto, {', '.join(FORMS)}.")
    for tier in ("native", "twin", "shim") if wanted == "auto" else (wanted,):
        try:
            return FORMS[tier](pruned)
        except Misfit as misfit:
            last = misfit
    raise Refusal(f"The model cannot be stored as {tier}: {last.reason}; {last.remedy}.")


def native(pruned: Pruned) -> Form:
    """The model's own class at other widths."""
    state = pruned.subject.model.state_dict()
    model = first_fit(native_builds(pruned.subject, same_widths(pruned)), state)
    words = f"All layers are equally wide, so it is an ordinary {name_of(model)} that loads anywhere."
    return Form("native", model, state, words)


def twin(pruned: Pruned) -> Form:
    """Another stock class that computes the same."""
    subject, state = pruned.subject, pruned.subject.model.state_dict()
    model = first_fit(twin_builds(subject, same_widths(pruned)), state)
    words = (
        f"Stored as {name_of(model)}, which computes what {base_of(subject)} does and can hold these head "
        "counts and biases; it loads anywhere."
    )
    return Form("twin", model, state, words)


def shim(pruned: Pruned) -> Form:
    """The model's own class with every linear resized, by the code file that travels along."""
    subject, base = pruned.subject, base_of(pruned.subject)
    family = subject.family
    names = [name for site in (family.attention, family.mlp) for name in (*site.writers, site.reader)]
    slim = {
        "base": base,
        "layers": family.layers,
        "attention": family.attention_module,
        "heads": [list(row[:2]) for row in subject.shape.widths],
        "linears": {name: [extent(part(layer, name)) for layer in subject.layers] for name in names},
    }
    code = {"AutoModelForCausalLM": "modeling_slim.SlimForCausalLM"}
    config = type(subject.model.config).from_dict({**plain(subject), "slim": slim, "auto_map": code})
    model = empty(slim_class(slim, subject.source), config)
    try:
        native(pruned)
        why = "As asked for"
    except Misfit as misfit:
        why = f"Because {misfit.reason}"
    words = (
        f"{why}, stored as {base} with the short code file modeling_slim.py: elsewhere it needs "
        "trust_remote_code=True, this program reads it without running that file."
    )
    return Form("shim", model, subject.model.state_dict(), words)


def padded(pruned: Pruned) -> Form:
    """The model filled up with zeros to its widest layer, or further where the stock class demands it."""
    for unpadded in (native, twin):
        with contextlib.suppress(Misfit):
            return unpadded(pruned)
    subject, state = pruned.subject, pruned.subject.model.state_dict()
    ghosts = {name: tensor.to("meta") for name, tensor in state.items()}
    misfits = []
    for target in padded_widths(subject):
        builds = itertools.chain(native_builds(subject, target), twin_builds(subject, target))
        try:
            model = first_fit(builds, pad(subject, ghosts, target))
        except Misfit as misfit:
            misfits.append(misfit)
            continue
        filled = pad(subject, state, target)
        zeros = sum(t.numel() for t in filled.values()) - sum(t.numel() for t in state.values())
        words = (
            f"Narrow layers are filled up with zeros to {target[0]} heads and {target[2]} channels, so that "
            f"it loads anywhere as {name_of(model)}; {zeros:,} parameters are such zeros, which save neither "
            "memory nor time."
        )
        return Form("padded", model, filled, words)
    raise misfits[-1]


FORMS: dict[str, Callable[[Pruned], Form]] = {"native": native, "twin": twin, "shim": shim, "padded": padded}


def same_widths(pruned: Pruned) -> Widths:
    """The widths that all layers share."""
    widths = set(pruned.subject.shape.widths)
    if len(widths) > 1:
        remedy = "use --export shim or padded, or keep every layer the same width"
        raise Misfit("its layers have different widths", remedy)
    return widths.pop()


def native_builds(subject: Subject, widths: Widths) -> Iterator[Build]:
    """The model's own class at these widths."""
    settings = {**plain(subject), **sized(subject, widths)}
    return with_biases(base_of(subject), type(subject.model.config), settings)


def twin_builds(subject: Subject, widths: Widths) -> Iterator[Build]:
    """Mistral, then Granite, for what is a Llama in all but name."""
    settings = plain(subject)
    windowed = settings.get("sliding_window") or "sliding_attention" in (settings.get("layer_types") or ())
    if settings["model_type"] not in LIKE_LLAMA or windowed:
        return
    neutral = dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0)
    scale = {"attention_multiplier": subject.shape.head_size**-0.5}
    for name, kind, extra in (
        ("MistralForCausalLM", transformers.MistralConfig, {"sliding_window": None}),
        ("GraniteForCausalLM", transformers.GraniteConfig, {**neutral, **scale}),
    ):
        if name != base_of(subject):
            known = {key: value for key, value in kind().to_dict().items() if key != "model_type"}
            shared = {key: settings.get(key, value) for key, value in known.items()}
            yield from with_biases(name, kind, {**shared, **sized(subject, widths), **extra})


def with_biases(name: str, kind: Any, settings: dict[str, Any]) -> Iterator[Build]:
    """The build as it is, then with the biases switched on that its config can switch on."""
    flags = [flag for flag in BIAS_FLAGS if settings.get(flag) is False]
    for count in range(len(flags) + 1):
        for chosen in itertools.combinations(flags, count):
            yield name, kind, {**settings, **dict.fromkeys(chosen, True)}


def plain(subject: Subject) -> dict[str, Any]:
    """The settings of the model's config without those of an earlier export."""
    ours = ("slim", "auto_map", "architectures", "transformers_version")
    return {key: value for key, value in subject.model.config.to_dict().items() if key not in ours}


def sized(subject: Subject, widths: Widths) -> dict[str, int]:
    names = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
    return {**dict(zip(names, widths, strict=True)), "head_dim": subject.shape.head_size}


def first_fit(builds: Iterator[Build], state: State) -> Any:
    """The first empty model with places for all tensors; only biases may be over; a `Misfit` if none has."""
    misfit = Misfit("no stock class computes the same", "use --export auto or shim")
    for name, kind, settings in builds:
        try:
            model = empty(getattr(transformers, name), kind.from_dict(settings))
        except Exception as failure:  # whatever a config's or a class's own checks raise
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


def empty(kind: Any, config: Any) -> Any:
    """A model of this class without memory."""
    with torch.device("meta"):
        return kind(config)


def name_of(model: Any) -> str:
    return type(model).__name__


def base_of(subject: Subject) -> str:
    """The stock class behind the model."""
    return (getattr(subject.model.config, "slim", None) or {}).get("base") or name_of(subject.model)


def extent(linear: nn.Linear) -> list[int | bool]:
    return [linear.out_features, linear.in_features, linear.bias is not None]


# Zeros ------------------------------------------------------------------------------------------------------


def padded_widths(subject: Subject) -> Iterator[Widths]:
    """Widths that hold every layer, the smallest first, up to those of the dense config."""
    config, widths = subject.model.config, subject.shape.widths
    groups, each = max(row[1] for row in widths), max(row[0] // row[1] for row in widths)
    most_groups = max(groups, config.num_key_value_heads or config.num_attention_heads)
    most_each = max(each, config.num_attention_heads // most_groups)
    choices = itertools.product(range(groups, most_groups + 1), range(each, most_each + 1))
    for g, p in sorted(choices, key=math.prod):
        yield g * p, g, max(row[2] for row in widths)


def pad(subject: Subject, state: State, target: Widths) -> dict[str, Tensor]:
    """The state with zero heads inside each group, and zero groups and zero channels appended."""
    family, size, filled = subject.family, subject.shape.head_size, dict(state)
    total = {"q": target[0], "k": target[1], "v": target[1], "c": target[2]}
    for index, (heads, groups, channels) in enumerate(subject.shape.widths):
        head, each = torch.arange(heads), heads // groups
        places = {"q": head // each * (target[0] // target[1]) + head % each, "c": torch.arange(channels)}
        places["k"] = places["v"] = torch.arange(groups)
        for site, unit, tall in ((family.attention, "q", size), (family.mlp, "c", 1)):
            for name, letters in {**site.writers, site.reader: unit}.items():
                rows, start = [], 0
                for letter in letters:
                    rows.append(((start + places[letter])[:, None] * tall + torch.arange(tall)).flatten())
                    start += total[letter]
                dim = int(name == site.reader)
                for leaf in ("weight",) if dim else ("weight", "bias"):
                    key = f"{family.layers}.{index}.{name}.{leaf}"
                    if key in state:
                        filled[key] = scatter(state[key], torch.cat(rows), start * tall, dim)
    return filled


def scatter(tensor: Tensor, places: Tensor, total: int, dim: int) -> Tensor:
    """Zeros, `total` along `dim`, with the tensor's rows or columns at `places`."""
    shape = list(tensor.shape)
    shape[dim] = total
    return tensor.new_zeros(shape).index_copy(dim, places.to(tensor.device), tensor)


# Writing ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A new folder next to the target, on the same disk, that is gone afterwards unless it was renamed."""
    scratch = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    try:
        scratch.mkdir(parents=True)
        yield scratch
    except (OSError, SafetensorError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        message = f"The export cannot be written to '{folder}' ({reason}); free space or name another folder."
        raise Refusal(message) from failure
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write(form: Form, pruned: Pruned, folder: Path) -> tuple[int, int]:
    """Bytes and parameters of the weights file just written, beside config, code, tokenizer and plan."""
    subject, config, tensors = pruned.subject, form.model.config, stored(form)
    need, free = sum(t.nbytes for t in tensors.values()) >> 20, shutil.disk_usage(folder).free >> 20
    if need >= free:
        where = f"The export needs {need:,} MiB and '{folder.parent}' has {free:,} MiB left"
        raise Refusal(f"{where}; free space or name another folder.")
    weights = folder / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    config.architectures, config.dtype = [name_of(form.model)], subject.dtype
    config.save_pretrained(folder)
    shutil.copymode(folder / "config.json", weights)  # safetensors lets only the owner read it
    if form.tier == "shim":
        code = Path(modeling_slim.__file__).read_text(encoding="utf-8")
        code += f"\n\nclass SlimForCausalLM(Slim, transformers.{base_of(subject)}): ...\n"
        (folder / "modeling_slim.py").write_text(code, encoding="utf-8")
    # not by its own method, which refuses to save some settings that it was willing to load
    generation = subject.model.generation_config.to_json_string()
    (folder / "generation_config.json").write_text(generation, encoding="utf-8")
    if subject.tokenizer is not None:
        subject.tokenizer.save_pretrained(folder)
    (folder / "plan.json").write_text(plan_text(pruned.plan), encoding="utf-8")
    return weights.stat().st_size, sum(t.numel() for t in tensors.values())


def stored(form: Form) -> dict[str, Tensor]:
    """The tensors of the weights file: tied ones once, biases that only the class has as zeros."""
    tied, tensors = form.model.all_tied_weights_keys, {}
    dtype = next(iter(form.state.values())).dtype
    for name, like in form.model.state_dict().items():
        tensor = form.state.get(name)
        if tensor is None:
            tensor = torch.zeros(like.shape, dtype=dtype)
        elif name in tied and tensor.data_ptr() == form.state[tied[name]].data_ptr():
            continue
        tensors[name] = tensor.detach().cpu().contiguous()
    return tensors


def describe(done: Export, pruned: Pruned, folder: Path, recipe: str, notes: Sequence[str]) -> None:
    """Writes where the weights come from: slimllm.json for programs, README.md for people."""
    layers = [dataclasses.asdict(report) for report in pruned.layers]
    for layer in layers:
        unknown = [
            key for key, value in layer.items() if isinstance(value, float) and not math.isfinite(value)
        ]
        layer.update(dict.fromkeys(unknown))  # JSON has no NaN
    facts = {
        "format": 1,
        "source": pruned.subject.source,
        **{key: value for key, value in dataclasses.asdict(done).items() if key != "folder"},
        "layers": layers,
        "versions": dict(pruned.plan.versions),
    }
    (folder / "slimllm.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(done, pruned, recipe, notes), encoding="utf-8")


def card(done: Export, pruned: Pruned, recipe: str, notes: Sequence[str]) -> str:
    """The model card."""
    plan, trust = pruned.plan, ", trust_remote_code=True" if done.tier == "shim" else ""
    heads, channels = (sum(row[i] for row in plan.widths) for i in (0, 2))
    text, errors = plan.calibration, [report.error_measured for report in pruned.layers]
    extra = "".join(f"- {note}\n" for note in notes)
    command = f"\nMade by `{recipe}`.\n" if recipe else ""
    return f"""# {plan.model}, pruned

Pruned by SlimLLM: method `{plan.method}`, recovery `{plan.recovery}`, allocation `{plan.allocation}`.

- Kept: {sum(plan.heads)} of {heads} attention heads, {sum(plan.channels)} of {channels} MLP channels.
- Removed: {plan.ratio_achieved:.1%} of the parameters ({plan.count}), asked for {plan.ratio_requested:.1%}.
- Stored: {done.parameters:,} parameters as **{done.tier}**. {done.words}
- Calibrated on {text.samples} pieces of {text.length} tokens of `{text.text}`, seed {plan.seed}.
- Mean relative error of the layers: {sum(errors) / len(errors):.4f}. Errors and kept parts of each layer:
  `slimllm.json`; the whole recipe: `plan.json`.
- Checked after writing: loaded in a fresh process by transformers {transformers.__version__}; logits differ
  by at most {done.max_logit_difference:.1e}.
{extra}
```python
subject = slimllm.load("FOLDER")  # here
model = transformers.AutoModelForCausalLM.from_pretrained("FOLDER"{trust})  # elsewhere
```
{command}
The licence of the original model, {plan.model}, applies to these weights too.
"""


def place(scratch: Path, folder: Path) -> None:
    """Moves the complete folder to its place; what was there stays until then."""
    for path in (*scratch.rglob("*"), scratch):
        sync(path)
    old = scratch.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    try:
        scratch.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# Proof ------------------------------------------------------------------------------------------------------

ELSEWHERE = """
import json, os, sys
job = json.load(sys.stdin)
sys.path[:] = job["path"]
sys.modules["slimllm"] = None  # what is stored must stand without it
import safetensors.torch, torch, transformers
torch.set_num_threads(job["threads"])
for folder, out in job["folders"]:
    trust = {"trust_remote_code": True} if os.path.exists(os.path.join(folder, "modeling_slim.py")) else {}
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, output_loading_info=True, **trust
    )
    if any(report.values()):
        raise SystemExit(f"Weights and class do not match: {report}")
    model = model.float() if job["exact"] else model
    found = {}
    if os.path.exists(os.path.join(folder, "tokenizer_config.json")):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        found["words"] = torch.tensor(tokenizer(job["sample"]).input_ids)
    model.generation_config = transformers.GenerationConfig()
    prompt = (torch.arange(job["prompt"]) * 7919 % model.config.vocab_size)[None]
    mask = torch.ones_like(prompt)
    with torch.inference_mode():
        ids = model.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=job["new"])
        found.update(ids=ids[0], logits=model(ids, use_cache=False).logits[0].float())
    safetensors.torch.save_file(found, out)
"""


@dataclass(frozen=True, eq=False)
class Reload:
    """What a fresh process made of a checkpoint: prompt and greedy continuation (n,), generated with the
    cache; logits (n, v) over them all, computed without; the ids of a sample sentence."""

    ids: Tensor
    logits: Tensor
    words: Tensor | None = None


def reload_elsewhere(folders: Sequence[Path], *, exact: bool = True) -> list[Reload]:
    """What plain transformers makes of these checkpoints, in one process that cannot import this package."""
    with tempfile.TemporaryDirectory(prefix="slimllm-") as name:
        outs = [str(Path(name) / f"{index}.safetensors") for index in range(len(folders))]
        job = {
            "folders": [(str(folder), out) for folder, out in zip(folders, outs, strict=True)],
            "path": [entry for entry in sys.path if entry],  # this process's packages, wherever they are
            "threads": torch.get_num_threads(),
            "exact": exact,
            "sample": SAMPLE,
            "prompt": PROMPT,
            "new": NEW,
        }
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
        env = {**os.environ, **quiet, "HF_MODULES_CACHE": str(Path(name) / "modules")}
        command = [sys.executable, "-I", "-B", "-c", ELSEWHERE]
        run = subprocess.run(
            command, input=json.dumps(job), text=True, capture_output=True, cwd=name, env=env
        )
        if run.returncode:
            lines = run.stderr.strip().splitlines() or [f"the process ended with status {run.returncode}"]
            reason = f"The checkpoint does not load in a fresh process ({lines[-1][:300]})"
            raise Refusal(f"{reason}, so nothing was written; free memory, or use --export shim.")
        return [Reload(**load_file(out)) for out in outs]


def is_exact(subject: Subject) -> bool:
    """Whether the comparison is made in float32; large models are compared in the dtype they have."""
    return subject.shape.parameters <= LARGE


def compare(subject: Subject, reload: Reload) -> float:
    """The largest logit difference between the model in memory and its reload; a `Refusal` where they differ.

    The continuation has to be greedy for the model in memory too, up to ties within the tolerance.
    """
    exact = is_exact(subject)
    with torch.inference_mode():
        logits = on_cpu(subject.model, exact)(reload.ids[None], use_cache=False).logits[0].float()
    difference, top = float((logits - reload.logits).abs().max()), float(logits.abs().max())
    tolerance = max(1e-4, 1e-5 * top) if exact else 0.02 * top
    steps, chosen = logits[PROMPT - 1 : -1], reload.ids[PROMPT:, None]
    lag = float((steps.max(1).values - steps.gather(1, chosen)[:, 0]).max())
    if not (difference <= tolerance and lag <= 2 * tolerance and len(chosen) == NEW):
        found = f"gives other results (logits off by {difference:.2g}, greedy tokens by {lag:.2g})"
        raise Refusal(
            f"The checkpoint, loaded in a fresh process, {found}, so nothing was written; use --export shim."
        )
    if reload.words is not None and reload.words.tolist() != subject.tokenizer(SAMPLE).input_ids:
        raise Refusal(
            "The stored tokenizer splits words differently, so nothing was written; use --export shim."
        )
    return difference


def on_cpu(model: Any, exact: bool) -> Any:
    """The model on the CPU, in float32 if `exact`; itself where it is so already."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to("cpu", torch.float32 if exact and tensor.is_floating_point() else tensor.dtype)

    if all(moved(tensor) is tensor for tensor in (*model.parameters(), *model.buffers())):
        return model
    parameters = {id(t): nn.Parameter(moved(t), requires_grad=False) for t in model.parameters()}
    return copy.deepcopy(model, memo={**parameters, **{id(t): moved(t) for t in model.buffers()}})
