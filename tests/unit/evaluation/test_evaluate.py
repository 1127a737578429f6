"""Perplexity, generation and speed."""

from __future__ import annotations

import math

import pytest
import torch

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.evaluation import evaluate
from slimllm.models.loading import Subject
from tests.support.tiny_models import PAGE, tiny_subject

TOKENS = torch.randint(0, 250, (200,), generator=torch.Generator().manual_seed(4))


def test_oracle_perplexity_is_the_summed_loss_over_predicted_tokens(any_subject: Subject) -> None:
    found = pipeline.finish_job(evaluate.measure_perplexity(any_subject, TOKENS, 32))
    total = 0.0
    for start in range(0, 192, 32):
        window = TOKENS[start : start + 32][None]
        with torch.inference_mode():
            logs = any_subject.model(input_ids=window).logits[0, :-1].double().log_softmax(-1)
        total -= float(logs[range(31), window[0, 1:]].sum())
    assert (found.windows, found.tokens, found.window) == (6, 186, 32)
    assert found.nll == pytest.approx(total / 186, rel=1e-4)
    assert found.perplexity == pytest.approx(math.exp(total / 186), rel=1e-3)


def test_oracle_token_losses_are_those_of_every_token_alone(any_subject: Subject) -> None:
    ids = TOKENS[:24]
    found = evaluate.read_passage(any_subject, ids)
    for place in range(1, 24):  # each token predicted from what comes before it and nothing else
        with torch.inference_mode():
            before = any_subject.model(input_ids=ids[None, :place]).logits[0, -1].double().softmax(-1)
        assert float(found.losses[place - 1]) == pytest.approx(
            -math.log(before[ids[place]]), rel=1e-3, abs=1e-4
        )
        assert float(found.certainty[place - 1]) == pytest.approx(float(before.max()), rel=1e-3)
        assert int(found.likeliest[place - 1]) == int(before.argmax())
    whole = pipeline.finish_job(evaluate.measure_perplexity(any_subject, ids, 24))
    assert float(found.losses.mean()) == pytest.approx(whole.nll, rel=1e-4)


def test_losses_that_are_not_numbers_count_as_endless() -> None:
    logits = torch.tensor([[0.0, math.nan], [2.0, 0.0], [0.0, 0.0]])
    found = evaluate.token_losses(logits, torch.tensor([0, 1, 0]))
    assert found.losses.tolist() == [math.inf, pytest.approx(math.log(1 + math.exp(-2)))]
    assert found.certainty.tolist() == [0.0, pytest.approx(1 / (1 + math.exp(-2)))]


@pytest.mark.parametrize(("length", "words"), [(0, "too short"), (1, "too short"), (600, "shorter")])
def test_bad_input_passages_are_refused(length: int, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        evaluate.read_passage(tiny_subject(), torch.zeros(length, dtype=torch.int64))


@pytest.mark.parametrize(
    ("tokens", "window", "words"),
    [
        (0, 16, "fewer than one window"),
        (15, 16, "fewer than one window"),
        (99, 1, "not possible"),
        (99, 999, "not"),
    ],
)
def test_bad_input_windows_are_refused(tokens: int, window: int, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        pipeline.finish_job(evaluate.measure_perplexity(tiny_subject(), TOKENS[:tokens], window))


def test_a_ruined_model_has_a_perplexity_too() -> None:
    subject = tiny_subject()
    subject.model.lm_head.weight.data.mul_(1e6)
    assert pipeline.finish_job(evaluate.measure_perplexity(subject, TOKENS, 32)).perplexity == math.inf


def test_generation_with_and_without_cache_is_the_same(any_subject: Subject) -> None:
    one = "".join(evaluate.generate_text(any_subject, "The heads", max_new_tokens=20))
    other = "".join(evaluate.generate_text(any_subject, "The heads", max_new_tokens=20, use_cache=False))
    assert one == other


def test_generation_equals_that_of_transformers() -> None:
    subject = tiny_subject("qwen3")
    ids = subject.tokenizer("The heads", return_tensors="pt").input_ids
    whole = subject.model.generate(input_ids=ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    expected = subject.tokenizer.decode(whole, skip_special_tokens=True)
    assert "".join(evaluate.generate_text(subject, "The heads", max_new_tokens=20)) == expected.rstrip(
        "\ufffd"
    )


def test_sampling_is_seeded() -> None:
    subject = tiny_subject()

    def write(seed: int) -> str:
        return "".join(evaluate.generate_text(subject, "A", max_new_tokens=30, temperature=1.5, seed=seed))

    assert write(1) == write(1)
    assert write(1) != write(2)


@pytest.mark.parametrize(
    ("prompt", "changes", "words"),
    [
        ("", {}, "empty"),
        ("a" * 600, {}, "shorter"),
        ("a", {"max_new_tokens": 0}, "at least 1"),
        ("a", {"temperature": -1.0}, "temperature"),
        ("a", {"temperature": math.nan}, "temperature"),
    ],
)
def test_bad_input_generation_is_refused(prompt: str, changes: dict[str, float], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        list(evaluate.generate_text(tiny_subject(), prompt, **changes))  # type: ignore[arg-type]


def test_generation_stops_where_the_model_can_read_no_more() -> None:
    subject = tiny_subject("llama", max_position_embeddings=24)
    _, tokens, _ = evaluate.timed_generation(subject, "a" * 20, max_new_tokens=50)
    assert tokens <= 4


def test_speed_is_measured() -> None:
    found = pipeline.finish_job(evaluate.measure_speed(tiny_subject(), length=16, new_tokens=4, repeats=2))
    assert found.prefill_tokens_per_second > 0
    assert found.decode_tokens_per_second > 0


def test_evaluation_tokens_stop_at_the_limit() -> None:
    source = texts.Text("page", lambda _: [PAGE] * 600)
    assert len(texts.evaluation_tokens(source, tiny_subject().tokenizer, limit=1000)) == 1000
