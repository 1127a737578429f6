"""Perplexity, generation and speed of a model, whose weights stay unchanged."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from slimllm.calibration.documents import replace_surrogates
from slimllm.core.devices import kind_of
from slimllm.core.errors import Refusal
from slimllm.core.types import Progress, check_seed
from slimllm.evaluation import significance
from slimllm.models.loading import Subject
from slimllm.tokenizers.text_start import begin_ids, cut_windows

# Logits, with one row per token, are the largest tensor of an evaluation.
TOKENS_PER_BATCH = 1024


@dataclass(frozen=True)
class Perplexity:
    """The perplexity exp(nll) of a model on a text.

    `nll` is the mean negative log-likelihood in nats over `tokens` predicted tokens in `windows` windows of
    `window` tokens. Each window begins with the token called `begins_with`, if the tokenizer has one.
    `losses` holds the mean of each of at most 64 stretches of the text, in order.
    """

    perplexity: float
    nll: float
    tokens: int
    windows: int
    window: int
    begins_with: str = ""
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Speed:
    """Tokens read per second (prefill) and written per second (decode) in every round, at batch size 1.

    `length` is the number of tokens in the prompt, and `new_tokens` the number written.
    """

    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    length: int
    new_tokens: int

    @property
    def prefill_tokens_per_second(self) -> float:
        """The median over all rounds."""
        return statistics.median(self.prefill)

    @property
    def decode_tokens_per_second(self) -> float:
        """The median over all rounds."""
        return statistics.median(self.decode)


@dataclass(frozen=True)
class TokenLosses:
    """A model's predictions in a passage, with one entry for each of the n predicted tokens.

    Tensors are on the CPU. `losses` (n,) are in nats, `likeliest` (n,) are the most likely tokens, and
    `certainty` (n,) are their probabilities. The first token of a passage has no entry unless the tokenizer
    puts a token before it.
    """

    losses: Tensor
    likeliest: Tensor
    certainty: Tensor


def measure_perplexity(
    subject: Subject, tokens: Tensor, window: int = 128
) -> Generator[Progress, None, Perplexity]:
    """Measure perplexity over consecutive windows of token ids (n,) that do not overlap.

    Each window begins as the model's tokenizer begins a text, and the beginning counts towards its length.
    The beginning is not predicted, but the first token after it is. Without a beginning, the first token of a
    window is not predicted. The negative log-likelihood is summed over tokens, never averaged over windows.
    Tokens at the end that do not fill a window are ignored. Raise `Refusal` if the text does not fill one
    window.
    """
    first, most = subject.beginning.predicted_from, subject.shape.max_length
    if not first < window <= most:
        raise Refusal(f"A window of {window} tokens is not possible; use {first + 1} to {most}.")
    rows = cut_windows(tokens, window, subject.beginning)
    count, predicted = len(rows), window - first
    if not count:
        raise Refusal(
            f"The text has {len(tokens)} tokens, fewer than one window of {window}; use a longer text "
            "or a smaller --window."
        )
    total, done = 0.0, 0
    losses: list[float] = []
    for batch in rows.split(max(1, TOKENS_PER_BATCH // window)):
        loss, each = window_losses(subject, batch)
        total += loss
        losses += (each / predicted).tolist()
        done += len(batch)
        so_far = math.exp(min(total / (done * predicted), 700))
        yield Progress("evaluate", done, count, f"Perplexity {so_far:.2f} after {done} of {count} windows")
    nll = total / (count * predicted)
    value, begins_with = math.exp(nll) if nll < 700 else math.inf, subject.beginning.words
    parts = significance.part_means(losses)
    return Perplexity(value, nll, count * predicted, count, window, begins_with, parts)


def window_loss(subject: Subject, batch: Tensor) -> float:
    """Return the summed negative log-likelihood in nats of windows (b, w) with their beginning."""
    return window_losses(subject, batch)[0]


@torch.inference_mode()
def window_losses(subject: Subject, batch: Tensor) -> tuple[float, Tensor]:
    """Return the summed negative log-likelihood of a batch of windows (b, w), and that of each one (b,).

    Both are in nats and computed in float32; windows include their beginning.
    """
    batch, first = batch.to(subject.device), subject.beginning.predicted_from
    logits = subject.model(input_ids=batch, use_cache=False).logits[:, first - 1 : -1]  # (b, w−first, vocab)
    # (b · (w − first), vocab) and (b · (w − first),)
    logs, next_ids = logits.flatten(0, 1).float().log_softmax(-1), batch[:, first:].flatten()
    each = -logs.gather(1, next_ids[:, None]).view(len(batch), -1).sum(1)  # (b, w − first) → (b,)
    return torch.nn.functional.nll_loss(logs, next_ids, reduction="sum").item(), each.cpu()


def token_losses(logits: Tensor, ids: Tensor, first: int = 1) -> TokenLosses:
    """Return the predictions of token ids (n,) from position `first` on by logits (n, vocab), in float32.

    Row i of the logits predicts token i + 1. If logits are NaN, the loss is infinite and the certainty 0.
    """
    logs = logits[first - 1 : -1].float().log_softmax(-1)  # (n − first, vocab)
    losses = -logs.gather(1, ids[first:, None].to(logs.device))[:, 0]  # (n − first,)
    best, likeliest = logs.max(-1)  # (n − first,) each
    return TokenLosses(
        losses.nan_to_num(nan=math.inf, posinf=math.inf).cpu(), likeliest.cpu(), best.exp().nan_to_num().cpu()
    )


@torch.inference_mode()
def read_passage(subject: Subject, ids: Tensor) -> TokenLosses:
    """Return the predictions of a passage's token ids (n,), read at once after the tokenizer's beginning.

    Raise `Refusal` if the passage is too short or too long.
    """
    begun, first = begin_ids(ids, subject.beginning), subject.beginning.predicted_from
    if len(begun) <= first:
        raise Refusal("The passage is too short; give at least a few words.")
    if len(begun) > subject.shape.max_length:
        raise Refusal(
            f"The passage has {len(begun):,} tokens, more than this model reads at once "
            f"({subject.shape.max_length:,}); use a shorter one."
        )
    logits = subject.model(input_ids=begun[None].to(subject.device), use_cache=False).logits[0]
    return token_losses(logits, begun, first)


def generate_text(
    subject: Subject,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    use_cache: bool = True,
) -> Iterator[str]:
    """Yield the continuation of a prompt, one piece per token; a piece is empty inside a character.

    Generation is greedy at temperature 0, else sampled with the seed. The prompt comes after the tokenizer's
    beginning. It ends at the end-of-text token, after `max_new_tokens`, or at the model's longest input.
    Raise `Refusal` if the settings are impossible, or if the prompt is empty or too long.
    """
    if max_new_tokens < 1 or not math.isfinite(temperature) or temperature < 0:
        raise Refusal("Generation needs at least 1 new token and a temperature of 0 or more.")
    plain = subject.tokenizer(
        replace_surrogates(prompt), add_special_tokens=False, return_tensors="pt"
    ).input_ids.long()
    if not plain.numel():
        raise Refusal("The prompt is empty; write a few words to continue.")
    ids = begin_ids(plain[0], subject.beginning)[None]  # (1, n)
    room = subject.shape.max_length - ids.shape[1]
    if room < 1:
        raise Refusal(
            f"The prompt has {ids.shape[1]} tokens, as many as the model can read; use a shorter one."
        )
    written: list[int] = []
    text = ""
    for token in continue_ids(subject, ids, min(max_new_tokens, room), temperature, seed, use_cache):
        written.append(token)
        longer = subject.tokenizer.decode(written, skip_special_tokens=True)
        # A character may take several tokens.
        if longer.endswith("\ufffd"):
            longer = text
        yield longer[len(text) :]
        text = longer


@torch.inference_mode()
def next_logits(
    subject: Subject, ids: Tensor, cache: object | None, use_cache: bool
) -> tuple[Tensor, object | None]:
    """Return the logits (vocab,) of the next token after ids (1, n), and the cache to continue from."""
    known = {} if cache is None else {"cache": cache}
    output = subject.model(input_ids=ids, use_cache=use_cache, logits_to_keep=1, **known)
    return output.logits[0, -1].float(), output.cache if use_cache else None


def continue_ids(
    subject: Subject, ids: Tensor, limit: int, temperature: float, seed: int, use_cache: bool
) -> Iterator[int]:
    """Yield the ids of the tokens that follow ids (1, n), at most `limit` of them."""
    ends = subject.model.generation_config.eos_token_id
    stop = set(ends if isinstance(ends, list) else [ends])
    random = torch.Generator().manual_seed(check_seed(seed))
    ids, cache, fresh = ids.to(subject.device), None, ids.to(subject.device)
    for _ in range(limit):
        logits, cache = next_logits(subject, fresh if use_cache else ids, cache, use_cache)
        token = pick_token(logits.cpu(), temperature, random)
        if token in stop:
            return
        yield token
        fresh = torch.tensor([[token]], device=subject.device)
        ids = torch.cat((ids, fresh), dim=1)


def pick_token(logits: Tensor, temperature: float, random: torch.Generator) -> int:
    """Return the most likely token by logits (vocab,) at temperature 0, else a random one."""
    if temperature == 0 or not torch.isfinite(logits).all():
        return int(logits.nan_to_num(neginf=-1e30).argmax())
    # At lower temperatures, the most likely token is drawn anyway.
    heated = (logits - logits.max()) / max(temperature, 1e-6)
    return int(torch.multinomial(heated.softmax(0), 1, generator=random))


def measure_speed(
    subject: Subject, *, length: int = 128, new_tokens: int = 32, repeats: int = significance.FEWEST
) -> Generator[Progress, None, Speed]:
    """Measure prefill and decode speed in tokens per second at batch size 1, after one warm-up round."""
    length = min(length, subject.shape.max_length - new_tokens)
    ids = begin_ids(torch.arange(length) % subject.shape.vocab, subject.beginning)[None, :length]
    ids = ids.to(subject.device)
    prefill, decode = [], []
    for i in range(repeats + 1):
        start = read_clock(subject)
        logits, cache = next_logits(subject, ids, None, True)
        middle = read_clock(subject)
        for _ in range(new_tokens):
            logits, cache = next_logits(subject, logits.argmax().view(1, 1), cache, True)
        # The first round is the warm-up.
        if i:
            prefill.append(length / (middle - start))
            decode.append(new_tokens / (read_clock(subject) - middle))
        yield Progress("speed", i, repeats, f"Round {i} of {repeats}")
    return Speed(tuple(prefill), tuple(decode), length, new_tokens)


def measure_in_turns(
    speeds: Mapping[str, Generator[Progress, None, Speed]],
) -> Generator[Progress, None, dict[str, Speed]]:
    """Measure the speeds of several models, one round of each in turn, and return them by name.

    A busy moment of the machine then slows all models equally.
    """
    waiting, found = dict(speeds), {}
    while waiting:
        for name, steps in list(waiting.items()):
            try:
                yield next(steps)
            except StopIteration as end:
                del waiting[name]
                found[name] = end.value
    return {name: found[name] for name in speeds}


def read_clock(subject: Subject) -> float:
    """Return the time in seconds, after the device has finished its work."""
    kind_of(subject.device).wait_for(subject.device)
    return time.perf_counter()


def timed_generation(
    subject: Subject, prompt: str, say: Callable[[str], object] = str, **settings: float
) -> tuple[str, int, float]:
    """Return (text, tokens written, tokens per second) of one generation, and pass each piece to `say`."""
    start, pieces = time.perf_counter(), []
    for piece in generate_text(subject, prompt, **settings):  # type: ignore[arg-type]
        say(piece)
        pieces.append(piece)
    return "".join(pieces), len(pieces), len(pieces) / max(time.perf_counter() - start, 1e-9)
