"""Claims about GGUF exports: one file that transformers and llama.cpp read as the very model that was pruned,
and one sentence where that cannot be."""

from __future__ import annotations

import dataclasses
import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as kinds
from transformers.tokenization_utils_base import generate_merges

import slimllm
from slimllm.cli import main
from slimllm.core.errors import Refusal
from slimllm.export import (
    checkpoint,
    export_reading,
    formats,
    gguf_writer,
    model_inspection,
    verification,
)
from slimllm.models import loading
from slimllm.models.loading import Pruned, Subject
from slimllm.tokenizers import gguf_vocabulary
from tests.export.test_tiers import LLAMA3_ROPE, by_groups, equal, prune
from tests.support.exports_on_disk import Stored, stored
from tests.support.tiny_models import PAGE, tiny_subject, tiny_tokenizer

TEXT = "The heads of 14 layers – and  channels."
SPLIT = gguf_vocabulary.GGUF_PRE_TOKENIZER_SPLITS["llama-bpe"]


def merged_tokenizer(*steps: Any) -> Any:
    """A byte-level tokenizer with merges, and special tokens that begin and end a text."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not steps)
    made = Tokenizer(kinds.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([*steps, level]) if steps else level
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([PAGE], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def pieces_tokenizer(**how: Any) -> Any:
    """A tokenizer of SentencePiece's kind: pieces that are joined over the whole text, bytes for the rest."""
    made = Tokenizer(kinds.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator([PAGE], trainers.BpeTrainer(vocab_size=41, show_progress=False))
    learned = sorted(made.get_vocab(), key=made.get_vocab().__getitem__)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = generate_merges(vocab, {token: -float(index) for token, index in vocab.items()})
    return transformers.LlamaTokenizer(vocab=vocab, merges=merges, **how)


def worded(family: str = "llama", tokenizer: Any = None, **changes: Any) -> Subject:
    """A tiny subject with 304 embeddings, four more than its tokenizer has tokens."""
    subject = tiny_subject(family, vocab_size=304, bos_token_id=0, eos_token_id=1, **changes)
    return dataclasses.replace(subject, tokenizer=tokenizer or merged_tokenizer())


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to prune one model, and the class that transformers reads it as; with 0 heads to different
    widths, which only this program and llama.cpp read."""

    family: str
    heads: int
    read_as: str
    bias: bool = False
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    words: Callable[[], Any] = merged_tokenizer

    def pruned(self) -> Pruned:
        subject = worded(self.family, self.words(), **self.changes)
        groups = subject.shape.groups
        cuts = equal(self.heads)(subject) if groups == 6 else [(list(range(self.heads)), 40)] * 3
        if not self.heads:
            cuts = [([0, 1], 40), ([0, 1, 4, 5], 96), (list(range(6)), 72)]
        return prune(subject, cuts, bias=self.bias)


ODD = {"num_key_value_heads": 6}
CASES = {
    "llama": Case("llama", 4, "Llama"),
    "llama whole": Case("llama", 6, "Llama"),
    "llama biases": Case("llama", 4, "Llama", bias=True),
    "llama odd biases": Case("llama", 5, "Granite", bias=True, changes=ODD),
    "llama tied llama3": Case(
        "llama", 2, "Llama", changes={"tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE}
    ),
    "llama linear": Case(
        "llama",
        4,
        "Llama",
        changes={"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    ),
    "llama half": Case("llama", 4, "Llama", bias=True, changes={"dtype": torch.float16}),
    "llama bfloat16": Case("llama", 4, "Llama", changes={"dtype": torch.bfloat16}),
    "llama pieces": Case("llama", 4, "Llama", words=pieces_tokenizer),
    "llama pieces begun": Case("llama", 4, "Llama", words=lambda: pieces_tokenizer(add_bos_token=True)),
    "llama pieces unspaced": Case(
        "llama", 4, "Llama", words=lambda: pieces_tokenizer(add_prefix_space=False)
    ),
    "mistral": Case("mistral", 4, "Llama", bias=True),
    "qwen2": Case("qwen2", 4, "Llama"),
    "qwen2 biases": Case("qwen2", 4, "Llama", bias=True),
    "qwen3": Case("qwen3", 4, "Qwen3"),
    "uneven": Case("llama", 0, "Slim"),
    "uneven biases": Case("llama", 0, "Slim", bias=True),
    "uneven tied llama3": Case(
        "llama", 0, "Slim", changes={"tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE}
    ),
    "uneven mistral bfloat16": Case("mistral", 0, "Slim", bias=True, changes={"dtype": torch.bfloat16}),
    "uneven pieces": Case("llama", 0, "Slim", words=pieces_tokenizer),
}
EVEN = [name for name in CASES if "uneven" not in name]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stored]:
    pruned = {name: case.pruned() for name, case in CASES.items()}
    return stored(tmp_path_factory.mktemp("gguf"), pruned, dict.fromkeys(CASES, "gguf"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_the_file_as_what_was_pruned(shelf: dict[str, Stored], name: str) -> None:
    stored = shelf[name]
    assert formats.name_of(stored.form.model) == f"{CASES[name].read_as}ForCausalLM"
    assert verification.compare_reload(stored.pruned.subject, stored.reload) <= 1e-6
    assert stored.reload.words is not None  # as the tokenizer inside the file splits them
    assert not list(stored.folder.glob("*.safetensors"))


@pytest.mark.parametrize("name", CASES)
def test_this_program_reads_the_folder(shelf: dict[str, Stored], name: str) -> None:
    stored = shelf[name]
    subject = loading.load_model(str(stored.folder), device="cpu", dtype="float32")
    assert verification.compare_reload(subject, stored.reload) <= 1e-6
    assert subject.shape.widths == stored.pruned.subject.shape.widths
    assert subject.tokenizer(TEXT).input_ids == stored.pruned.subject.tokenizer(TEXT).input_ids
    assert model_inspection.inspect_model(str(stored.folder)).supported


@pytest.mark.parametrize("name", ["llama", "llama biases", "qwen3", "uneven biases"])
def test_the_file_holds_the_weights_bit_for_bit(shelf: dict[str, Stored], name: str) -> None:
    stored = shelf[name]
    tensors = {t.name: t for t in gguf.GGUFReader(str(stored.folder / "model.gguf")).tensors}
    down = stored.pruned.subject.layers[1].get_submodule("mlp.down_proj")
    for leaf, tensor in down.state_dict().items():
        assert torch.equal(torch.from_numpy(tensors[f"blk.1.ffn_down.{leaf}"].data.copy()), tensor)
    count = sum(int(t.n_elements) for t in tensors.values())
    assert stored.pruned.subject.shape.parameters <= count
    (again := stored.folder / "again.gguf").unlink(missing_ok=True)
    form, given = stored.form, stored.pruned
    name = f"{given.plan.model} pruned"
    gguf_writer.write_gguf(form.model, checkpoint.stored_tensors(form), given.subject.tokenizer, name, again)
    assert again.read_bytes() == (stored.folder / "model.gguf").read_bytes()
    again.unlink()


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_reads_the_file_as_what_was_pruned(shelf: dict[str, Stored], name: str) -> None:
    """Where `pip install xllamacpp` has been done: 50 log-probabilities and the tokens of a sentence."""
    cpp = pytest.importorskip("xllamacpp")
    stored, given = shelf[name], cpp.CommonParams()
    given.model.path, given.n_ctx, given.n_gpu_layers = str(stored.folder / "model.gguf"), 256, 0
    given.warmup, given.cpuparams.n_threads = False, 1
    given.cache_type_k = given.cache_type_v = cpp.ggml_type.GGML_TYPE_F32
    given.flash_attn_type = cpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = cpp.Server(given)

    def ask(path: str, **body: Any) -> Any:
        url, kind = server.listening_address + path, {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), kind)) as answer:
            return json.load(answer)

    ids = stored.pruned.subject.tokenizer(TEXT).input_ids
    assert ask("/tokenize", content=TEXT, add_special=True)["tokens"] == ids
    found: dict[str, Any] = {}
    while "completion_probabilities" not in found:  # there are none where the text ends
        ids = ids[:-1]
        found = ask("/completion", prompt=ids, n_predict=1, temperature=-1, n_probs=50, cache_prompt=False)
    rows = found["completion_probabilities"][0]["top_logprobs"]
    model = stored.pruned.subject.model
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    off = max(abs(row["logprob"] - float(expected[row["id"]])) for row in rows)
    assert off <= (1e-4 if model.dtype == torch.float32 else 0.1)  # half precision is rounded elsewhere


def by_llama3() -> Any:
    return merged_tokenizer(pre_tokenizers.Split(Regex(SPLIT), "isolated"))


@pytest.mark.parametrize("said", [True, False, None])
@pytest.mark.parametrize(
    ("words", "unsaid"), [(pieces_tokenizer, True), (merged_tokenizer, False), (by_llama3, True)]
)
def test_texts_begin_as_a_file_of_others_says(
    words: Callable[[], Any], unsaid: bool, said: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it says nothing, as llama.cpp (xllamacpp 2026.10) then begins them; `None` is no flag."""
    add = gguf.GGUFWriter.add_add_bos_token
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_add_bos_token", lambda self, _: None if said is None else add(self, said)
    )
    subject = worded("llama", words())
    tensors = {name: tensor.detach() for name, tensor in subject.model.state_dict().items()}
    gguf_writer.write_gguf(subject.model, tensors, subject.tokenizer, "other", tmp_path / "other.gguf")
    again = loading.load_model(str(tmp_path / "other.gguf"), device="cpu", dtype="float32")
    expected = (again.tokenizer.bos_token_id,) if (unsaid if said is None else said) else ()
    assert again.beginning.ids == expected
    assert again.tokenizer(TEXT).input_ids == [
        *expected,
        *again.tokenizer(TEXT, add_special_tokens=False).input_ids,
    ]


