"""Claims about beginnings: whatever a model reads begins as its tokenizer begins a text, never twice, and
that is never counted. A tiny Gemma that relies on <bos> is trained for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import slimllm
from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.cli import main
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration
from slimllm.evaluation import evaluate
from slimllm.export import checkpoint, model_card, verification
from slimllm.models import loading
from slimllm.models.loading import Pruned, Subject
from slimllm.pruning import finetuning
from slimllm.tokenizers.text_start import Beginning, begin_ids, cut_windows, find_beginning
from tests.support.bos_gemma import BOS, LEARNED, SENTENCE, begun_subject, begun_tokenizer
from tests.support.tiny_models import tiny_subject, tiny_tokenizer

WANTED = Calibration("page", 6, 24)
BEGUN = Beginning((BOS,), "<bos>")


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.set_num_threads(1)
    return begun_subject()


@pytest.fixture(scope="module")
def folder(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("begun") / "model"
    subject.model.save_pretrained(place)
    subject.tokenizer.save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("texts") / "page.txt"
    file.write_text(SENTENCE * 40, encoding="utf-8")
    return str(file)


def without(subject: Subject) -> Subject:
    """The same as this program read it before."""
    found = dataclasses.replace(subject)
    found.__dict__["beginning"] = Beginning()
    return found


# The tokens in front ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (tiny_tokenizer(), Beginning()),
        (begun_tokenizer(), BEGUN),
        (begun_tokenizer("<bos> $A <end>", "<end>"), BEGUN),
        (begun_tokenizer("$A <end>", "<end>"), Beginning()),
        (begun_tokenizer("<bos> <two> $A", "<two>"), Beginning((BOS, BOS + 1), "<bos><two>")),
        (None, Beginning()),
    ],
)
def test_a_beginning_is_what_the_tokenizer_puts_in_front(tokenizer: Any, expected: Beginning) -> None:
    assert find_beginning(tokenizer) == expected


def test_nothing_is_begun_twice() -> None:
    ids = torch.tensor([5, 6])
    assert begin_ids(ids, BEGUN).tolist() == [BOS, 5, 6]
    assert begin_ids(begin_ids(ids, BEGUN), BEGUN).tolist() == [BOS, 5, 6]
    assert begin_ids(ids, Beginning()).tolist() == [5, 6]
    written = torch.tensor([BOS, 1, 2, 3, BOS, 4, 5])  # a text that holds the token itself
    assert cut_windows(written, 3, BEGUN).tolist() == [[BOS, 1, 2], [BOS, 3, BOS], [BOS, 4, 5]]


@given(
    st.lists(st.integers(0, 9), max_size=60), st.integers(3, 9), st.sampled_from([(), (BOS,), (BOS, BOS + 1)])
)
def test_windows_hold_the_text_in_order(ids: list[int], length: int, front: tuple[int, ...]) -> None:
    rows = cut_windows(torch.tensor(ids, dtype=torch.int64), length, Beginning(front, ""))
    room = length - len(front)
    assert rows.shape == (len(ids) // room, length)
    assert all(tuple(row) == front for row in rows[:, : len(front)].tolist())
    assert rows[:, len(front) :].flatten().tolist() == ids[: len(ids) // room * room]


# What is measured and read --------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["<bos> $A", "<bos> <two> $A"])
def test_oracle_perplexity_counts_all_but_the_beginning(template: str) -> None:
    tokenizer = begun_tokenizer(template, "<two>")
    subject = loading.make_subject("x", tiny_subject(vocab_size=258).model, tokenizer)
    front = list(find_beginning(tokenizer).ids)
    tokens = torch.randint(0, 250, (100,), generator=torch.Generator().manual_seed(4))
    found = pipeline.finish_job(evaluate.measure_perplexity(subject, tokens, 16))
    total, count, room = 0.0, 0, 16 - len(front)
    for start in range(0, 100 - room + 1, room):
        window = [*front, *tokens[start : start + room].tolist()]
        for place in range(len(front), 16):  # each token of the text, from the first one on
            with torch.inference_mode():
                before = subject.model(input_ids=torch.tensor([window[:place]])).logits[0, -1].double()
            total -= float(before.log_softmax(-1)[window[place]])
            count += 1
    assert (found.tokens, found.windows) == (count, 100 // room)
    assert found.nll == pytest.approx(total / count, rel=1e-4)
    with pytest.raises(Refusal, match=f"use {len(front) + 1} to"):
        pipeline.finish_job(evaluate.measure_perplexity(subject, tokens, len(front) if len(front) > 1 else 1))


def test_a_model_that_relies_on_its_beginning_is_measured_with_it(
    folder: str, page: str, subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["evaluate", "--model", folder, "--text", page, "--window", "24", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    ids = texts.evaluation_tokens(texts.find_text(page), subject.tokenizer)
    before = pipeline.finish_job(evaluate.measure_perplexity(without(subject), ids, 24))
    assert answer["perplexity"] < 4 < 60 < before.perplexity
    assert (answer["begins_with"], answer["window"]) == ("<bos>", 24)
    assert answer["tokens"] == 23 * answer["windows"] == 23 * (len(ids) // 23)
    assert main.main(["evaluate", "--model", folder, "--text", page, "--window", "24"]) == 0
    assert "begins_with: <bos>\n" in capsys.readouterr().out


def test_a_model_that_relies_on_its_beginning_continues_as_it_learned(subject: Subject) -> None:
    for prompt in ("The", "<bos>The"):  # as a chat template would begin it
        assert "".join(evaluate.generate_text(subject, prompt, max_new_tokens=19)) == LEARNED
    assert "".join(evaluate.generate_text(without(subject), "The", max_new_tokens=19)) != LEARNED


def test_speed_is_measured_behind_the_beginning(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []
    step = evaluate.next_logits
    monkeypatch.setattr(
        evaluate, "next_logits", lambda s, ids, *rest: read.append(ids[0].tolist()) or step(s, ids, *rest)
    )
    pipeline.finish_job(evaluate.measure_speed(subject, length=5, new_tokens=1, repeats=1))
    assert read[0] == [BOS, 0, 1, 2, 3]


@pytest.mark.parametrize("written", [SENTENCE * 20, "<bos>" + SENTENCE * 20])
@pytest.mark.parametrize("documents", [1, 5])
def test_samples_begin_once(written: str, documents: int) -> None:
    source = texts.Text("page", lambda _: [written] * documents)
    rows = texts.calibration_tokens(source, begun_tokenizer(), WANTED, max_length=512)
    assert rows.shape == (6, 24)
    assert (rows[:, 0] == BOS).all()
    assert not (rows[:, 1] == BOS).any()
    many = dataclasses.replace(WANTED, samples=600)
    with pytest.raises(Refusal, match="use --samples"):
        texts.calibration_tokens(source, begun_tokenizer(), many, max_length=512)


def test_scores_come_from_what_begins_rightly(subject: Subject, page: str) -> None:
    seen: list[torch.Tensor] = []
    handle = subject.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].clone())
    )
    try:
        for method in ("slimllm", "best", "llm-pruner"):  # moments, probes, gradients
            slimllm.analyse(subject, slimllm.text(page), WANTED, method=method)
    finally:
        handle.remove()
    read = [ids for ids in seen if bool((ids != 0).any())]  # the end of the model reads a stream, not tokens
    assert len(read) > 3
    assert all((ids[:, 0] == BOS).all() and not (ids[:, 1:] == BOS).any() for ids in read)


def test_tuning_learns_all_but_the_beginning(subject: Subject, page: str) -> None:
    pytest.importorskip("peft")
    analysis = slimllm.analyse(subject, slimllm.text(page), WANTED)
    pruned = slimllm.prune(subject, slimllm.plan(analysis, 0.2), slimllm.text(page))
    rows = texts.calibration_tokens(slimllm.text(page), subject.tokenizer, WANTED, max_length=512)
    steps = list(
        finetuning.finetune_model(pruned, rows, finetuning.Tuning(samples=6, length=24, epochs=1, batch=6))
    )
    expected = evaluate.window_loss(pruned.subject, rows) / (6 * 23)
    assert steps[0].result == pytest.approx(expected, rel=1e-3)


# What is taken away ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(
    subject: Subject, page: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pruned, Path, verification.Reload]:
    """A pruned model, where it was exported to, and what the fresh process made of it."""
    place, found = tmp_path_factory.mktemp("out") / "small", list[verification.Reload]()

    def keep(subject: Subject, reload: verification.Reload) -> float:
        found.append(reload)
        return verification.compare_reload(subject, reload)

    analysis = slimllm.analyse(subject, slimllm.text(page), WANTED)
    pruned = slimllm.prune(subject, slimllm.plan(analysis, 0.1), slimllm.text(page))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "compare_reload", keep)
        slimllm.save(pruned, place)
    return pruned, place, found[0]


@pytest.mark.slow
def test_an_export_begins_texts_as_before_and_says_so(
    exported: tuple[Pruned, Path, verification.Reload], page: str
) -> None:
    pruned, place, _ = exported
    again = slimllm.load(str(place), dtype="float32")
    assert again.beginning == BEGUN
    ids = texts.evaluation_tokens(texts.find_text(page), again.tokenizer)
    before = pipeline.finish_job(evaluate.measure_perplexity(pruned.subject, ids, 24))
    after = pipeline.finish_job(evaluate.measure_perplexity(again, ids, 24))
    assert after.nll == pytest.approx(before.nll, rel=1e-4)
    assert "**Texts** begin with `<bos>`" in (place / "README.md").read_text()
    assert json.loads((place / "slimllm.json").read_text())["begins_with"] == "<bos>"
    assert model_card.text_start_line("") == [], (
        "nothing is said of a model whose texts begin with themselves"
    )


def test_the_fresh_process_reads_what_begins_rightly(
    exported: tuple[Pruned, Path, verification.Reload],
) -> None:
    _, _, found = exported
    assert found.ids[0] == BOS
    assert found.words is not None
    assert found.words[0] == BOS
