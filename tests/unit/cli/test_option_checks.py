"""Claims about what is asked for: options that cannot be met are refused before a model is read, those that a
plan decides otherwise are refused, and what a plan says of itself is computed from its widths."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slimllm
from slimllm import pipeline
from slimllm.analysis import analysis_store
from slimllm.calibration import texts
from slimllm.cli import commands, main
from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Calibration, Pin, Plan
from slimllm.export import checkpoint, export_reading
from slimllm.models import loading
from slimllm.planning import forecast, plan_json, plan_making
from slimllm.planning.rules import PlanRules
from tests.page.session.test_presets import planned  # noqa: F401 – a fixture
from tests.support.tiny_models import tiny_subject
from ui.session.session import Session

READING = "--samples 4 --length 32 --dtype float32"


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports skip the fresh process, which other tests pay for."""
    monkeypatch.setattr(checkpoint, "reload_elsewhere", lambda *_, **__: [None])
    monkeypatch.setattr(checkpoint, "compare_reload", lambda *_: 0.0)


def refusal(capsys: pytest.CaptureFixture[str], line: str) -> str:
    """The one sentence with which a command refuses."""
    capsys.readouterr()
    assert main.main(shlex.split(line)) == 2, line
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert len([row for row in err.splitlines() if row.startswith("slimllm: ")]) == 1
    return err.splitlines()[-1]


# Before any work -------------------------------------------------------------------------------------------

