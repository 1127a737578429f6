"""Make a tokenizer that puts <bos> before every text, and a tiny Gemma that has learned to rely on it."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from slimllm.models.loading import Subject, make_subject
from tests.support.tiny_models import tiny_config

BOS = 256
SENTENCE = "The sea was calm. "
LEARNED = " sea was calm. The "


def begun_tokenizer(template: str = "<bos> $A", *more: str) -> Any:
    """Return a tokenizer with one token per byte, then <bos>, then `more` special tokens.

    It encodes a text as the template says.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<bos>", *more]
    vocab = {token: index for index, token in enumerate([*alphabet, *special])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(special)
    made.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, vocab[token]) for token in special]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<bos>")


def begun_subject(steps: int = 200) -> Subject:
    """Return a tiny Gemma 3 that was trained for so many steps.

    After <bos> it continues a sentence; without <bos> its predictions are random.
    """
    tokenizer, length, rows = begun_tokenizer(), 24, 8
    kinds = ["sliding_attention", "full_attention"]
    changes = {"vocab_size": BOS + 1, "bos_token_id": BOS, "num_hidden_layers": 2, "layer_types": kinds}
    config = tiny_config("gemma3_text", initializer_range=0.02, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    text = torch.tensor(tokenizer(SENTENCE * 4, add_special_tokens=False).input_ids)
    random = torch.Generator().manual_seed(1)
    learner = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(steps):
        learner.param_groups[0]["lr"] = 0.01 * (1 - step / steps)
        starts = torch.randint(0, len(text) - length, (rows,), generator=random)
        plain = torch.stack([text[start : start + length] for start in starts.tolist()])
        begun = torch.cat((torch.full((rows, 1), BOS), plain[:, :-1]), 1)
        noise = torch.randint(0, BOS, (rows, length - 1), generator=random)
        logits = model(input_ids=torch.cat((begun, plain)), use_cache=False).logits[:, :-1]
        wanted = torch.cat((begun[:, 1:], noise))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        learner.zero_grad()
        loss.backward()
        learner.step()
    return make_subject("begun", model, tokenizer)
