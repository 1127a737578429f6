"""The program of the process in which a tokenizer is used that may take endless time or memory. It is started
by `tokenizer_guard`, which ends it at a deadline, and imports nothing of this package.

Frames are eight bytes of length and a JSON object, over the socket that is its standard input. The first one
brings the text of a tokenizer.json; each further one is answered with a text, with why there is none, or with
`counts` of tokens, after which the tokens come as a frame of numbers of four bytes.
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

MEMORY = 2 * 2**30  # bytes of addresses, and so many more for every byte of a text
MEMORY_PER_BYTE = 128
GROWTH, SOME = 16, 10_000  # tokens that a letter, and a text, may become at most


def receive_frame(channel: socket.socket) -> Any:
    """The next frame; None at the end."""
    head = receive_exactly(channel, 8)
    return json.loads(receive_exactly(channel, struct.unpack("<Q", head)[0])) if head else None


def receive_exactly(channel: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = channel.recv(min(count, 2**20))
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def send_frame(channel: socket.socket, data: bytes) -> None:
    channel.sendall(struct.pack("<Q", len(data)))
    channel.sendall(data)


def limit_process(size: int, seconds: float) -> None:
    """Limits what one answer may take. The processor's time is for the case that nobody is left to end this
    process."""
    # Windows lacks it, where this module can be imported all the same.
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY + MEMORY_PER_BYTE * size, resource.RLIM_INFINITY))
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 5, resource.RLIM_INFINITY))


def encode_texts(tokenizer: Any, texts: list[str], special: bool) -> tuple[list[int], array[int]]:
    """How many tokens every text has, and of every text the ids of its tokens, whether each is a special one,
    and where each begins and ends; a `ValueError` where they are far more than its letters."""
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
    """What a job asks for."""
    limit_process(job["size"], job["seconds"])
    if "texts" in job:
        counts, numbers = encode_texts(tokenizer, job["texts"], job["special"])
        return {"counts": counts, "numbers": numbers}
    text = tokenizer.decode(job["ids"], skip_special_tokens=job["skip"])
    if len(text) > 1000 * len(job["ids"]) + SOME:
        raise ValueError(f"it makes {len(text):,} letters of {len(job['ids']):,} tokens")
    return {"text": text}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this ends it
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
        except BaseException as failure:  # a panic of the library derives from nothing narrower
            said = {"error": (str(failure).strip().splitlines() or [type(failure).__name__])[0][:200]}
        numbers = said.pop("numbers", None)
        send_frame(channel, json.dumps(said).encode())
        if numbers is not None:
            send_frame(channel, numbers.tobytes())
        job = receive_frame(channel)


if __name__ == "__main__":
    main()
