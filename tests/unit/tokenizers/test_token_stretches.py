"""Claims about tokens of long texts: they are those of the whole, for every kind of tokenizer, and few
letters are read for few tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.tokenization_utils_base import generate_merges

from slimllm.calibration import texts
from slimllm.tokenizers import gguf_vocabulary, token_stretches
from tests.support.tiny_models import PAGE, tiny_tokenizer

ODD = [
    "é", "naïve", "– ", "😀😀", "漢字かな", "1234567890", " ", "   ", "\n", "\n\n", "\r\n", "\t", "don't",
    "x.y(z)", "<s>", "ﬁ", "e\u0301", "…", "\u00a0", "AAAAAAAA", "the the ", "http://a.b/c?d=e",
]  # fmt: skip


def written(letters: int, seed: int) -> str:
    """A text of words and oddities in random order."""
    draw, words = random.Random(seed), PAGE.split(" ")
    found: list[str] = []
    size = 0
    while size < letters:
        found.append(draw.choice(ODD) if draw.random() < 0.2 else draw.choice(words) + " ")
        size += len(found[-1])
    return "".join(found)[:letters]


def trained(model: Any, splits: Any, normalizer: Any = None) -> Any:
    made = Tokenizer(model())
    if splits is not None:
        made.pre_tokenizer = splits
    if normalizer is not None:
        made.normalizer = normalizer
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    how = {"vocab_size": 500, "special_tokens": ["<s>", "<unk>"], "show_progress": False}
    learner: Any = trainers.BpeTrainer(**how, initial_alphabet=alphabet)
    if model is models.Unigram:
        learner = trainers.UnigramTrainer(**how, unk_token="<unk>")
    made.train_from_iterator([written(20_000, 1)], learner)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def split_by(name: str) -> Any:
    regex = Regex(gguf_vocabulary.GGUF_PRE_TOKENIZER_SPLITS[name])
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(regex, "isolated"), level])


def pieces() -> Any:
    """As SentencePiece: one word is the whole text, a space is put in front of it, bytes for the rest."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator([written(20_000, 1)], trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learned = sorted(made.get_vocab(), key=made.get_vocab().__getitem__)
    tokens = dict.fromkeys(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned])
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = generate_merges(vocab, {token: -float(index) for token, index in vocab.items()})
    return transformers.LlamaTokenizer(vocab=vocab, merges=merges)


KINDS: dict[str, Callable[[], Any]] = {
    "a token per byte": tiny_tokenizer,
    "gpt-2": lambda: trained(models.BPE, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "llama 3": lambda: trained(models.BPE, split_by("llama-bpe")),
    "qwen 2": lambda: trained(models.BPE, split_by("qwen2"), normalizers.NFC()),
    "tekken": lambda: trained(models.BPE, split_by("tekken")),
    "pieces": pieces,
    "unigram": lambda: trained(models.Unigram, pre_tokenizers.Metaspace(), normalizers.NFKC()),
}


def whole(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def in_stretches(text: str, tokenizer: Any) -> tuple[list[int], int]:
    found = [list(ids) for ids in token_stretches.token_ids([text], tokenizer)]
    return [token for ids in found for token in ids], len(found)


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many seams in a short text."""
    monkeypatch.setattr(token_stretches, "STRETCH", 3000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [2, 3])
def test_stretches_have_the_tokens_of_the_whole(kind: str, seed: int) -> None:
    tokenizer, text = KINDS[kind](), written(60_000, seed)
    found, count = in_stretches(text, tokenizer)
    assert found == whole(text, tokenizer)
    assert count > 15


@pytest.mark.parametrize("kind", ["llama 3", "pieces", "gpt-2"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        written(3000, 4),
        written(3001, 4),
        written(4000, 5) + "a" * 9000 + written(8000, 6),  # a word of many stretches
        written(4000, 5) + " " * 9001 + written(8000, 6),
        "1234567" * 1500 + written(8000, 6),
        "\n" * 7000 + "end",
        "ab" * 6000,
    ],
    ids=["nothing", "a letter", "one stretch", "a letter more", "a", "spaces", "digits", "lines", "ab"],
)
def test_what_has_no_seams_is_read_as_one(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    assert in_stretches(text, tokenizer)[0] == whole(text, tokenizer)


def test_a_tokenizer_that_knows_no_letters_reads_all_at_once() -> None:
    class Plain:
        is_fast = False

        def __call__(self, text: str, **_: Any) -> Any:
            return transformers.BatchEncoding({"input_ids": [ord(letter) for letter in text]})

    assert list(token_stretches.token_ids(iter(["ab", "c"]), Plain())) == [[97, 98, 99]]


def test_few_letters_are_read_for_few_tokens() -> None:
    read = 0

    def letters() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1000
            yield written(1000, read)

    found = next(iter(token_stretches.token_ids(letters(), tiny_tokenizer())))
    assert len(found) > 1000
    assert read <= 8000


def test_sections_of_the_encyclopedia_have_the_tokens_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    documents, tokenizer = texts.encyclopedia_part("evaluation")[:512], KINDS["gpt-2"]()
    expected = [i for n in (0, 256) for i in whole("\n\n".join([*documents[n : n + 256], ""]), tokenizer)]
    assert texts.tokenize_documents(documents, tokenizer).tolist() == expected
    assert texts.tokenize_documents(documents, tokenizer, limit=999).tolist() == expected[:999]
