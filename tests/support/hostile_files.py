"""Make files that are built to do harm or are damaged in odd ways, and name the commands that read them.

They are small on disk, because large ones are sparse.
"""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Make = Callable[[Path], object]  # changes a folder that holds a tiny model, a text, a plan and an analysis
LARGE = 300 * 2**20
MODEL = ("card {m}", "evaluate --model {m} --text {t} --limit-tokens 64 --window 16")
GGUF = ("card {m}/x.gguf", "evaluate --model {m}/x.gguf --text {t} --limit-tokens 64 --window 16")
READ = ("evaluate --model {m} --text {t} --limit-tokens 64 --window 16",)
WRITE = ("generate --model {m} --prompt aaa --max-new-tokens 3",)
PLAN = ("prune --model {m} --plan {m}/plan.json --out {m}/../out",)
ANALYSIS = ("plan --analysis {m}/analysis --ratio 0.2 --out {m}/new.json",)


@dataclass(frozen=True)
class Case:
    """A damaged file, the commands that read it, and the text that these read.

    `make` damages a folder. A `harmless` file may also be accepted if nothing of the damage is used. A `slow`
    case takes more than a second to make or to refuse.
    """

    make: Make
    commands: Sequence[str] = MODEL
    text: str = "page.txt"
    harmless: bool = False
    slow: bool = False


# Damage -----------------------------------------------------------------------------------------------------


def sparse(path: Path, size: int = LARGE, begin: bytes = b"") -> None:
    """Write a sparse file of `size` bytes that begins with `begin`."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.write(begin)
        file.truncate(size)


def emptied(path: Path) -> Path:
    """Return the path after removing what was there."""
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    return path


def pipe(name: str) -> Make:
    """Return a maker of a named pipe."""
    return lambda folder: os.mkfifo(emptied(folder / name))


def directory(name: str) -> Make:
    """Return a maker of an empty folder."""
    return lambda folder: emptied(folder / name).mkdir()


def link(name: str, to: str) -> Make:
    """Return a maker of a symbolic link."""
    return lambda folder: emptied(folder / name).symlink_to(to)


def large(name: str, size: int = LARGE, begin: bytes = b"{") -> Make:
    """Return a maker of a sparse file of `size` bytes that begins with `begin`."""
    return lambda folder: sparse(folder / name, size, begin)


def content(name: str, data: bytes | str) -> Make:
    """Return a maker of a file with this content."""
    return lambda folder: (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def cut(name: str, size: int) -> Make:
    """Return a maker that cuts a file to `size` bytes."""
    return lambda folder: os.truncate(folder / name, size)


def edited(name: str, **changes: Any) -> Make:
    """Return a maker that changes values at the top of a JSON file."""

    def make(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**data, **changes}))

    return make


def put(name: str, path: str, value: Any) -> Make:
    """Return a maker that sets a value at a dotted path of a JSON file.

    A callable value is called for the value.
    """

    def make(folder: Path) -> None:
        data = inner = json.loads((folder / name).read_text())
        *above, last = path.split(".")
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = value() if callable(value) else value
        (folder / name).write_text(json.dumps(data))

    return make


def odd(name: str) -> dict[str, Make]:
    """Return makers of the damage that any JSON file can have, by name."""
    return {
        "pipe": pipe(name),
        "folder": directory(name),
        "device": link(name, "/dev/zero"),
        "circle": link(name, name),
        "300 MB": large(name),
        "empty": content(name, b""),
        "null": content(name, "null"),
        "list": content(name, "[[1]]"),
        "deep": content(name, '{"a":' * 100_000 + "1" + "}" * 100_000),
        "no utf-8": content(name, b'{"a": "\xff\xfe"}'),
        "cut": cut(name, 40),
    }


def regex(pattern: str) -> dict[str, Any]:
    """Return a pre-tokenizer that splits by a regular expression."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replace(old: str | dict[str, str], new: str) -> dict[str, Any]:
    """Return a normalizer or decoder that replaces a string or a pattern."""
    return {"type": "Replace", "pattern": {"String": old} if isinstance(old, str) else old, "content": new}


def sequence(kind: str, *steps: Any) -> dict[str, Any]:
    """Return a sequence of steps, which are normalizers or decoders by `kind`."""
    return {"type": "Sequence", kind: list(steps)}


def tokens(**changes: Any) -> Make:
    """Return a maker that changes values of tokenizer.json."""
    return edited("tokenizer.json", **changes)


