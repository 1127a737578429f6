"""The program of the process that runs a tokenizer which could take unlimited time or memory.

`tokenizer_guard` starts it and ends it at a deadline; it imports nothing from this package. A frame consists
of its length in eight bytes and a JSON object, sent over the socket on standard input. The first frame holds
the text of a tokenizer.json. Each further one is answered with a text, with an error, or with `counts` of
tokens, which are followed by a frame of four-byte numbers.
"""

from __future__ import annotations

import itertools
import json
import signal
import socket
import struct
import sys
from array import array
from typing import Any

# The limit of the address space in bytes, plus `MEMORY_PER_BYTE` for every byte of a text.
MEMORY = 2 * 2**30
MEMORY_PER_BYTE = 128
# The most tokens per byte of a text, and the tokens allowed in addition.
GROWTH, SOME = 16, 10_000


def receive_frame(channel: socket.socket) -> Any:
    """Return the next frame, or None at the end."""
    head = receive_exactly(channel, 8)
    return json.loads(receive_exactly(channel, struct.unpack("<Q", head)[0])) if head else None


def receive_exactly(channel: socket.socket, count: int) -> bytes:
    """Return the next `count` bytes, or none at the end."""
    parts = []
    while count:
        part = channel.recv(min(count, 2**20))
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def send_frame(channel: socket.socket, data: bytes) -> None:
    """Send data as one frame."""
    channel.sendall(struct.pack("<Q", len(data)))
    channel.sendall(data)


def limit_process(size: int, seconds: float) -> None:
    """Limit the memory and CPU time of one answer.

    The limit on CPU time takes effect if no process is left to end this one.
    """
    # Windows lacks `resource`. It imports this module, but `Guarded` starts no process there.
    if sys.platform == "win32":
        raise NotImplementedError("no process has limits here")
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY + MEMORY_PER_BYTE * size, resource.RLIM_INFINITY))
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 5, resource.RLIM_INFINITY))


def encode_texts(tokenizer: Any, texts: list[str], special: bool) -> tuple[list[int], array[int]]:
    """Return how many tokens every text has, and the numbers of all tokens, text by text.

    The numbers of a text of n tokens are n ids, n marks of special tokens, and n pairs of positions. Raise
    `ValueError` if there are far more tokens than bytes.
    """
    counts, numbers = [], array("I")
    for text in texts:
        made = tokenizer.encode(text, add_special_tokens=special)
        counts.append(len(made))
        if len(made) > GROWTH * len(text.encode()) + SOME:
            raise ValueError(f"it makes {len(made):,} tokens of {len(text):,} letters")
        numbers.extend(made.ids)
        numbers.extend(made.special_tokens_mask)
        numbers.extend(itertools.chain.from_iterable(made.offsets))
    return counts, numbers


def answer_job(tokenizer: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a job; raise `ValueError` if it is far too long."""
    limit_process(job["size"], job["seconds"])
    if "texts" in job:
        counts, numbers = encode_texts(tokenizer, job["texts"], job["special"])
        return {"counts": counts, "numbers": numbers}
    text = tokenizer.decode(job["ids"], skip_special_tokens=job["skip"])
    if len(text) > 1000 * len(job["ids"]) + SOME:
        raise ValueError(f"it makes {len(text):,} letters of {len(job['ids']):,} tokens")
    return {"text": text}


def main() -> None:
    """Answer jobs until the channel closes."""
    # Only the process that started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=0)
    job = receive_frame(channel)
    sys.path[:] = job["path"]
    limit_process(job["size"], job["seconds"])
    from tokenizers import Tokenizer

    tokenizer = None
    while job:
        try:
            if tokenizer is None:
                tokenizer = Tokenizer.from_str(job["json"])
                tokenizer.no_padding()
                tokenizer.no_truncation()
                said: dict[str, Any] = {}
            else:
                said = answer_job(tokenizer, job)
        except BaseException as failure:
            # A panic of the library derives directly from BaseException.
            said = {"error": (str(failure).strip().splitlines() or [type(failure).__name__])[0][:200]}
        numbers = said.pop("numbers", None)
        send_frame(channel, json.dumps(said).encode())
        if numbers is not None:
            send_frame(channel, numbers.tobytes())
        job = receive_frame(channel)


if __name__ == "__main__":
    main()