def test_the_flag_of_a_file_is_what_the_tokenizer_does() -> None:
    starts = {
        name: gguf_vocabulary.gguf_vocabulary_of(case.words(), 304).starts
        for name, case in CASES.items()
        if case.words is not merged_tokenizer
    }
    assert starts == {name: name == "llama pieces begun" for name in starts}
    made = merged_tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> </s> $A", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    assert "begins texts with more" in gguf_vocabulary.tokenizer_hindrance(made)


# One export, for real ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_gguf_export_is_verified_labelled_and_pruned_again(tmp_path: Path, page: Path) -> None:
    pruned = CASES["llama biases"].pruned()
    done = slimllm.save(pruned, tmp_path / "small", wanted="gguf")
    assert (done.tier, done.verified) == ("gguf", True)
    assert done.bytes == (tmp_path / "small/model.gguf").stat().st_size
    card = (tmp_path / "small/README.md").read_text()
    assert "llama-cli -m small/model.gguf" in card
    assert "gguf_file='model.gguf', config=" in card
    subject = loading.load_model(str(tmp_path / "small"), device="cpu", dtype="float32")
    assert export_reading.as_pruned(subject).plan == dataclasses.replace(
        pruned.plan, options=export_reading.as_pruned(subject).plan.options
    )
    text = slimllm.text(str(page))
    found = slimllm.analyse(subject, text, slimllm.Calibration(str(page), 4, 32))
    smaller = slimllm.prune(subject, slimllm.plan(found, 0.2, same_width=True), text)
    again = slimllm.save(smaller, tmp_path / "smaller", wanted="gguf")
    assert again.parameters < done.parameters
    facts = json.loads((tmp_path / "smaller/slimllm.json").read_text())
    assert [row["tier"] for row in facts["ancestors"]] == ["gguf"]