def model(**changes: Any) -> Make:
    """Return a maker that changes the model inside tokenizer.json."""

    def make(folder: Path) -> None:
        data = json.loads((folder / "tokenizer.json").read_text())
        data["model"] = {**data["model"], **changes}
        (folder / "tokenizer.json").write_text(json.dumps(data))

    return make


def added(count: int, first: int = 256) -> Make:
    """Return a maker that adds `count` tokens, whose ids begin with `first`."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return tokens(added_tokens=[{"id": first + i, "content": f"<{i}>", **flags} for i in range(count)])


def words(count: int, length: int = 8) -> Make:
    """Return a maker of a vocabulary of `count` words with at least `length` digits each."""
    return lambda folder: model(vocab={f"{i:0{length}}": i for i in range(count)})(folder)


BLOWN = sequence("normalizers", *[replace("a", "a" * 1000)] * 5)
RARE = sequence("normalizers", *[replace("ʒ", "ʒ" * 1000)] * 5)
NESTED = r"(?:(?:a+)+)+(?=b(?<!b))|(?:x|xx|xxx)*(?=y(?<!y))"
RARE_NESTED = r"(?:ʒ|ʒʒ)+q|."
TOKENIZERS: dict[str, Case] = {
    **{name: Case(make) for name, make in odd("tokenizer.json").items()},
    "nested quantifiers": Case(tokens(pre_tokenizer=regex(NESTED)), text="run.txt"),
    "nested quantifiers on one letter": Case(tokens(pre_tokenizer=regex(RARE_NESTED)), READ, "rare.txt"),
    "nested quantifiers in a normalizer": Case(
        tokens(normalizer=replace({"Regex": NESTED}, "a")), text="run.txt"
    ),
    "a regex that is large when compiled": Case(
        tokens(pre_tokenizer=regex("(((a{999}){999}){999}){999}")), harmless=True
    ),
    "a regex that is none": Case(tokens(pre_tokenizer=regex("(((("))),
    "a normalizer that multiplies": Case(tokens(normalizer=BLOWN)),
    "a normalizer that multiplies one letter": Case(tokens(normalizer=RARE), READ, "rare.txt"),
    "prepends": Case(
        tokens(normalizer=sequence("normalizers", *[{"type": "Prepend", "prepend": "b" * 10_000}] * 2000)),
        slow=True,
    ),
    "a decoder that multiplies": Case(
        tokens(decoder=sequence("decoders", *[replace("a", "a" * 1000), replace("Ġ", "a")] * 5)), WRITE
    ),
    "a decoder with nested quantifiers": Case(
        tokens(decoder=replace({"Regex": NESTED}, "a")), WRITE, harmless=True
    ),
    "a million words": Case(words(1_200_000), slow=True),
    "100,000 added tokens": Case(added(100_000), slow=True),
    "added tokens far away": Case(added(2, 10**9)),
    "a word of a million letters": Case(model(vocab={"a" * 1_000_000: 0, "b": 1})),
    "words at huge places": Case(model(vocab={"a": 2**40})),
    "words at places below 0": Case(model(vocab={"a": -1})),
    "words at places far apart": Case(model(vocab={"a": 0, "b": 2**31})),
    "merges of nothing": Case(model(merges=["x y", "zz zz"])),
    "merges of numbers": Case(model(merges=[[1, 2]])),
    "no words": Case(model(vocab={})),
    "words as a list": Case(model(vocab=[["a", 0.0]])),
    "an unknown model": Case(model(type="Oracle")),
    "unigram with no such unknown": Case(
        tokens(model={"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0]], "byte_fallback": False})
    ),
    "unigram of nothing": Case(tokens(model={"type": "Unigram", "unk_id": 0, "vocab": []})),
    "unigram of endless scores": Case(
        tokens(model={"type": "Unigram", "unk_id": 0, "vocab": [["a", 1e400], ["b", -1e308]]}),
        harmless=True,
    ),
    "word pieces without an unknown": Case(
        tokens(
            model={
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 10**12,
                "vocab": {"a": 0},
            },
            pre_tokenizer=None,
        ),
        text="run.txt",
    ),
    "padding without end": Case(
        tokens(
            padding={
                "strategy": {"Fixed": 10**12},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "a",
            }
        ),
        harmless=True,
    ),
    "truncation that cannot be": Case(
        tokens(truncation={"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 9}),
        harmless=True,
    ),
    "a template of nothing": Case(
        tokens(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<none>", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        )
    ),
    "a table of letters of noise": Case(
        tokens(
            normalizer={
                "type": "Precompiled",
                "precompiled_charsmap": base64.b64encode(b"\xff" * 64).decode(),
            }
        )
    ),
    "a table of letters of nothing": Case(
        tokens(normalizer={"type": "Precompiled", "precompiled_charsmap": ""})
    ),
    "60 MB of empty lists": Case(
        lambda folder: content("tokenizer.json", '{"a":[' + "[]," * 20_000_000 + "1]}")(folder), slow=True
    ),
    "normalizers of normalizers": Case(
        content(
            "tokenizer.json",
            '{"normalizer":' + '{"type":"Sequence","normalizers":[' * 900 + "]}" * 900 + "}",
        )
    ),
    "said twice": Case(
        lambda folder: (folder / "tokenizer.json").write_text(
            (folder / "tokenizer.json").read_text().rstrip().removesuffix("}")
            + f', "normalizer": {json.dumps(BLOWN)}}}'
        )
    ),
}


def spoken(**changes: Any) -> Make:
    """Return a maker that changes values of tokenizer_config.json."""
    return edited("tokenizer_config.json", **changes)


ENDLESS = "{% for a in range(999999999) %}{% for b in range(999999999) %}x{% endfor %}{% endfor %}"
SETTINGS: dict[str, Case] = {
    **{f"tokenizer_config {name}": Case(make) for name, make in odd("tokenizer_config.json").items()},
    "class as number": Case(spoken(tokenizer_class=5)),
    "class unknown": Case(spoken(tokenizer_class="os.system"), harmless=True),
    "length as words": Case(spoken(model_max_length="long"), harmless=True),
    "token as list": Case(spoken(eos_token=[[1]])),
    "token of lists": Case(spoken(bos_token={"content": [1], "__type": "AddedToken"})),
    "added at 10^12": Case(spoken(added_tokens_decoder={str(10**12): {"content": "<x>"}}), harmless=True),
    "added at words": Case(spoken(added_tokens_decoder={"x": {"content": "<x>"}})),
    "added as list": Case(spoken(added_tokens_decoder=[1])),
    "more as number": Case(spoken(extra_special_tokens=5)),
    "side as number": Case(spoken(padding_side=7)),
    "template that loops": Case(spoken(chat_template=ENDLESS), harmless=True),
    "template of lists": Case(spoken(chat_template=[[1]])),
    "template file that loops": Case(content("chat_template.jinja", ENDLESS), harmless=True),
    "template file of 300 MB": Case(large("chat_template.jinja")),
    "template as pipe": Case(pipe("chat_template.jinja")),
    "special tokens as pipe": Case(pipe("special_tokens_map.json")),
    "special tokens of lists": Case(
        content("special_tokens_map.json", '{"eos_token": [[1]]}'), harmless=True
    ),
    "added tokens as pipe": Case(pipe("added_tokens.json")),
    "added tokens of lists": Case(content("added_tokens.json", '{"a": [1]}'), harmless=True),
    "slow tokenizer as pipe": Case(pipe("tokenizer.model")),
    "slow tokenizer of 300 MB": Case(large("tokenizer.model")),
}


def config(**changes: Any) -> Make:
    """Return a maker that changes values of config.json."""
    return edited("config.json", **changes)


HEADS = {"num_attention_heads": 10_000, "num_key_value_heads": 10_000, "head_dim": 100_000}
CONFIGS: dict[str, Case] = {
    **{f"config {name}": Case(make) for name, make in odd("config.json").items()},
    "10^12 words": Case(config(vocab_size=10**12)),
    "10^9 layers": Case(config(num_hidden_layers=10**9)),
    "head size 0": Case(config(head_dim=0)),
    "head size below 0": Case(config(head_dim=-8)),
    "a number of 5,000 digits": Case(
        lambda folder: (folder / "config.json").write_text(
            (folder / "config.json").read_text().replace('"vocab_size": 256', '"vocab_size": 1' + "0" * 5000)
        )
    ),
    "a number of 4,000 digits": Case(config(vocab_size=10**4000)),
    "1,000 layers that no file holds": Case(config(num_hidden_layers=1000)),
    "10 million words that no file holds": Case(config(vocab_size=10_000_000)),
    "the widest stream": Case(config(hidden_size=1_000_000)),
    "the most heads": Case(config(**HEADS)),
    "the most channels": Case(config(intermediate_size=1_000_000)),
    "labels without end": Case(config(num_labels=10**11)),
    "labels below 0": Case(config(num_labels="x")),
    "types of a million layers": Case(config(layer_types=["full_attention"] * 1_000_000), slow=True),
    "types of layers unknown": Case(config(layer_types=["evil"] * 3)),
    "rope of words": Case(config(rope_parameters={"rope_type": "default", "rope_theta": "fast"})),
    "rope of lists": Case(config(rope_parameters=[1])),
    "rope unknown": Case(config(rope_parameters={"rope_type": "evil", "rope_theta": 1.0})),
    "rope of nan": Case(config(rope_parameters={"rope_type": "default", "rope_theta": float("nan")})),
    "eps of infinity": Case(config(rms_norm_eps=float("inf"))),
    "eps of words": Case(config(rms_norm_eps="x")),
    "activation unknown": Case(config(hidden_act="evil")),
    "activation of lists": Case(config(hidden_act=[1])),
    "dtype unknown": Case(config(dtype="evil")),
    "dtype of lists": Case(config(dtype=[1])),
    "tied as words": Case(config(tie_word_embeddings=[1])),
    "end as lists": Case(config(eos_token_id=[[1]]), (*MODEL, *WRITE)),
    "end as words": Case(config(eos_token_id="x"), (*MODEL, *WRITE)),
    "pad far away": Case(config(pad_token_id=10**12)),
    "pad below 0": Case(config(pad_token_id=-300)),
    "code of its own": Case(config(auto_map={"AutoConfig": "evil.Config"}), harmless=True),
    "attention from afar": Case(config(attn_implementation="kernels-community/evil"), harmless=True),
    "attention unknown": Case(config(_attn_implementation="evil"), harmless=True),
    "a kind of a million letters": Case(config(model_type="x" * 1_000_000)),
    "a kind of lists": Case(config(model_type=[1])),
    "architectures of numbers": Case(config(architectures=[1]), harmless=True),
    "a window below 0": Case(config(model_type="mistral", sliding_window=-5), harmless=True),
    "layers said twice": Case(
        lambda folder: (folder / "config.json").write_text(
            (folder / "config.json").read_text().rstrip().removesuffix("}").rstrip()
            + ', "num_hidden_layers": 1}'
        )
    ),
    "facts as pipe": Case(pipe("slimllm.json"), READ),
    "facts of 300 MB": Case(large("slimllm.json"), READ),
    "facts deep": Case(content("slimllm.json", "[" * 100_000), READ, harmless=True),
    "facts as device": Case(link("slimllm.json", "/dev/zero"), READ),
}

GENERATION: dict[str, Case] = {
    **{
        f"generation_config {name}": Case(make, WRITE) for name, make in odd("generation_config.json").items()
    },
    **{
        f"generation_config {name}": Case(
            edited("generation_config.json", **values), WRITE, harmless=name == "length below 0"
        )
        for name, values in {
            "end of lists": {"eos_token_id": [[1]]},
            "end of words": {"eos_token_id": "x"},
            "end of objects": {"eos_token_id": {"a": 1}},
            "end as fraction": {"eos_token_id": 1.5},
            "end as truth": {"eos_token_id": [True]},
            "pad of lists": {"pad_token_id": [[1]]},
            "temperature of words": {"temperature": "hot"},
            "beams of lists": {"num_beams": [[1]]},
            "length below 0": {"max_length": -5},
            "kind unknown": {"cache_implementation": "evil"},
        }.items()
    },
}


def weights(header: Any, size: int = 0, length: int | None = None) -> Make:
    """Return a maker of a safetensors file with this header, followed by `size` sparse bytes.

    The file states `length` bytes for its header, by default the true number.
    """

    def make(folder: Path) -> None:
        made = header if isinstance(header, bytes) else json.dumps(header).encode()
        begin = struct.pack("<Q", len(made) if length is None else length) + made
        sparse(folder / "model.safetensors", len(begin) + size, begin)

    return make


def tensor(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    """Return the entry of a tensor in a safetensors header; its bytes are `begin` up to `end`."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def beside(name: str, shape: list[int]) -> Make:
    """Return a maker that adds a sparse float32 tensor to the weights of the model, or replaces one."""

    def make(folder: Path) -> None:
        file = folder / "model.safetensors"
        whole = file.read_bytes()
        length = 8 + int.from_bytes(whole[:8], "little")
        header, body = json.loads(whole[8:length]), whole[length:]
        size = 4
        for count in shape:
            size *= count
        header[name] = tensor(shape, len(body), len(body) + size)
        made = json.dumps(header).encode()
        begin = struct.pack("<Q", len(made)) + made + body
        sparse(file, len(begin) + size, begin)

    return make


