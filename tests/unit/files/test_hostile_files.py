"""Files made to do harm, or gone wrong in odd ways, each met by the real command line: one sentence and exit
status 2 within seconds and bounded memory. The part behind the mark `soak` takes minutes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import transformers

import slimllm
from slimllm import api, pipeline
from slimllm.analysis import analysis_store
from slimllm.calibration import documents, texts
from slimllm.cli import commands, main
from slimllm.core.errors import Refusal
from slimllm.core.process_memory import resident_mib
from slimllm.core.types import Calibration
from slimllm.files import file_limits, row_limits, weight_headers
from slimllm.models import loading
from slimllm.planning import plan_json, plan_making
from slimllm.planning.rules import PlanRules
from slimllm.tokenizers.tokenizer_guard import Backend, guard_tokenizer
from slimllm.tokenizers.tokenizer_rules import unknown_parts
from tests.support import hostile_files
from tests.support.forged_events import Forger
from tests.support.forked_commands import ROOT, Soaker, soaker
from tests.support.tiny_models import PAGE, tiny_model, tiny_tokenizer
from tests.unit.files.test_bad_input_fuzz import tiny_gguf

DEADLINE, MIB = 30.0, 2500.0  # of a command: what a tokenizer may take in its own process is within both
FEW = ("pipe", "300 MB", "device", "deep")  # of what can be wrong with any file, what is tried by default
KINDS = ("config ", "weights ")  # of which all is tried by default


def always(name: str, case: hostile_files.Case) -> bool:
    """Whether a case is tried by default: a hundred that take no time to make."""
    kind = name.split(": ")[1]
    odd = [each for each in hostile_files.odd("") if kind.endswith(f" {each}") or kind == each]
    return not case.slow and (not odd or odd[0] in FEW or kind.startswith(KINDS))


def meetings() -> Iterator[Any]:
    """Every case with every command that meets it; by default each case meets one of them in turn."""
    for number, (name, case) in enumerate(hostile_files.CASES.items()):
        chosen = case.commands[number % len(case.commands)] if always(name, case) else ""
        for command in case.commands:
            mark = () if command == chosen else pytest.mark.soak
            yield pytest.param(name, command, marks=mark, id=f"{name}, {command.split()[0]}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with texts, an analysis and a plan beside it."""
    folder = tmp_path_factory.mktemp("hostile") / "whole"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    run, rare = "a" * 30_000 + "x" * 30_000, "ʒ" * 3000
    for name, words in (("page", PAGE * 12), ("run", PAGE + run + PAGE), ("rare", PAGE * 3 + rare + PAGE)):
        (folder / f"{name}.txt").write_text(words, encoding="utf-8")
    subject = loading.load_model(str(folder), device="cpu", dtype="float32", offline=True)
    text = str(folder / "page.txt")
    wanted = Calibration(text=text, samples=4, length=32)
    analysis = pipeline.finish_job(pipeline.analyse_model(subject, texts.find_text(text), wanted))
    analysis_store.save_analysis(analysis, folder / "analysis")
    plan_json.save_plan(plan_making.make_plan(analysis, PlanRules(0.2)), folder / "plan.json")
    return folder


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soaker]:
    with soaker(tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Iterator[Path]:
    """The model to damage; gone afterwards, for some files are large."""
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    yield folder
    shutil.rmtree(folder)


def check_sentence(said: str) -> None:
    """What a person may be told: a whole sentence that the program meant to say."""
    assert said.startswith("slimllm: ")
    assert said.endswith(".") or "make one with: python -m slimllm" in said
    assert len(said) < 1000
    assert "went wrong" not in said


@pytest.mark.parametrize(("name", "command"), list(meetings()))
def test_hostile_file_is_refused(name: str, command: str, copy: Path, runner: Soaker) -> None:
    case = hostile_files.CASES[name]
    case.make(copy)
    outcome = runner.run([word.format(m=copy, t=copy / case.text) for word in command.split()], DEADLINE, MIB)
    assert outcome.status in ((0, 2) if case.harmless else (2,)), outcome
    assert "Traceback" not in outcome.err
    assert "panicked" not in outcome.err
    if outcome.status:
        check_sentence(outcome.said)
        assert re.search(hostile_files.SAID[name.split(":")[0]], outcome.said)
    assert not (copy.parent / "out").exists()


def test_hostile_files_are_a_hundred_and_more() -> None:
    assert sum(always(name, case) for name, case in hostile_files.CASES.items()) >= 100


def test_hostile_harmless_files_leave_the_measure_as_it_was(whole: Path, copy: Path, runner: Soaker) -> None:
    """What is not used may stand in a file: the measure is that of the whole model."""
    command = "evaluate --model {} --text {}/page.txt --limit-tokens 64 --window 16 --json"
    before = json.loads(runner.run(command.format(whole, whole).split(), DEADLINE, MIB).out)
    hostile_files.SETTINGS["template that loops"].make(copy)
    hostile_files.TOKENIZERS["padding without end"].make(copy)
    after = json.loads(runner.run(command.format(copy, copy).split(), DEADLINE, MIB).out)
    assert after["perplexity"] == before["perplexity"]


@pytest.mark.slow
def test_hostile_file_in_a_process_of_its_own(copy: Path) -> None:
    hostile_files.TOKENIZERS["a normalizer that multiplies"].make(copy)
    command = [sys.executable, "-m", "slimllm", "generate", "--model", str(copy), "--prompt", "aaa"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    check_sentence(done.stderr.splitlines()[-1])


# Tokenizers -------------------------------------------------------------------------------------------------


def unusual(folder: Path, **parts: Any) -> Path:
    """A model whose tokenizer has a pattern that nobody knows, and that is fine."""
    split = hostile_files.regex("[a-z]+| ?[^a-z]+")
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    hostile_files.tokens(pre_tokenizer=hostile_files.sequence("pretokenizers", split, last), **parts)(folder)
    return folder


@pytest.fixture
def odd_one(copy: Path) -> Any:
    """That tokenizer, guarded."""
    return loading.read_tokenizer(unusual(copy), str(copy))


def test_hostile_guard_says_what_the_tokenizer_says(odd_one: Any, copy: Path) -> None:
    plain = transformers.AutoTokenizer.from_pretrained(copy)
    text = PAGE + " é中ʒ 12 \n\n<b>"
    for special in (False, True):
        how = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        assert dict(odd_one(text, add_special_tokens=special, **how)) == dict(
            plain(text, add_special_tokens=special, **how)
        )
    ids = odd_one([text, PAGE]).input_ids
    assert ids == plain([text, PAGE]).input_ids
    assert odd_one.decode(ids[0], skip_special_tokens=True) == plain.decode(ids[0], skip_special_tokens=True)
    assert odd_one.vocab_size == plain.vocab_size


def test_hostile_guard_is_stored_as_the_tokenizer(odd_one: Any, copy: Path, tmp_path: Path) -> None:
    odd_one.save_pretrained(tmp_path / "again")
    before, after = (
        json.loads((folder / "tokenizer.json").read_text()) for folder in (copy, tmp_path / "again")
    )
    assert after["pre_tokenizer"] == before["pre_tokenizer"]
    assert after["model"] == before["model"]


def test_hostile_guard_ends_its_process(odd_one: Any) -> None:
    odd_one("a")
    guard = vars(odd_one._tokenizer)["_process"]
    program = guard.program
    assert program.poll() is None
    with pytest.raises(Refusal, match="more than 0 s"):
        guard.encode(["a" * 1_000_000], False, 0.01)
    assert program.poll() is not None
    assert odd_one("ab").input_ids, "the next text begins a new one"
    program = guard.program
    guard.close()
    assert program.poll() is not None


@pytest.mark.parametrize(
    ("part", "data"),
    [
        ("pre_tokenizer", hostile_files.regex("(a+)+b")),
        ("normalizer", hostile_files.replace({"Regex": "a+"}, "b")),
        ("normalizer", hostile_files.replace("a", "a" * 9)),
        ("normalizer", hostile_files.sequence("normalizers", *[hostile_files.replace("a", "aa")] * 4)),
        ("normalizer", hostile_files.replace("", "a")),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": ""}),
        ("normalizer", {"type": "Prepend", "prepend": "b" * 1000}),
        ("decoder", hostile_files.replace("a", "a" * 1000)),
        ("decoder", {"type": "Oracle"}),
        ("decoder", "x"),
        ("post_processor", {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}]}),
        ("model", {"type": "WordPiece", "max_input_chars_per_word": 10**9}),
    ],
)
def test_hostile_parts_are_unknown(part: str, data: Any) -> None:
    assert unknown_parts({part: data}) == [part]