@pytest.mark.slow
def test_a_gguf_of_different_widths_is_verified_labelled_and_pruned_again(tmp_path: Path, page: Path) -> None:
    pruned = CASES["uneven biases"].pruned()
    done = slimllm.save(pruned, tmp_path / "small", wanted="gguf")
    assert (done.tier, done.verified) == ("gguf", True)
    card = (tmp_path / "small/README.md").read_text()
    assert "**Elsewhere**: llama.cpp: `llama-cli -m small/model.gguf`" in card
    assert "gguf_file" not in card
    subject = loading.load_model(str(tmp_path / "small"), device="cpu", dtype="float32")
    assert subject.shape == pruned.subject.shape
    text = slimllm.text(str(page))
    found = slimllm.analyse(subject, text, slimllm.Calibration(str(page), 4, 32))
    smaller = slimllm.prune(subject, slimllm.plan(found, 0.2, align=1), text)
    again = slimllm.save(smaller, tmp_path / "smaller", wanted="gguf")
    assert again.parameters < done.parameters


@pytest.mark.slow
def test_the_command_line_takes_equal_widths_where_llama_cpp_wants_them(
    tmp_path: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for family, alike in (("llama", False), ("qwen3", True)):
        subject = worded(family)
        subject.model.save_pretrained(tmp_path / family)
        subject.tokenizer.save_pretrained(tmp_path / family)
        given = f"--model {tmp_path / family} --text {page} --samples 4 --length 32 --recovery none --align 1"
        out = f"--export gguf --out {tmp_path / 'out' / family}"
        assert main.main(f"prune {given} --ratio 0.3 {out} --json".split()) == 0
        said = capsys.readouterr()
        assert (len({tuple(row.values())[:2] for row in json.loads(said.out)["layers"]}) == 1) == alike
        assert ("only if all layers are equally wide" in said.err) == alike


@pytest.mark.slow
def test_a_gguf_that_reads_as_another_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_writer, "interleave_halves", lambda tensor, _: tensor)
    with pytest.raises(Refusal, match="gives other results"):
        slimllm.save(CASES["llama"].pruned(), tmp_path / "small", wanted="gguf")
    assert not list(tmp_path.iterdir())