def index(names: Any) -> Make:
    """Return a maker of an index of weights with this map from tensors to files."""
    return content("model.safetensors.index.json", json.dumps({"weight_map": names}))


FIRST = {"lm_head.weight": tensor([256, 48], 0, 49152)}
WEIGHTS: dict[str, Case] = {
    "weights as pipe": Case(pipe("model.safetensors")),
    "weights as folder": Case(directory("model.safetensors")),
    "weights as device": Case(link("model.safetensors", "/dev/zero")),
    "weights as circle": Case(link("model.safetensors", "model.safetensors")),
    "weights of nothing": Case(content("model.safetensors", b"")),
    "weights of 7 bytes": Case(content("model.safetensors", b"1234567")),
    "weights of zeros": Case(large("model.safetensors", begin=b"")),
    "weights cut": Case(cut("model.safetensors", 3000)),
    "weights cut near the end": Case(cut("model.safetensors", 200_000)),
    "another pipe beside": Case(lambda folder: os.mkfifo(folder / "more.safetensors")),
    "header of 2^63": Case(weights({}, length=2**63)),
    "header of 2^64-1": Case(weights({}, length=2**64 - 1)),
    "header beyond the file": Case(weights({}, length=10**6)),
    "header of 90 MB": Case(weights(b"{", size=100_000_000, length=90_000_000)),
    "header of 120,000 tensors": Case(
        lambda folder: weights({f"t{i}": tensor([0], 0, 0, "I8") for i in range(120_000)})(folder), slow=True
    ),
    "header of a million tensors": Case(
        lambda folder: weights({f"t{i}": tensor([0], 0, 0, "I8") for i in range(1_000_000)})(folder),
        slow=True,
    ),
    "header that is no json": Case(weights(b"{{{{{{{{")),
    "header that is deep": Case(weights(b'{"a":' * 10_000 + b"1" + b"}" * 10_000)),
    "header of no utf-8": Case(weights(b'{"\xff":1}')),
    "header as list": Case(weights([1, 2])),
    "tensors that overlap": Case(
        weights({**FIRST, "b": tensor([256, 48], 16, 49168)}, size=49168),
    ),
    "tensors beyond the file": Case(weights({"a": tensor([256, 48], 0, 49152)}, size=100)),
    "offsets that overflow": Case(weights({"a": tensor([4], 2**64 - 8, 2**64 + 8)}, size=100)),
    "offsets below 0": Case(weights({"a": tensor([4], -16, 0)}, size=100)),
    "offsets backwards": Case(weights({"a": tensor([4], 16, 0)}, size=100)),
    "shapes that overflow": Case(weights({"a": tensor([2**40, 2**40], 0, 16)}, size=16)),
    "shapes below 0": Case(weights({"a": tensor([-4], 0, 16)}, size=16)),
    "shapes of words": Case(weights({"a": tensor(["x"], 0, 16)}, size=16)),
    "a dtype unknown": Case(weights({"a": tensor([4], 0, 16, "EVIL")}, size=16)),
    "no tensors": Case(weights({})),
    "another tensor of a terabyte": Case(beside("evil.weight", [2**19, 2**19]), harmless=True),
    "a head of a terabyte": Case(beside("lm_head.weight", [2**19, 2**19])),
    "a norm of a terabyte": Case(beside("model.norm.weight", [2**38])),
    "index as pipe": Case(pipe("model.safetensors.index.json")),
    "index of 300 MB": Case(large("model.safetensors.index.json")),
    "index as device": Case(link("model.safetensors.index.json", "/dev/zero")),
    "index deep": Case(content("model.safetensors.index.json", "[" * 100_000)),
    "index of lists": Case(index([1])),
    "index of numbers": Case(index({"a": 1})),
    "index elsewhere": Case(index({"a": "../x.safetensors"})),
    "index absolute": Case(index({"a": "/dev/zero"})),
    "index of what is not there": Case(index({"a": "none.safetensors"})),
    "index of a pipe": Case(lambda folder: (pipe("p.bin")(folder), index({"a": "p.bin"})(folder))),
    "index of other files": Case(index({"a": "config.json"})),
}


