"""The glossary: easy sentences, no form twice, and every term of the field is in it."""

from __future__ import annotations

import pytest

from tests.page.tour.test_tour import HARDEST, grade, split
from ui.look.glossary import TERMS, Term, as_data

FIELD = (
    "channel", "head", "KV group", "value column", "sparsity", "perplexity", "calibration", "recovery",
    "allocation", "cosine", "PCA", "spectrum", "swap", "KV cache", "FLOPs", "token", "layer", "parameter",
    "embeddings", "MLP", "attention", "dense", "decoder", "window", "temperature", "seed", "checkpoint",
    "shim", "padded", "native", "gates", "gradient", "regression", "least squares", "fine-tuning", "prefill",
    "decode", "rank agreement", "excess loss", "Pareto front", "predicted error", "norms", "score", "LoRA",
)  # fmt: skip


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_explanations_are_easy(term: Term) -> None:
    for sentence in split(term.words):
        assert grade(sentence) <= HARDEST, f"{sentence}: grade {grade(sentence):.1f}"


def test_no_form_stands_for_two_things() -> None:
    forms = [form.lower() for term in TERMS for form in term.forms]
    assert len(forms) == len(set(forms))
    assert as_data()[0]["words"] == TERMS[0].words


@pytest.mark.parametrize("word", FIELD)
def test_words_of_the_field_are_explained(word: str) -> None:
    assert word.lower() in {form.lower() for term in TERMS for form in term.forms}
