"""Safe use of other people's tokenizers, whose patterns could take unlimited time or memory on some texts.

A tokenizer whose parts are all known (`tokenizer_rules`) is used directly. Any other is first tried in a
separate process, and afterwards runs only there, with a deadline for every text.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
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
# The seconds that a text may take, plus one for every `BYTES_PER_SECOND` bytes.
SECONDS = 10.0
BYTES_PER_SECOND = 50_000
# The version of the rules; results under other versions are not used.
RULES = 1
# For a tokenizer.json of more bytes, a successful check is remembered.
KEPT_FROM = 2 * file_limits.MIB
# The length in characters of each repeated sample.
RUN = 20_000
SAMPLE = "What remains must still say what the whole one said: 3 * 14 = 42."
SAMPLES = (
    SAMPLE,
    *(letter * RUN for letter in ("a", "A", "x", " ", "\n", "0", ".", "-", "é", "中", "\t", "_")),
    *((pair * RUN)[:RUN] for pair in ("ab", "a ", "a1", "0.", "\r\n", "Aa", "a-", "();")),
    "".join(f"b{letter * 3000}c " for letter in "axA0 .-é"),
    "".join(map(chr, range(32, 0x3000))),
)


def check_tokenizer(folder: Path, beside: Sequence[Mapping[str, Any]], source: str) -> None:
    """Raise `Refusal` if a folder's tokenizer.json has too large tables or takes too long on sample texts.

    `beside` are the objects in the other files that describe tokens. Only a tokenizer with unknown parts is
    tried on the samples.
    """
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
        # The texts in these settings become tokens too.
        words = [json.dumps(settings, ensure_ascii=False) for settings in beside]
        with contextlib.closing(Guarded(content.decode("utf-8-sig"), source)) as tried:
            found = tried.encode([*SAMPLES, *words], True, SECONDS)
            tried.decode(found[0].ids, False)
            tried.decode(list(range(min(1000, len(data["model"]["vocab"])))), False)
    if unknown or len(content) > KEPT_FROM:
        with contextlib.suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def guard_tokenizer(tokenizer: Any, source: str) -> Any:
    """Return the tokenizer, which runs in a separate process if any part of it is unknown."""
    backend = getattr(tokenizer, "_tokenizer", None)
    if backend is not None and unknown_parts(tokenizer_parts(backend)):
        tokenizer._tokenizer = Backend(backend, source)
    return tokenizer


def tokenizer_parts(backend: Any) -> dict[str, Any]:
    """Return the parts of a loaded tokenizer, without its tables, in the format of a tokenizer.json."""
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
    """The tokens of one text, with the attributes that transformers reads.

    `numbers` (n,) are the ids, `special` (n,) says whether each one is a special token, and `places` (2n,)
    holds for each one the positions of its first character and after its last.
    """

    numbers: memoryview
    special: memoryview
    places: memoryview
    n_sequences: int = 1
    overflowing: None = None

    @property
    def ids(self) -> list[int]:
        """The token ids."""
        return self.numbers.tolist()

    @property
    def special_tokens_mask(self) -> list[int]:
        """1 for every special token, else 0."""
        return self.special.tolist()

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """The positions of each token's first character and after its last."""
        return list(zip(self.places[::2].tolist(), self.places[1::2].tolist(), strict=True))

    @property
    def attention_mask(self) -> list[int]:
        """1 for every token."""
        return [1] * len(self.numbers)

    @property
    def type_ids(self) -> list[int]:
        """0 for every token."""
        return [0] * len(self.numbers)


class Guarded:
    """A tokenizer in a separate process, made from the text of a tokenizer.json.

    The process starts with the first text, and again after a text that ended it.
    """

    def __init__(self, text: str, source: str) -> None:
        self.text, self.source = text, source
        self.lock = threading.Lock()
        self.program: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None

    def encode(self, texts: Sequence[str], special: bool, seconds: float | None = None) -> list[Encoded]:
        """Return the tokens of each text.

        Raise `Refusal` if a text takes too much time or memory, or if the tokenizer fails.
        """
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        job = {"texts": list(texts), "special": special, "size": size}
        said = self.ask(job, seconds or SECONDS + size / BYTES_PER_SECOND)
        rest, found = memoryview(said["numbers"]).cast("I"), []
        for count in said["counts"]:
            found.append(Encoded(rest[:count], rest[count : 2 * count], rest[2 * count : 4 * count]))
            rest = rest[4 * count :]
        return found

    def decode(self, ids: Sequence[int], skip: bool) -> str:
        """Return the text of tokens; raise `Refusal` as `encode` does."""
        job = {"ids": list(map(int, ids)), "skip": skip, "size": 1000 * len(ids)}
        found: str = self.ask(job, SECONDS)["text"]
        return found

    def ask(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the answer to a job; raise `Refusal` if there is none within `seconds`."""
        failed = f"The tokenizer of '{self.source}' fails"
        with self.lock:
            try:
                self.begin(seconds)
                said = self.exchange({**job, "seconds": seconds}, seconds)
            except BaseException as failure:
                # The answer is not read any more, also after Ctrl-C.
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
        """Start the process and load the tokenizer in it, unless it is running."""
        if self.channel is not None:
            return
        # Windows has no such limits, and its processes take over no sockets.
        if importlib.util.find_spec("resource") is None:
            raise Refusal(
                f"The tokenizer of '{self.source}' has parts that may take any time or memory, and this "
                "system cannot limit them; open it on Linux or macOS, or use a model with an ordinary one."
            )
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
        """Send a job and return the answer; raise `TimeoutError` after `seconds`."""
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
        """Return the next `count` bytes; raise `EOFError` if the process has ended."""
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
        """End the process."""
        if self.program is not None and self.channel is not None:
            end_program(self.program, self.channel)
        self.program = self.channel = None


def end_program(program: subprocess.Popen[bytes], channel: socket.socket) -> None:
    """Close the channel and end the process."""
    channel.close()
    program.kill()
    program.wait()


class Backend:
    """A substitute for the backend of a transformers tokenizer.

    Texts are encoded and decoded in the separate process; everything else is the original backend's.
    """

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
        """Return the tokens of each text; raise `Refusal` for split words, padding and truncation."""
        if is_pretokenized or self._backend.truncation or self._backend.padding:
            raise Refusal("This tokenizer only reads whole texts; use a model with an ordinary one.")
        found: list[Encoded] = self._process.encode(texts, add_special_tokens)
        return found

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens."""
        many = ids if isinstance(ids, Sequence) else [ids]
        found: str = self._process.decode(many, skip_special_tokens)
        return found