def test_a_gguf_whose_biases_get_lost_is_refused(shelf: dict[str, Stored], tmp_path: Path) -> None:
    moved = tmp_path / "model.gguf"
    moved.write_bytes((shelf["llama biases"].folder / "model.gguf").read_bytes())
    with pytest.raises(Refusal, match=r"biases that get lost .* the folder that it was exported to"):
        loading.load_model(str(moved), device="cpu", dtype="float32")
    moved.write_bytes((shelf["llama"].folder / "model.gguf").read_bytes())
    subject = loading.load_model(str(moved), device="cpu", dtype="float32")
    (alone := tmp_path / "alone.gguf").write_bytes((shelf["uneven"].folder / "model.gguf").read_bytes())
    with pytest.raises(Refusal, match="layers differ in width, which is read only in the folder"):
        loading.load_model(str(alone), device="cpu", dtype="float32")
    assert "only in the folder" in model_inspection.inspect_model(str(alone)).reason
    assert torch.equal(
        subject.layers[0].get_submodule("mlp.up_proj").weight,
        shelf["llama"].pruned.subject.layers[0].get_submodule("mlp.up_proj").weight,
    )


# What llama.cpp cannot read ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "cuts", "bias", "words"),
    [
        (
            lambda: worded("qwen3"),
            by_groups,
            False,
            "only as a Llama, which Qwen3ForCausalLM is not",
        ),
        (lambda: worded(attention_bias=True), by_groups, False, "no place for biases of queries and keys"),
        (lambda: worded("gemma"), equal(4), False, "no mapping of GemmaForCausalLM to an architecture"),
        (
            lambda: worded("qwen3", num_key_value_heads=6),
            equal(4),
            True,
            "no place for .*bias; .* or --recovery none",
        ),
        (
            lambda: worded("mistral", sliding_window=16, num_key_value_heads=6),
            equal(4),
            False,
            "sliding window",
        ),
        (
            lambda: worded("granite", embedding_multiplier=2.0, num_key_value_heads=6),
            equal(4),
            False,
            "scales",
        ),
        (lambda: worded(hidden_act="gelu", num_key_value_heads=6), equal(4), False, "silu where it has gelu"),
        (
            lambda: worded(
                num_key_value_heads=6,
                rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
            ),
            equal(4),
            False,
            "positions of type 'dynamic'",
        ),
        (
            lambda: tiny_subject(num_key_value_heads=6),
            equal(4),
            False,
            "its tokenizer is no BPE with merges",
        ),
    ],
)
def test_what_llama_cpp_cannot_read_as_gguf_is_refused_with_the_reason(
    subject: Callable[[], Subject], cuts: Any, bias: bool, words: str
) -> None:
    given = subject()
    with pytest.raises(Refusal, match=f"cannot be stored as gguf: .*{words}"):
        formats.choose_format(prune(given, cuts(given), bias=bias), "gguf")


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ((), "gpt-2"),
        ((pre_tokenizers.Split(Regex(SPLIT), "isolated"),), "llama-bpe"),
        ((pre_tokenizers.Split(Regex(SPLIT), "removed"),), ""),
        ((pre_tokenizers.Split(Regex(r"\s+"), "isolated"),), ""),
        ((pre_tokenizers.Digits(individual_digits=True),), ""),
    ],
)
def test_the_way_to_split_text_has_a_name_in_gguf(steps: Any, name: str) -> None:
    tokenizer = merged_tokenizer(*steps)
    assert gguf_vocabulary.split_of(gguf_vocabulary.vocabulary_parts(tokenizer)) == name
    assert bool(gguf_vocabulary.tokenizer_hindrance(tokenizer)) != bool(name)