def gguf_text(words: str | bytes) -> bytes:
    """Return a string as GGUF stores it: 8 bytes of length, then the text."""
    data = words if isinstance(words, bytes) else words.encode()
    return struct.pack("<Q", len(data)) + data


def gguf(
    pairs: Sequence[tuple[str, int, bytes]] = (),
    infos: bytes = b"",
    tensors: int = 0,
    count: int | None = None,
    version: int = 3,
    size: int = 0,
) -> Make:
    """Return a maker of a GGUF with these keys and tensors, followed by `size` sparse bytes.

    A key is (name, type, bytes). `infos` is the table of tensors, and `tensors` the number of tensors that
    the header states. `count` is the number of keys that it states, by default the true one.
    """
    head = struct.pack("<4sIQQ", b"GGUF", version, tensors, len(pairs) if count is None else count)
    data = head + b"".join(gguf_text(k) + struct.pack("<I", kind) + v for k, kind, v in pairs) + infos
    return lambda folder: sparse(folder / "x.gguf", len(data) + size, data)


def number(name: str, value: int) -> tuple[str, int, bytes]:
    """Return a key of a GGUF whose value is an unsigned integer of 64 bits."""
    return (f"llama.{name}", 10, struct.pack("<Q", value))


def info(name: str, dims: Sequence[int], kind: int = 0, offset: int = 0, count: int | None = None) -> bytes:
    """Return the entry of a tensor in the table of a GGUF.

    `kind` is the type of its numbers, and `count` the stated number of dimensions, by default the true one.
    """
    many = len(dims) if count is None else count
    return gguf_text(name) + struct.pack(f"<I{len(dims)}QIQ", many, *dims, kind, offset)