def test_hostile_known_tokenizers_are_read_here(copy: Path) -> None:
    """Of models in use: byte-level, by the patterns of Llama 3 and GPT-2, and joined pieces."""
    llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    llama3 += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    pieces = hostile_files.sequence(
        "normalizers", {"type": "Prepend", "prepend": "▁"}, hostile_files.replace(" ", "▁")
    )
    ends = hostile_files.sequence(
        "decoders", hostile_files.replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}
    )
    assert not unknown_parts({"pre_tokenizer": hostile_files.regex(llama3)})
    assert not unknown_parts({"normalizer": pieces, "decoder": ends, "model": {"type": "BPE"}})
    assert not isinstance(loading.read_tokenizer(copy, "x")._tokenizer, Backend)
    bare = tiny_tokenizer()
    assert guard_tokenizer(bare, "x") is bare


def test_hostile_tokenizer_that_was_tried_is_known_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading.read_tokenizer(unusual(copy), "x")
    monkeypatch.setattr(
        "slimllm.tokenizers.tokenizer_guard.Guarded.begin", lambda *_: pytest.fail("tried again")
    )
    loading.read_tokenizer(copy, "x")
    unusual(copy, normalizer={"type": "NFC"})
    with pytest.raises(BaseException, match="tried again"):
        loading.read_tokenizer(copy, "x")