def test_a_vocabulary_for_gguf_is_whole() -> None:
    tokenizer = merged_tokenizer()
    tokenizer.add_tokens(["<think>"])
    tokenizer.chat_template = "{{ messages }}"
    found = gguf_vocabulary.gguf_vocabulary_of(tokenizer, 304)
    assert (len(found.tokens), len(found.kinds)) == (304, 304)
    assert found.tokens[:2] == ("<s>", "</s>")
    assert found.kinds[:3] == (3, 3, 1)
    assert (found.tokens[300], found.kinds[300]) == ("<think>", 4)
    assert (found.tokens[303], found.kinds[303]) == ("[PAD303]", 5)
    assert found.special == {"bos": 0, "eos": 1}
    assert all(len(merge.split(" ")) == 2 for merge in found.merges)
    assert (found.starts, found.template) == (False, "{{ messages }}")


def test_the_card_says_whether_gguf_is_possible(tmp_path: Path) -> None:
    for family, whole, said in (
        ("llama", True, "--export gguf writes"),
        ("gemma", False, "no mapping of Gemma"),
    ):
        tiny_subject(family).model.save_pretrained(tmp_path / family)
        tiny_tokenizer().save_pretrained(tmp_path / family)
        found = model_inspection.inspect_model(str(tmp_path / family))
        ways = {way.plan: way for way in found.exports}
        assert ways["Fewer channels, all layers alike, recovery none"].gguf == whole
        assert ways["Layers of different width, recovery none"].gguf == whole
        assert any(said in line for line in found.runtimes)
        assert any("or for llama.cpp (gguf)" in line for line in model_inspection.card_lines(found)) == whole


def test_pieces_for_gguf_are_scored_by_when_they_are_joined() -> None:
    tokenizer = pieces_tokenizer()
    found = gguf_vocabulary.gguf_vocabulary_of(tokenizer, 304)
    assert (found.kind, found.spaced, found.starts, found.merges) == ("llama", True, False, ())
    assert found.kinds[:4] == (2, 3, 3, 6)
    merges = gguf_vocabulary.vocabulary_parts(tokenizer)["model"]["merges"]
    first, later = ("".join(merges[place]) for place in (0, -1))
    at = dict(zip(found.tokens, found.scores, strict=True))
    assert at[first] == 0 > at[later] > max(at["a"], at["[PAD303]"])
    assert gguf_vocabulary.scores_of(["ab", "abc", "x"], [("a", "b"), ("ab", "c"), ("a", "bc")]) == (
        0,
        -1,
        -5,
    )


# Quantising ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("align", "more", "words"),
    [
        (8, [], r"In [123] of 3 layers the channels are no multiple of 32.*--align 32"),
        (32, [], ""),
        (8, ["--same-width"], r"In 3 of 3 layers the channels are no multiple of 32.*bit when it"),
    ],
)
def test_what_llamacpp_cannot_quantise_is_told_before_and_after(
    align: int,
    more: list[str],
    words: str,
    tmp_path: Path,
    page: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint, "reload_elsewhere", lambda *_, **__: [None])
    monkeypatch.setattr(checkpoint, "compare_reload", lambda *_: 0.0)
    subject = worded()
    subject.model.save_pretrained(tmp_path / "m")
    subject.tokenizer.save_pretrained(tmp_path / "m")
    reading = ["--model", tmp_path / "m", "--text", page, "--samples", 4, "--length", 32, "--ratio", 0.25]
    line = ["prune", *reading, "--align", align, *more, "--export", "gguf", "--out", tmp_path / "out"]
    assert main.main([*map(str, line)]) == 0
    before, _, after = capsys.readouterr().err.partition("pruned")
    for said in (before, after, (tmp_path / "out/README.md").read_text()):
        found = re.search("In . of 3 layers the channels are no multiple of 32.*", said)
        assert (found is not None) == bool(words)
        assert re.search(words, found[0] if found else "")