def words_of(kind: int, count: int, data: bytes) -> bytes:
    """Return an array of a GGUF with `count` stated elements of type `kind`."""
    return struct.pack("<IQ", kind, count) + data


ARCH = ("general.architecture", 8, gguf_text("llama"))
SOME = (
    ARCH,
    number("block_count", 1),
    number("context_length", 64),
    number("embedding_length", 16),
    number("feed_forward_length", 32),
    number("attention.head_count", 2),
    number("attention.head_count_kv", 1),
    ("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-6)),
    ("tokenizer.ggml.model", 8, gguf_text("gpt2")),
)
EMBED = info("token_embd.weight", [16, 4])


def but(*changes: tuple[str, int, bytes]) -> list[tuple[str, int, bytes]]:
    """Return the usual keys of a GGUF with these changes."""
    return list({pair[0]: pair for pair in (*SOME, *changes)}.values())


def vocabulary(count: int, word: Callable[[int], str], kind: str = "gpt2") -> Make:
    """Return a maker of a GGUF with `count` words, each made by `word` from its index."""

    def make(folder: Path) -> None:
        table = b"".join(gguf_text(word(i)) for i in range(count))
        keys = [
            ("tokenizer.ggml.model", 8, gguf_text(kind)),
            ("tokenizer.ggml.tokens", 9, words_of(8, count, table)),
            ("tokenizer.ggml.merges", 9, words_of(8, 0, b"")),
            ("tokenizer.ggml.scores", 9, words_of(6, count, b"\0" * 4 * count)),
            ("tokenizer.ggml.token_type", 9, words_of(5, count, struct.pack("<i", 1) * count)),
        ]
        gguf(but(*keys), EMBED, 1, size=4096)(folder)

    return make


GGUFS: dict[str, Case] = {
    name: Case(make, GGUF[1:] if "as one" in name else GGUF, slow=name.startswith("slow"))
    for name, make in {
        "gguf as pipe": pipe("x.gguf"),
        "gguf as folder": directory("x.gguf"),
        "gguf as device": link("x.gguf", "/dev/zero"),
        "gguf of nothing": content("x.gguf", b""),
        "gguf of zeros": large("x.gguf", begin=b"GGUF"),
        "gguf of 10^12 tensors": gguf(SOME, tensors=10**12, size=10**6),
        "gguf of 2^64-1 tensors": gguf(SOME, tensors=2**64 - 1),
        "gguf of 10^12 keys": gguf(SOME, count=10**12, size=10**6),
        "gguf of 3 billion empty keys": gguf(count=3 * 10**9, size=2**32),
        "gguf of an endless key": gguf([("x", 8, struct.pack("<Q", 2**62))]),
        "gguf of an endless name": gguf(SOME, struct.pack("<Q", 2**63), tensors=1),
        "gguf of an endless array": gguf([ARCH, ("x", 9, words_of(4, 2**40, b""))], size=10**6),
        "gguf of 3 billion numbers": gguf([ARCH, ("x", 9, words_of(0, 3 * 10**9, b""))], size=4 * 10**9),
        "gguf of a billion empty words": gguf([ARCH, ("x", 9, words_of(8, 10**9, b""))], size=8 * 10**9),
        "gguf of endless words": gguf([ARCH, ("x", 9, words_of(8, 2**40, b""))], size=10**6),
        "gguf of arrays of arrays": gguf([ARCH, ("x", 9, words_of(9, 10**9, b""))], size=10**6),
        "gguf of unknown types": gguf([ARCH, ("x", 99, b"")]),
        "gguf of 4 billion dimensions": gguf(SOME, info("a", [1], count=2**32 - 1), 1, size=10**6),
        "gguf of no dimensions": gguf(SOME, info("a", []), 1),
        "gguf of dimensions that overflow": gguf(SOME, info("token_embd.weight", [2**40, 2**40]), 1),
        "gguf of a tensor of a terabyte": gguf(SOME, info("token_embd.weight", [16, 2**34]), 1, size=2**40),
        "gguf of a tensor beyond the file": gguf(SOME, info("token_embd.weight", [16, 4], 0, 2**50), 1),
        "gguf of unknown tensors": gguf(SOME, info("token_embd.weight", [16, 4], 99), 1, size=4096),
        "gguf of alignment 0": gguf(but(("general.alignment", 4, struct.pack("<I", 0))), EMBED, 1, size=4096),
        "gguf of version 1": gguf(SOME, EMBED, 1, version=1),
        "gguf of version 2^31": gguf(SOME, EMBED, 1, version=2**31),
        "gguf of no architecture": gguf(SOME[1:], EMBED, 1, size=4096),
        "gguf of a number for architecture": gguf(
            but(("general.architecture", 10, b"\1" * 8)), EMBED, 1, size=4096
        ),
        "gguf of no utf-8": gguf(but(("general.architecture", 8, gguf_text(b"\xff"))), EMBED, 1, size=4096),
        "gguf of 10^9 layers": gguf(but(number("block_count", 10**9)), EMBED, 1, size=4096),
        "gguf of 900 layers": gguf(but(number("block_count", 900)), EMBED, 1, size=4096),
        "gguf of the widest stream": gguf(but(number("embedding_length", 10**6)), EMBED, 1, size=4096),
        "gguf of 10^12 words": gguf(but(number("vocab_size", 10**12)), EMBED, 1, size=4096),
        "gguf of no heads": gguf(but(number("attention.head_count", 0)), EMBED, 1, size=4096),
        "gguf of layers in words": gguf(but(("llama.block_count", 8, gguf_text("x"))), EMBED, 1, size=4096),
        "gguf of no tokenizer": gguf(SOME[:-1], EMBED, 1, size=4096),
        "gguf of an unknown tokenizer": gguf(
            but(("tokenizer.ggml.model", 8, gguf_text("evil"))), EMBED, 1, size=4096
        ),
        "gguf of a word of a million letters": vocabulary(4, lambda i: "ab" * 500_000 + str(i), "llama"),
        "gguf of words as one": vocabulary(4, lambda _: "a"),
        "slow gguf of a million words": vocabulary(1_200_000, str),
    }.items()
}


def bomb(folder: Path) -> None:
    """Write a Parquet file of a few kB that expands to 100 GB of text."""
    import pyarrow
    import pyarrow.parquet

    one = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 100_000), pyarrow.array(["a" * 10**6]))
    table = pyarrow.table({"text": one})
    pyarrow.parquet.write_table(table, folder / "x.parquet", compression="zstd", store_schema=False)