@pytest.mark.slow
def test_hostile_tokenizer_leaves_ctrl_c_alone(copy: Path) -> None:
    """Ctrl-C while a tokenizer is tried: status 130 at once, and its process is gone."""
    hostile_files.TOKENIZERS["prepends"].make(copy)
    command = [sys.executable, "-m", "slimllm", "card", str(copy)]
    program = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    until = time.monotonic() + 60
    while not (started := children.read_text().split()):
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.5)
    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=10)
    assert program.returncode == 130
    assert "cancelled" in said
    assert not Path(f"/proc/{started[0]}").exists()


# Kinds of files ---------------------------------------------------------------------------------------------


def test_hostile_pipe_is_never_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it takes the place of a file after that was looked at."""
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(Refusal, match="'x' is a named pipe"):
        file_limits.read_bytes(tmp_path / "pipe.json", "'x'", "use a file", 10)
    monkeypatch.setattr(file_limits, "check_regular", lambda *_: 0)
    with pytest.raises(Refusal, match="'x' is a named pipe"):
        file_limits.read_bytes(tmp_path / "pipe.json", "'x'", "use a file", 10)


def test_hostile_limits_are_the_last_that_pass(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(b"12345")
    assert file_limits.read_bytes(file, "x", "y", 5) == b"12345"
    with pytest.raises(Refusal, match="too large"):
        file_limits.read_bytes(file, "x", "y", 4)


def test_hostile_json_of_one_meaning_is_read() -> None:
    assert file_limits.parse_object(b'{"a": 1, "a": 1, "b": [1.5, null]}') == {"a": 1, "b": [1.5, None]}
    for text, words in (
        ('{"a": 1, "a": 2}', "two values for 'a'"),
        ('{"a": {"b": 1, "b": [2]}}', "two values for 'b'"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "without end"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "too deeply"),
        ("[]", "no object"),
        (" ", "empty"),
    ):
        with pytest.raises(ValueError, match=words):
            file_limits.parse_object(text.encode())


def test_hostile_headers_of_proper_files_say_what_they_hold(copy: Path) -> None:
    found = weight_headers.safetensors_header(copy / "model.safetensors", "x")
    state = tiny_model("llama").state_dict()
    assert {row.name: row.shape for row in found} == {name: tuple(t.shape) for name, t in state.items()}
    tiny_gguf(copy / "x.gguf")
    rows = {row.name: row.shape for row in weight_headers.gguf_header(copy / "x.gguf", "x")}
    assert rows["token_embd.weight"] == (260, 16)
    assert rows["blk.0.attn_k.weight"] == (8, 16)
    assert len(rows) == 12


@pytest.mark.parametrize(
    ("settings", "proper"),
    [
        ({"eos_token_id": [1, 2]}, True),
        ({"eos_token_id": None, "pad_token_id": -1}, True),
        ({"temperature": 0.6, "top_k": 50, "top_p": 1}, True),
        ({"eos_token_id": [[1]]}, False),
        ({"eos_token_id": "1"}, False),
        ({"bos_token_id": True}, False),
        ({"top_k": 0.5}, False),
        ({"temperature": "hot"}, False),
    ],
)
def test_hostile_generation_settings(settings: dict[str, Any], proper: bool, copy: Path) -> None:
    hostile_files.edited("generation_config.json", **settings)(copy)
    with contextlib.nullcontext() if proper else pytest.raises(Refusal, match=r"no token|no such number"):
        loading.load_model(str(copy), device="cpu", dtype="float32", offline=True)


# No exception of a library ----------------------------------------------------------------------------------


class PanicException(BaseException):
    """As libraries in Rust raise it."""


def panic(*_: Any, **__: Any) -> Any:
    raise PanicException("called `Option::unwrap()` on a `None` value")


def test_hostile_panic_is_a_sentence_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(commands, "run_methods", panic)
    assert main.main(["methods"]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert said.startswith("slimllm: Something went wrong: PanicException: called")
    assert "in panic" in (tmp_path / "home" / "failure.txt").read_text()


def test_hostile_panic_is_a_refusal_of_the_library(monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
    monkeypatch.setattr(plan_making, "make_plan", panic)
    with pytest.raises(Refusal, match="PanicException") as caught:
        api.plan(None, 0.2)  # type: ignore[arg-type]
    assert isinstance(caught.value.__cause__, PanicException)
    monkeypatch.setattr(plan_making, "make_plan", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr("slimllm.models.loading.read_config", panic)
    with pytest.raises(Refusal, match="PanicException"):
        slimllm.load(str(copy))


def test_hostile_ctrl_c_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan_making, "make_plan", interrupt)
    with pytest.raises(KeyboardInterrupt):
        api.plan(None, 0.2)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")  # Gradio's own
def test_hostile_files_and_panics_leave_the_page_alive(
    address: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe as weights is refused at once, a panic in an event and in a job is a sentence, and another
    visitor is answered meanwhile."""
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    hostile_files.pipe("model.safetensors")(copy)
    client = Client(address, verbose=False)
    forger = Forger(address)
    start = time.monotonic()
    assert "is a named pipe" in forger.raise_event("load-button", "click", str(copy))
    with pytest.raises(AppError, match="is a named pipe"):
        client.predict(api_name="/load", model=str(copy))
    assert time.monotonic() - start < 10
    monkeypatch.setattr("ui.tasks.work.start_load", panic)
    assert "PanicException" in forger.raise_event("load-button", "click", "x")
    with pytest.raises(AppError, match="PanicException"):
        client.predict(api_name="/load", model="x")
    monkeypatch.undo()
    monkeypatch.setattr("slimllm.export.export_reading.load_export", panic)
    assert "PanicException" in forger.raise_event("load-button", "click", "x")
    assert urllib.request.urlopen(address, timeout=10).status == 200