MODEL = "--model {model} --text {page}"
PRUNE = f"prune {MODEL} --ratio 0.3 --out {{new}}"
TUNE = f"tune {MODEL} --out {{new}}"
WRONG = {
    **{
        f"{command} {wrong}": (f"{line} {wrong}", words)
        for wrong, words in {
            "--device moon": "'moon' is not known",
            "--dtype int3": "'int3' is not known",
            "--seed 99999999999999999999": "not possible",
        }.items()
        for command, line in {
            "analyse": f"analyse {MODEL} --out {{new}}",
            "plan": "plan --analysis {new} --ratio 0.2 --out {new}",
            "prune": PRUNE,
            "tune": TUNE,
            "evaluate": f"evaluate {MODEL}",
            "generate": "generate --model {model} --prompt hello",
            "compare": f"compare {MODEL}",
            "serve": "serve --model {model}",
        }.items()
    },
    **{
        f"{command} {wrong}": (f"{line} {wrong}", words)
        for wrong, words in {
            "--samples 0": "0 samples of",
            "--samples=-3": "-3 samples of",
            "--length 1": "of 1 tokens say nothing",
        }.items()
        for command, line in {
            "analyse": f"analyse {MODEL} --out {{new}}",
            "prune": PRUNE,
            "tune": TUNE,
        }.items()
    },
    **{
        f"{command} {wrong}": (f"{line} {wrong}", words)
        for wrong, words in {
            "--method prayer": "'prayer' is not known",
            "--option greedy=perhaps": "cannot be read",
            "--option wish=1": "has no option 'wish'",
        }.items()
        for command, line in {"analyse": f"analyse {MODEL} --out {{new}}", "prune": PRUNE}.items()
    },
    **{
        f"{command} {wrong}": (f"{line} {wrong}", words)
        for wrong, words in {
            "--unit foo": "Unit 'foo' is not known",
            "--align 0": "Alignment 0",
            "--align 5000": "Alignment 5000",
            "--align=-8": "Alignment -8",
            "--allocation fair": "'fair' is not known",
            "--recovery prayer": "'prayer' is not known",
            "--count some": "invalid choice",
            "--ratio 1": "Ratio 1",
            "--ratio=-0.1": "Ratio -0.1",
            "--ratio nan": "Ratio nan",
        }.items()
        for command, line in {"plan": "plan --analysis {new} --ratio 0.2 --out {new}", "prune": PRUNE}.items()
    },
    **{
        f"{command} {wrong}": (f"{line} {wrong}", words)
        for wrong, words in {"--window 1": "window of 1", "--limit-tokens 1": "limit of 1 tokens"}.items()
        for command, line in {
            "tune": TUNE,
            "evaluate": f"evaluate {MODEL}",
            "compare": f"compare {MODEL}",
        }.items()
    },
    **{
        f"{command} {wrong}": (f"{line} {wrong}", words)
        for wrong, words in {
            "--max-new-tokens 0": "at least 1 new token",
            "--temperature=-1": "temperature of 0",
            "--temperature nan": "temperature of 0",
            "--prompt ''": "prompt is empty",
        }.items()
        for command, line in {
            "generate": "generate --model {model} --prompt hello",
            "compare": f"compare {MODEL} --prompt hello",
        }.items()
    },
    "a unit of another method": (f"{PRUNE} --unit value-column", "does not go with method slimllm"),
    "a method without that unit": (f"{PRUNE} --method fasp --unit kv-group", "does not go with method fasp"),
    "a recovery that does not combine": (f"{PRUNE} --method ddp --recovery regression", "does not combine"),
    "a text that is not there": (
        "prune --model {model} --text nothing.txt --ratio 0.3 --out {new}",
        "no file",
    ),
    "epochs": (f"{TUNE} --epochs 0", "Epochs 0"),
    "rank": (f"{TUNE} --rank 0", "Rank 0"),
    "rate": (f"{TUNE} --rate nan", "Rate nan"),
    "alpha": (f"{TUNE} --alpha 0", "Alpha 0"),
    "batch": (f"{TUNE} --batch 0", "Batch 0"),
    "measured on": (f"{TUNE} --measure-on nothing.txt", "no file"),
    "an export": (f"{PRUNE} --export onnx", "invalid choice"),
    "neither": (f"prune {MODEL} --out {{new}}", "--plan or --ratio is required"),
    "options of analyse at plan": (
        "plan --analysis {new} --ratio 0.2 --method best --out {new}",
        "--method best",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_option_that_cannot_be_met_is_refused_before_a_model_is_read(
    case: str,
    tiny_folder: Path,
    page: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for owner, name in ((commands.export_reading, "load_export"), (commands.analysis_store, "open_analysis")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("something was read"))
    line, words = WRONG[case]
    said = refusal(capsys, line.format(model=tiny_folder, page=page, new=tmp_path / "new"))
    assert words in said
    assert not (tmp_path / "new").exists()


NEVER = {  # what this model can never give
    "--ratio 0.97": "At most 0.8",
    "--ratio 0.9 --align 96": "At most",
    "--ratio 0.9 --same-width --align 96": "At most",
    "--length 1000 --samples 1 --ratio 0.3": "more than this model's 512",
    "--ratio 0.3 --export gguf": "cannot be stored as gguf",
}


@pytest.mark.parametrize("wrong", NEVER)
def test_what_this_model_cannot_give_is_refused_before_it_is_analysed(
    wrong: str,
    tiny_folder: Path,
    page: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "analyse_model", lambda *_, **__: pytest.fail("it was analysed"))
    line = f"prune --model {tiny_folder} --text {page} {READING} {wrong} --out {tmp_path / 'new'}"
    assert NEVER[wrong] in refusal(capsys, line)


def test_the_second_of_two_models_is_looked_for_before_the_first_is_measured(
    tiny_folder: Path, page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        commands.export_reading, "load_export", lambda *_, **__: pytest.fail("a model was read")
    )
    said = refusal(capsys, f"compare --model {tiny_folder} --model ./nowhere --text {page}")
    assert "no folder './nowhere'" in said


# Beside a plan ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    file = tmp_path_factory.mktemp("texts") / "page.txt"
    file.write_text("A model is a long chain of layers. Every layer reads a stream of numbers. " * 60)
    return slimllm.analyse(tiny_subject(), texts.find_text(str(file)), Calibration(str(file), 4, 32))


@pytest.fixture
def plan(analysis: Analysis, tmp_path: Path) -> tuple[Path, Plan]:
    """A plan.json, and the plan in it."""
    made = plan_making.make_plan(analysis, PlanRules(0.3, align=8))
    plan_json.save_plan(made, tmp_path / "plan.json")
    return tmp_path / "plan.json", made


OTHERWISE = {
    "--ratio 0.5": "0.5",
    "--method best": "best",
    "--allocation error": "error",
    "--recovery none": "none",
    "--unit query-head": "query-head",
    "--align 32": "32",
    "--count all": "all",
    "--text encyclopedia": "encyclopedia",
    "--samples 5": "5",
    "--length 33": "33",
    "--seed 1": "1",
    "--same-width": "every layer equally wide",
    "--option greedy=off": "greedy=False",
}


@pytest.mark.parametrize("option", OTHERWISE)
def test_an_option_that_contradicts_the_plan_is_refused(
    option: str,
    plan: tuple[Path, Plan],
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        commands.export_reading, "load_export", lambda *_, **__: pytest.fail("the model was read")
    )
    said = refusal(capsys, f"prune --model {tiny_folder} --plan {plan[0]} {option} --out {tmp_path / 'new'}")
    assert f"{option.split()[0]} says {OTHERWISE[option]}; leave the option out" in said


def test_options_that_say_the_same_are_fine(
    plan: tuple[Path, Plan], tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, made = plan
    same = (
        "--ratio 0.3 --method slimllm --allocation cosine --recovery regression --unit auto --align 8 "
        f"--count decoder --text {made.calibration.text} --samples 4 --length 32 --seed 0 --export auto "
        "--option greedy=on --json"
    )
    line = f"prune --model {tiny_folder} --dtype float32 --plan {path} {same} --out {tmp_path / 'new'}"
    assert main.main(shlex.split(line)) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ratio"] == made.ratio_achieved
    assert [row["error_predicted"] for row in answer["layers"]] == list(made.predicted_error)


def test_a_plan_of_an_analysis_has_its_seed(
    analysis: Analysis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    analysis_store.save_analysis(analysis, tmp_path / "A")
    line = f"plan --analysis {tmp_path / 'A'} --ratio 0.3 --out {tmp_path / 'p.json'}"
    assert "made with seed 0 and --seed says 5" in refusal(capsys, f"{line} --seed 5")
    assert main.main(shlex.split(f"{line} --seed 0")) == 0


# A plan that was changed by hand ---------------------------------------------------------------------------


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def halve(data: dict[str, Any]) -> None:
    data["channels"][1] //= 2


def boast(data: dict[str, Any]) -> None:
    data["ratio_achieved"], data["predicted_error"] = 0.9, [0.0] * 3


@pytest.mark.parametrize("change", [halve, boast], ids=["a width", "its figures"])
@pytest.mark.parametrize("older", [False, True], ids=["", "without a checksum"])
def test_figures_are_those_of_what_is_removed(
    older: bool,
    change: Callable[[dict[str, Any]], object],
    plan: tuple[Path, Plan],
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, made = plan
    edit(path, change)
    if older:
        edit(path, lambda data: data.pop("checksum"))
    line = f"prune --model {tiny_folder} --dtype float32 --plan {path} --out {tmp_path / 'new'} --json"
    assert main.main(shlex.split(line)) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    shape = tiny_subject().shape
    gone = (answer["parameters_before"] - answer["parameters_after"]) / shape.decoder
    assert answer["ratio"] == pytest.approx(gone, abs=1e-12)
    assert (gone == pytest.approx(made.ratio_achieved)) == (change is boast)
    assert f"{gone:.1%} of the parameters" in (tmp_path / "new/README.md").read_text()
    assert (
        f"{sum(made.channels) - (made.channels[1] // 2 if change is halve else 0):,} of 288 MLP"
        in (tmp_path / "new/README.md").read_text()
    )
    kept = json.loads((tmp_path / "new/plan.json").read_text())
    assert (kept["ratio_achieved"], kept["predicted_error"]) == (answer["ratio"], [])
    assert not plan_json.is_edited(kept)
    assert {row["error_predicted"] for row in answer["layers"]} == {"nan"}
    assert ("changed by hand" in err) != older


SPOILT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "too few heads": (lambda d: d["heads"].pop(), "has not 3 numbers in 'heads'"),
    "too many channels": (lambda d: d["channels"].append(8), "has not 3 numbers in 'channels'"),
    "more than there is": (lambda d: d["channels"].__setitem__(0, 97), "which has only 96"),
    "half a group": (lambda d: d["heads"].__setitem__(1, 3), "must be a multiple of 2"),
    "a layer more": (
        lambda d: [d[key].append(d[key][0]) for key in ("heads", "channels", "widths")],
        "made for another model",
    ),
    "no room for what is protected": (
        lambda d: d.update(protected=[{"layer": 1, "site": "mlp", "index": 0, "count": 90}]),
        "channels in layer 1, and what it protects and forces out there leaves 90 to 96",
    ),
    "more than what is left": (
        lambda d: d.update(forced=[{"layer": 0, "site": "attention", "index": 0, "count": 1}]),
        "keeps 6 heads in layer 0, and what it protects and forces out there leaves 0 to 4",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_numbers_that_do_not_fit_together_are_one_sentence(
    case: str,
    plan: tuple[Path, Plan],
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change, words = SPOILT[case]
    edit(plan[0], change)
    line = f"prune --model {tiny_folder} --dtype float32 --plan {plan[0]} --out {tmp_path / 'new'}"
    assert words in refusal(capsys, line)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("predicted", [(), (0.1,), (0.1,) * 7])
def test_a_plan_made_by_a_program_is_no_witness_either(
    predicted: tuple[float, ...], analysis: Analysis
) -> None:
    plan = dataclasses.replace(
        plan_making.make_plan(analysis, PlanRules(0.3)), ratio_achieved=0.77, predicted_error=predicted
    )
    subject = tiny_subject()
    pruned = slimllm.prune(subject, plan)
    assert pruned.plan.ratio_achieved == pytest.approx(
        1 - pruned.subject.shape.decoder / subject.shape.decoder, abs=1e-12
    )
    assert pruned.plan.predicted_error == ()
    with pytest.raises(Refusal, match="2 numbers in 'heads' for 3 layers"):
        slimllm.prune(subject, dataclasses.replace(plan, heads=plan.heads[:2]))


def test_plans_of_the_program_fit_together(analysis: Analysis) -> None:
    pins = (Pin(0, "mlp", 0, 40), Pin(1, "attention", 2), Pin(2, "mlp", 5))
    gone = (Pin(0, "attention", 4), Pin(2, "mlp", 50, 20), Pin(1, "mlp", 0))
    for ratio in (0.0, 0.2, 0.4):
        for unit in ("kv-group", "query-head"):
            for align in (1, 8, 32):
                made = plan_making.make_plan(
                    analysis, PlanRules(ratio, unit=unit, align=align, protected=pins, forced=gone)
                )
                plan_making.check_plan(made, analysis.shape)
                moved = plan_making.adjust_plan(analysis, made, {0: (2, 3), 2: (6, 96)})
                plan_making.check_plan(moved, analysis.shape)


def test_the_page_computes_the_figures_of_a_plan_anew(planned: Session) -> None:  # noqa: F811
    before = planned.plan
    data = json.loads(plan_json.plan_text(before))
    halve(data)
    boast(data)
    planned.take_plan(plan_json.plan_from_text(json.dumps(data)))
    now = planned.plan
    assert now.channels[1] == before.channels[1] // 2
    assert now == forecast.fill_forecast(planned.known, now)
    assert now.ratio_achieved > before.ratio_achieved


CHANGED = {
    "a width": (halve, "changed after the export"),
    "a width and no checksum": (lambda d: (halve(d), d.pop("checksum")), "is not what its plan.json and"),
    "its figures": (boast, "changed after the export"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_an_export_whose_plan_was_changed_tells_nothing_any_more(
    case: str, analysis: Analysis, tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    slimllm.save(slimllm.prune(tiny_subject(), plan_making.make_plan(analysis, PlanRules(0.3))), folder)
    subject = loading.load_model(str(folder), device="cpu", dtype="float32")
    assert export_reading.as_pruned(subject).plan.ratio_achieved > 0.29
    change, words = CHANGED[case]
    edit(folder / "plan.json", change)
    with pytest.raises(Refusal, match=re.escape(words)):
        export_reading.as_pruned(subject)