def novel(folder: Path, rows: int) -> None:
    """Write a Parquet file of a few kB with `rows` rows, one of which has 900 MB."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": [*["b"] * (rows - 1), "a" * 900_000_000]})
    pyarrow.parquet.write_table(table, folder / "x.parquet", compression="zstd", use_dictionary=False)


def rows(folder: Path) -> None:
    """Write a Parquet file of a few kB with 100 million rows."""
    import pyarrow
    import pyarrow.parquet

    one = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 10**7), pyarrow.array(["a"]))
    with pyarrow.parquet.ParquetWriter(
        folder / "x.parquet", pyarrow.schema({"text": pyarrow.string()})
    ) as out:
        for _ in range(10):
            out.write_table(pyarrow.table({"text": one.cast(pyarrow.string())}))


def numbers(folder: Path) -> None:
    """Write a Parquet file whose text column holds numbers."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), folder / "x.parquet")


TEXTS: dict[str, Case] = {
    "text as pipe": Case(pipe("x.txt"), READ, "x.txt"),
    "text as device": Case(link("x.txt", "/dev/zero"), READ, "x.txt"),
    "text as folder": Case(directory("x.txt"), READ, "x.txt"),
    "text of no utf-8": Case(content("x.txt", b"\xff\xfe\xfd" * 100), READ, "x.txt"),
    "text of 4 GB of nothing": Case(large("x.txt", 4 * 10**9, b""), READ, "x.txt", harmless=True),
    "rows as pipe": Case(pipe("x.jsonl"), READ, "x.jsonl"),
    "a row of a gigabyte": Case(large("x.jsonl", 10**9, b'{"text": "'), READ, "x.jsonl"),
    "rows that are deep": Case(content("x.jsonl", "[" * 10**6), READ, "x.jsonl"),
    "rows of huge numbers": Case(content("x.jsonl", '{"text": 1' + "0" * 10**5 + "}"), READ, "x.jsonl"),
    "rows of nan": Case(content("x.jsonl", '{"text": NaN}\n' * 9), READ, "x.jsonl", harmless=True),
    "rows of half letters": Case(
        content("x.jsonl", '{"text": "\\ud800 and a long row of words of letters"}\n' * 9),
        READ,
        "x.jsonl",
        harmless=True,
    ),
    "parquet as pipe": Case(pipe("x.parquet"), READ, "x.parquet"),
    "parquet of zeros": Case(large("x.parquet", begin=b"PAR1"), READ, "x.parquet"),
    "parquet of noise": Case(content("x.parquet", b"PAR1" + b"\xff" * 99 + b"PAR1"), READ, "x.parquet"),
    "parquet of 100 GB": Case(bomb, READ, "x.parquet", harmless=True),
    "parquet of one row of 900 MB": Case(lambda folder: novel(folder, 1), READ, "x.parquet", slow=True),
    "parquet of a row of 900 MB among others": Case(
        lambda folder: novel(folder, 500), READ, "x.parquet", harmless=True, slow=True
    ),
    "parquet of 100 million rows": Case(rows, READ, "x.parquet", harmless=True, slow=True),
    "parquet of numbers": Case(numbers, READ, "x.parquet"),
}

