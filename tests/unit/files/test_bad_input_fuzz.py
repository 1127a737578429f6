"""Readers of files and events of the page against damage that nobody thought of: a refusal or success, never
another exception. Bounded, and the same at every run."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimllm import pipeline
from slimllm.analysis import analysis_store
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.types import Pin, Plan
from slimllm.evaluation import evaluate
from slimllm.export import model_inspection
from slimllm.methods.recovery import RECOVERIES
from slimllm.models import loading
from slimllm.planning import forecast, plan_json
from slimllm.planning.allocation import ALLOCATIONS
from slimllm.planning.plan_making import adjust_plan, check_plan, make_plan
from slimllm.planning.rules import PlanRules
from tests.support.forged_events import Forger
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.tiny_models import PAGE, tiny_model, tiny_tokenizer
from tests.unit.planning.test_plan_json import PLAN
from ui.facts.resources.estimates import Rates
from ui.session.loaded import Loaded
from ui.session.registry import REGISTRY

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # of other libraries, about the damage
]


def bounded(count: int) -> Callable[[Any], Any]:
    """So many examples, always the same ones."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# Damage -----------------------------------------------------------------------------------------------------

ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**31,
    10**30,
    10**400,
    1e308,
    0.5,
    "",
    "x",
    "\ud800",
    "../x",
    [],
    {},
    [[]],
]
ODD += [
    "fasp",
    "ddp",
    "best",
    "none",
    "guided",
    "gates",
    "value-column",
    "query-head",
    "hand",
    "encyclopedia",
]