# Rows -------------------------------------------------------------------------------------------------------


def test_hostile_row_limits_are_the_last_that_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.jsonl"
    rows = [json.dumps({"text": "a" * size}) for size in (5, 20, 3)]
    file.write_text("\n".join(rows))
    monkeypatch.setattr(row_limits, "MOST_ROW", len(rows[1]) + 1)
    assert list(documents.file_documents(file)) == ["a" * 5, "a" * 20, "a" * 3]
    monkeypatch.setattr(row_limits, "MOST_ROW", len(rows[1]))
    with pytest.raises(Refusal, match="longer than"):
        list(documents.file_documents(file))


def test_hostile_parquet_is_read_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated values, others, none, and a column of lists in front: the same as pyarrow alone reads."""
    words = ["b", "a" * 50, None, "b", *(f"row {i}" for i in range(3000)), "b"]
    table = pyarrow.table({"lists": [[1, 2]] * len(words), "text": words})
    file = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(table, file, row_group_size=1000)
    expected = [word for word in words if word]
    for at_once in (row_limits.AT_ONCE, 1):
        monkeypatch.setattr(row_limits, "AT_ONCE", at_once)
        found = documents.file_documents(file)
        assert list(found) == expected
        assert found[0:3] == expected[0:3]
        assert found[len(found) - 1] == "b"
    for name, words_of in (("MOST_ROWS", "3,005 rows"), ("MOST_GROUP", "group of rows")):
        with monkeypatch.context() as patch:
            patch.setattr(row_limits, name, 100)
            with pytest.raises(Refusal, match=words_of):
                list(documents.file_documents(file))


def test_hostile_repeated_values_are_held_once(tmp_path: Path) -> None:
    """A hundred thousand rows of one megabyte: what is asked for is read, within little memory."""
    hostile_files.bomb(tmp_path)
    found = documents.file_documents(tmp_path / "x.parquet")
    assert len(found) == 100_000
    before = resident_mib()
    assert len(next(iter(found))) == 10**6
    assert [len(row) for row in found[99_998:]] == [10**6] * 2
    assert resident_mib() - before < 300