PLANS: dict[str, Case] = {
    **{f"plan {name}": Case(make, PLAN) for name, make in odd("plan.json").items()},
    "plan of a million layers": Case(
        edited("plan.json", widths=[[6, 3, 96]] * 100_000, heads=[6] * 100_000, channels=[96] * 100_000),
        PLAN,
    ),
    **{f"analysis {name}": Case(make, ANALYSIS) for name, make in odd("analysis/analysis.json").items()},
    "analysis of other files": Case(edited("analysis/analysis.json", tensors="../plan.json"), ANALYSIS),
    "analysis of a pipe": Case(
        lambda folder: (
            pipe("analysis/p.safetensors")(folder),
            edited("analysis/analysis.json", tensors="p.safetensors")(folder),
        ),
        ANALYSIS,
    ),
    "analysis of a device": Case(
        lambda folder: (
            link("analysis/p.safetensors", "/dev/zero")(folder),
            edited("analysis/analysis.json", tensors="p.safetensors")(folder),
        ),
        ANALYSIS,
    ),
}

SAID = {  # by the kind of file, what a refusal names
    "tokenizer": r"okenizer",
    "words": r"okenizer|_tokens|chat_template|cannot be loaded as",
    "config": r"config\.json|slimllm\.json|cannot be loaded as|is not supported",
    "generation": r"generation_config|cannot be loaded as",
    "weights": r"\.safetensors|weight|config\.json' .*is damaged",
    "gguf": r"x\.gguf",
    "text": r"x\.(txt|jsonl|parquet)",
    "plan": r"plan\.json|[Pp]lan |holds no readable analysis",
}
CASES: dict[str, Case] = {
    **{f"tokenizer: {name}": case for name, case in TOKENIZERS.items()},
    **{f"words: {name}": case for name, case in SETTINGS.items()},
    **{f"config: {name}": case for name, case in CONFIGS.items()},
    **{f"generation: {name}": case for name, case in GENERATION.items()},
    **{f"weights: {name}": case for name, case in WEIGHTS.items()},
    **{f"gguf: {name}": case for name, case in GGUFS.items()},
    **{f"text: {name}": case for name, case in TEXTS.items()},
    **{f"plan: {name}": case for name, case in PLANS.items()},
}
