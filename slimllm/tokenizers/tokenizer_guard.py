"""Tokenizers of others, whose patterns and replacements may take endless time or memory on some text.

One whose parts are all known (`tokenizer_rules`) is used as it is. Any other is tried in a process of its own
before it is loaded, and afterwards reads and writes only there, with a deadline for every text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimllm.core.errors import Refusal
from slimllm.files import file_limits
from slimllm.files.paths import home_folder
from slimllm.tokenizers import tokenizer_process
from slimllm.tokenizers.tokenizer_rules import RuleFault, check_tables, check_tokens, unknown_parts

NAME, TOKENIZER_REMEDY = "tokenizer.json", "fetch the model again, or give it another tokenizer"
SECONDS = 10.0  # that a text may take, and one more for every so many bytes of it
BYTES_PER_SECOND = 50_000
RULES = 1  # of this version: what was found by others is found again
KEPT_FROM = 2 * file_limits.MIB  # bytes of a tokenizer.json from which on it is remembered that it is fine
RUN = 20_000  # letters in a row
SAMPLE = "What remains must still say what the whole one said: 3 * 14 = 42."
SAMPLES = (
    SAMPLE,
    *(letter * RUN for letter in ("a", "A", "x", " ", "\n", "0", ".", "-", "é", "中", "\t", "_")),
    *((pair * RUN)[:RUN] for pair in ("ab", "a ", "a1", "0.", "\r\n", "Aa", "a-", "();")),
    "".join(f"b{letter * 3000}c " for letter in "axA0 .-é"),
    "".join(map(chr, range(32, 0x3000))),
)


def check_tokenizer(folder: Path, beside: Sequence[Mapping[str, Any]], source: str) -> None:
    """Refuses a folder's tokenizer.json whose tables are larger than any, or which takes endless time or
    memory on sample texts; `beside` are the objects in the other files that tell of tokens."""
    file, what = folder / NAME, f"The tokenizer of '{source}'"
    try:
        for settings in beside:
            check_tokens(settings)
        if not file.exists():
            return
        content = file_limits.read_bytes(file, f"'{NAME}' of '{source}'", TOKENIZER_REMEDY)
        mark = home_folder() / "tokenizers" / f"{hashlib.sha256(content).hexdigest()[:32]}-{RULES}"
        if mark.exists():
            return
        data = file_limits.parse_object(content)
        check_tables(data)
    except RuleFault as fault:
        raise Refusal(f"{what} {fault}; {TOKENIZER_REMEDY}.") from None
    except (OSError, ValueError, RecursionError) as failure:
        if isinstance(failure, Refusal):
            raise
        why = "nested too deeply" if isinstance(failure, RecursionError) else str(failure)[:120]
        raise Refusal(f"{what} cannot be read ({why}); {TOKENIZER_REMEDY}.") from None
    unknown = unknown_parts(data)
    if unknown:
        words = [json.dumps(settings, ensure_ascii=False) for settings in beside]  # these become tokens, too
        with contextlib.closing(Guarded(content.decode("utf-8-sig"), source)) as tried:
            found = tried.encode([*SAMPLES, *words], True, SECONDS)
            tried.decode(found[0].ids, False)
            tried.decode(list(range(min(1000, len(data["model"]["vocab"])))), False)
    if unknown or len(content) > KEPT_FROM:
        with contextlib.suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def guard_tokenizer(tokenizer: Any, source: str) -> Any:
    """The tokenizer, which reads and writes in a process of its own where any part of it is unknown."""
    backend = getattr(tokenizer, "_tokenizer", None)
    if backend is not None and unknown_parts(tokenizer_parts(backend)):
        tokenizer._tokenizer = Backend(backend, source)
    return tokenizer


def tokenizer_parts(backend: Any) -> dict[str, Any]:
    """The parts of a loaded tokenizer but for its tables, as a tokenizer.json has them."""
    names = ("normalizer", "pre_tokenizer", "decoder", "post_processor")
    parts = {name: getattr(backend, name) for name in names}
    found = {name: json.loads(part.__getstate__()) for name, part in parts.items() if part is not None}
    model = backend.model
    found["model"] = {"type": type(model).__name__}
    if hasattr(model, "max_input_chars_per_word"):
        found["model"]["max_input_chars_per_word"] = model.max_input_chars_per_word
    return found


@dataclass(frozen=True)
class Encoded:
    """What transformers asks of one text's tokens, as the process says it: ids, whether each is a special
    one, and its first letter and the one behind its last."""

    numbers: memoryview
    special: memoryview
    places: memoryview
    n_sequences: int = 1
    overflowing: None = None

    @property
    def ids(self) -> list[int]:
        return self.numbers.tolist()

    @property
    def special_tokens_mask(self) -> list[int]:
        return self.special.tolist()

    @property
    def offsets(self) -> list[tuple[int, int]]:
        return list(zip(self.places[::2].tolist(), self.places[1::2].tolist(), strict=True))

    @property
    def attention_mask(self) -> list[int]:
        return [1] * len(self.numbers)

    @property
    def type_ids(self) -> list[int]:
        return [0] * len(self.numbers)


class Guarded:
    """A tokenizer in a process of its own, from the text of a tokenizer.json. The process begins with the
    first text, and anew after one that it did not survive."""

    def __init__(self, text: str, source: str) -> None:
        self.text, self.source = text, source
        self.lock = threading.Lock()
        self.program: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None

    def encode(self, texts: Sequence[str], special: bool, seconds: float | None = None) -> list[Encoded]:
        """The tokens of each text; a `Refusal` where they take too long, too much memory, or panic."""
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        job = {"texts": list(texts), "special": special, "size": size}
        said = self.ask(job, seconds or SECONDS + size / BYTES_PER_SECOND)
        rest, found = memoryview(said["numbers"]).cast("I"), []
        for count in said["counts"]:
            found.append(Encoded(rest[:count], rest[count : 2 * count], rest[2 * count : 4 * count]))
            rest = rest[4 * count :]
        return found

    def decode(self, ids: Sequence[int], skip: bool) -> str:
        """The text of tokens."""
        job = {"ids": list(map(int, ids)), "skip": skip, "size": 1000 * len(ids)}
        found: str = self.ask(job, SECONDS)["text"]
        return found

    def ask(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a job; a `Refusal` where there is none in time."""
        failed = f"The tokenizer of '{self.source}' fails"
        with self.lock:
            try:
                self.begin(seconds)
                said = self.exchange({**job, "seconds": seconds}, seconds)
            except BaseException as failure:  # also Ctrl-C, after which nobody waits for the answer
                self.close()
                if isinstance(failure, TimeoutError):
                    why = f"a text took it more than {seconds:.0f} s"
                elif isinstance(failure, OSError | EOFError):
                    why = "a text took it more memory than any needs"
                else:
                    raise
                raise Refusal(f"{failed}: {why}; use another text, or {TOKENIZER_REMEDY}.") from None
        if "error" in said:
            raise Refusal(f"{failed} ({said['error']}); use another text, or {TOKENIZER_REMEDY}.")
        return said

    def begin(self, seconds: float) -> None:
        """Starts the process and lets it load the tokenizer, where it does not run."""
        if self.channel is not None:
            return
        self.channel, theirs = socket.socketpair()
        command = [sys.executable, "-I", "-B", tokenizer_process.__file__]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        env = {**kept, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
        with theirs:
            self.program = subprocess.Popen(command, stdin=theirs, env=env, **quiet)  # type: ignore[call-overload]
        weakref.finalize(self, end_program, self.program, self.channel)
        path = [entry for entry in sys.path if entry]
        job = {"json": self.text, "path": path, "size": len(self.text), "seconds": seconds}
        said = self.exchange(job, seconds)
        if "error" in said:
            self.close()
            raise Refusal(
                f"The tokenizer of '{self.source}' cannot be loaded ({said['error']}); {TOKENIZER_REMEDY}."
            )

    def exchange(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Sends a job and waits for its answer until the deadline, with a `TimeoutError`."""
        assert self.channel is not None
        deadline = time.monotonic() + seconds
        data = json.dumps(job).encode()
        self.channel.settimeout(seconds)
        self.channel.sendall(struct.pack("<Q", len(data)) + data)
        (length,) = struct.unpack("<Q", self.receive(8, deadline))
        found: dict[str, Any] = json.loads(self.receive(length, deadline))
        if "counts" in found:
            (length,) = struct.unpack("<Q", self.receive(8, deadline))
            found["numbers"] = self.receive(length, deadline)
        return found

    def receive(self, count: int, deadline: float) -> bytes:
        assert self.channel is not None
        parts = []
        while count:
            self.channel.settimeout(max(0.001, deadline - time.monotonic()))
            part = self.channel.recv(min(count, 2**20))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Ends the process."""
        if self.program is not None and self.channel is not None:
            end_program(self.program, self.channel)
        self.program = self.channel = None


def end_program(program: subprocess.Popen[bytes], channel: socket.socket) -> None:
    channel.close()
    program.kill()
    program.wait()


class Backend:
    """Stands for a loaded backend of transformers' tokenizers: what reads or writes text happens in the
    process, all else in the one that stands behind it."""

    def __init__(self, backend: Any, source: str) -> None:
        vars(self).update(_backend=backend, _process=Guarded(backend.to_str(), source))

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_backend"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._backend, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Backend:
        return self

    def encode_batch(
        self, texts: Sequence[str], add_special_tokens: bool = True, is_pretokenized: bool = False
    ) -> list[Encoded]:
        """The tokens of each text; words, and what fills up or cuts off, are left to ordinary tokenizers."""
        if is_pretokenized or self._backend.truncation or self._backend.padding:
            raise Refusal("This tokenizer only reads whole texts; use a model with an ordinary one.")
        found: list[Encoded] = self._process.encode(texts, add_special_tokens)
        return found

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        """The text of tokens."""
        many = ids if isinstance(ids, Sequence) else [ids]
        found: str = self._process.decode(many, skip_special_tokens)
        return found