@st.composite
def damaged_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with a few of them changed, missing, doubled or made large."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(("byte", "cut", "put", "number", "end")))
        if kind == "byte" and content:
            content[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[place : place + draw(st.sampled_from((1, 4, 64)))]
        elif kind == "put":
            content[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "number":
            content[place : place + 8] = draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
        else:
            del content[max(1, place) :]
    return bytes(content)


def places_in(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything in JSON data, of lists the first two entries."""
    for key in data if isinstance(data, dict) else range(min(2, len(data))) if isinstance(data, list) else ():
        yield (*path, key)
        yield from places_in(data[key], (*path, key))


@st.composite
def damaged_json(draw: st.DrawFn, whole: Any) -> Any:
    """JSON data in which something is missing or something odd stands."""
    data = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places_in(data)) or [()]))
        if not path:
            continue
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        if draw(st.integers(0, 4)):
            inner[path[-1]] = draw(st.sampled_from(ODD))
        else:
            del inner[path[-1]]
    return data


# Plans ------------------------------------------------------------------------------------------------------

WHOLE = plan_json.plan_to_dict(PLAN)
FITTING = synthetic_analysis(layers=3, heads=6, groups=3, head_size=8, channels=96)


def use(plan: Plan) -> None:
    """What is done with a plan that was read."""
    json.dumps(plan_json.plan_to_dict(plan), allow_nan=False).encode()
    with contextlib.suppress(Refusal):
        check_plan(plan, FITTING.shape)
        forecast.forecast_plan(FITTING, plan)


@given(damaged_json(WHOLE))
@bounded(400)
def test_bad_input_fuzz_of_a_plans_fields(data: Any) -> None:
    with contextlib.suppress(Refusal):
        use(plan_json.plan_from_text(json.dumps(data)))


@given(
    damaged_json(plan_json.plan_to_dict(make_plan(FITTING, PlanRules(0.3, protected=(Pin(0, "mlp", 3, 4),)))))
)
@bounded(300)
def test_bad_input_fuzz_of_a_plan_that_fits(data: Any) -> None:
    with contextlib.suppress(Refusal):
        use(plan_json.plan_from_text(json.dumps(data)))


@given(damaged_bytes(plan_json.plan_text(PLAN).encode()) | st.binary(max_size=200))
@bounded(300)
def test_bad_input_fuzz_of_a_plans_bytes(folder: Path, content: bytes) -> None:
    file = folder / "plan.json"
    file.write_bytes(content)
    with contextlib.suppress(Refusal):
        use(plan_json.read_plan(file))


@st.composite
def pins(draw: st.DrawFn) -> tuple[Pin, ...]:
    """A few pins, some of which the model does not have."""
    one = st.builds(
        Pin,
        st.integers(-1, 3),
        st.sampled_from(("attention", "mlp")),
        st.integers(-1, 100),
        st.integers(0, 9),
    )
    return tuple(draw(st.lists(one, max_size=3)))


@given(
    st.floats(allow_nan=True),
    st.floats(0, 0.95),
    st.booleans(),
    st.sampled_from((*ALLOCATIONS, "hand", "x")),
    st.sampled_from((*RECOVERIES, "x")),
    st.sampled_from(("auto", "kv-group", "query-head", "value-column", "x")),
    st.sampled_from((0, 1, 8, 32, 5000)),
    st.sampled_from(("decoder", "all", "x")),
    st.booleans(),
    pins(),
    pins(),
)
@bounded(400)
def test_bad_input_any_wish_is_a_plan_that_survives_or_a_refusal(
    wild: float,
    likely: float,
    tame: bool,
    allocation: str,
    recovery: str,
    unit: str,
    align: int,
    count: Any,
    same: bool,
    protected: tuple[Pin, ...],
    forced: tuple[Pin, ...],
) -> None:
    ratio = likely if tame else wild
    try:
        plan = make_plan(
            FITTING,
            PlanRules(
                ratio,
                allocation=allocation,
                recovery=recovery,
                unit=unit,
                align=align,
                count=count,
                same_width=same,
                protected=protected,
                forced=forced,
            ),
        )
    except Refusal:
        return
    assert plan_json.plan_from_text(plan_json.plan_text(plan)) == plan
    check_plan(plan, FITTING.shape)
    for i, (heads, channels) in enumerate(zip(plan.heads, plan.channels, strict=True)):
        assert bool(heads) == bool(channels), "a layer is kept or dropped as a whole"
        gone = {
            pin.index + k for pin in forced if (pin.layer, pin.site) == (i, "mlp") for k in range(pin.count)
        }
        held = {
            pin.index + k
            for pin in protected
            if (pin.layer, pin.site) == (i, "mlp")
            for k in range(pin.count)
        }
        assert len(held) <= channels or not channels
        assert channels <= 96 - len(gone - held) or not gone


@given(
    st.floats(0.05, 0.6),
    st.dictionaries(st.integers(0, 2), st.tuples(st.integers(-9, 99), st.integers(-9, 999)), min_size=1),
    st.booleans(),
    st.sets(st.integers(0, 2)),
)
@bounded(200)
def test_bad_input_any_move_by_hand_is_a_plan_that_survives_or_a_refusal(
    ratio: float, changes: dict[int, tuple[int, int]], hold: bool, locked: set[int]
) -> None:
    plan = make_plan(FITTING, PlanRules(ratio))
    try:
        moved = adjust_plan(FITTING, plan, changes, hold=hold, locked=sorted(locked))
    except Refusal:
        return
    assert plan_json.plan_from_text(plan_json.plan_text(moved)) == moved
    check_plan(moved, FITTING.shape)
    for i in locked - changes.keys():
        assert (moved.heads[i], moved.channels[i]) == (plan.heads[i], plan.channels[i])


# Texts ------------------------------------------------------------------------------------------------------


def parquet() -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"text": [PAGE, "b"], "n": [1, 2]}), sink)
    return sink.getvalue().to_pybytes()


ROWS = b'{"text": "one"}\n{"text": "two \\u00e9", "n": [1, {"a": null}]}\n'


@pytest.mark.parametrize(
    ("name", "whole"), [("x.txt", PAGE.encode()), ("x.jsonl", ROWS), ("x.parquet", parquet())]
)
@given(data=st.data())
@bounded(150)
def test_bad_input_fuzz_of_texts(folder: Path, name: str, whole: bytes, data: st.DataObject) -> None:
    file = folder / name
    file.write_bytes(data.draw(damaged_bytes(whole) | st.binary(max_size=200)))
    with contextlib.suppress(Refusal):
        ids = texts.tokenize_documents(texts.find_text(str(file)).part("evaluation"), tiny_tokenizer())
        assert ids.dtype == torch.int64


# Models and analyses ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_model(folder: Path) -> dict[str, bytes]:
    """The files of a tiny model, which lies in the folder `model`."""
    tiny_model("llama", num_hidden_layers=2).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir()}


def opened(source: Path) -> None:
    """Opens a model as the page does, and lets it read and write."""
    with contextlib.suppress(Refusal):
        subject = loading.load_model(str(source), device="cpu", dtype="float32", offline=True)
        ids = texts.tokenize_documents([PAGE], subject.tokenizer, limit=32)
        pipeline.finish_job(evaluate.measure_perplexity(subject, ids, 16))
    model_inspection.inspect_model(str(source), offline=True)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"]
)
@given(data=st.data())
@bounded(12)
def test_bad_input_fuzz_of_a_models_words(
    folder: Path, whole_model: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    file = folder / "model" / name
    file.write_text(json.dumps(data.draw(damaged_json(json.loads(whole_model[name])))))
    try:
        opened(file.parent)
    finally:
        file.write_bytes(whole_model[name])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@given(data=st.data())
@bounded(12)
def test_bad_input_fuzz_of_a_models_bytes(
    folder: Path, whole_model: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    file, whole = folder / "model" / name, whole_model[name]
    head = 8 + int.from_bytes(whole[:8], "little") if name.endswith(".safetensors") else len(whole)
    file.write_bytes(data.draw(damaged_bytes(whole[:head])) + whole[head:])
    try:
        opened(file.parent)
    finally:
        file.write_bytes(whole)


def tiny_gguf(path: Path) -> bytes:
    """A Llama of one layer as GGUF."""
    made = gguf.GGUFWriter(str(path), "llama")
    made.add_block_count(1)
    made.add_context_length(64)
    made.add_embedding_length(16)
    made.add_feed_forward_length(32)
    made.add_head_count(2)
    made.add_head_count_kv(1)
    made.add_layer_norm_rms_eps(1e-6)
    made.add_vocab_size(260)
    made.add_tokenizer_model("llama")
    made.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "a"])
    made.add_token_scores([0.0] * 260)
    made.add_token_types([2, 3, 3, *[6] * 256, 1])
    for name, *shape in (
        ("token_embd", 260, 16),
        ("output_norm", 16),
        ("output", 260, 16),
        ("blk.0.attn_norm", 16),
        ("blk.0.ffn_norm", 16),
        ("blk.0.attn_q", 16, 16),
        ("blk.0.attn_k", 8, 16),
        ("blk.0.attn_v", 8, 16),
        ("blk.0.attn_output", 16, 16),
        ("blk.0.ffn_gate", 32, 16),
        ("blk.0.ffn_up", 32, 16),
        ("blk.0.ffn_down", 16, 32),
    ):
        made.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return path.read_bytes()


@given(data=st.data())
@bounded(15)
def test_bad_input_fuzz_of_a_gguf(folder: Path, data: st.DataObject) -> None:
    whole = tiny_gguf(folder / "whole.gguf") if not (folder / "whole.gguf").exists() else None
    whole = whole or (folder / "whole.gguf").read_bytes()
    file = folder / "x.gguf"
    file.write_bytes(data.draw(damaged_bytes(whole[:1200])) + whole[1200:])
    opened(file)


@given(data=st.data())
@bounded(200)
def test_bad_input_fuzz_of_an_analysis(folder: Path, data: st.DataObject) -> None:
    place, kept = folder / "analysis", folder / "kept"
    if not kept.exists():
        analysis_store.save_analysis(FITTING, place)
        (body,) = place.glob("analysis-*.safetensors")
        kept.mkdir()
        (kept / "whole.json").write_bytes((place / "analysis.json").read_bytes())
        (kept / body.name).write_bytes(body.read_bytes())
    (whole,) = kept.glob("*.safetensors")
    head, body = place / "analysis.json", place / whole.name
    words = json.loads((kept / "whole.json").read_text())
    tensors = whole.read_bytes()
    if data.draw(st.booleans()):
        head.write_text(json.dumps(data.draw(damaged_json(words))))
        body.write_bytes(tensors)
    else:
        head.write_text(json.dumps(words))
        body.write_bytes(data.draw(damaged_bytes(tensors[:4000])) + tensors[4000:])
    with contextlib.suppress(Refusal):
        found = analysis_store.open_analysis(place)
        use(make_plan(found, PlanRules(0.3, align=1)))


# The page ---------------------------------------------------------------------------------------------------

JUNK: list[Any] = [
    None,
    "\ud800<b>x",
    10**30,
    {"x": [None, "a"], "y": 1e308, "cell": [], "run": {}, "row": True},
]


@pytest.mark.slow
def test_bad_input_every_event_of_the_page_takes_junk(address: str, caplog: pytest.LogCaptureFixture) -> None:
    forger = Forger(address)
    session = forger.session
    loaded = Loaded(
        loading.make_subject("tiny", tiny_model("llama"), tiny_tokenizer()), Rates(1000.0), "cpu", "float32"
    )
    session.set_loaded(loaded)
    session.set_analysis(FITTING, make_plan(FITTING, PlanRules(0.2)))
    session.preview.auto = False
    caplog.set_level(logging.ERROR)
    for event in forger.events:
        kinds = {name for _, name in forger.triggers(event)}
        if kinds & {"load", "tick", "change", "select"}:
            continue
        for junk in JUNK:
            values, data = [junk] * forger.inputs(event), junk if not forger.inputs(event) else None
            said = forger.say(event, values, data)
            assert "went wrong" not in said, (forger.triggers(event), junk, said)
            if session.job is not None and session.job.active:
                REGISTRY.worker.cancel(session.job)
    wrong = [each for each in caplog.records if each.name.startswith("ui.")]
    assert not wrong, wrong[0].getMessage()
    assert len(session.plan.heads) == 3
