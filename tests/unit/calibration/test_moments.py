"""Streaming through single layers is the model's own forward, and the moments are those of the
activations."""

from __future__ import annotations

import pytest
import torch

from slimllm.calibration import moments
from slimllm.models.families import linear_of
from slimllm.models.loading import Subject
from tests.support.tiny_models import tiny_subject

TOKENS = torch.randint(0, 250, (7, 33), generator=torch.Generator().manual_seed(3))


def activations(subject: Subject, names: dict[str, str]) -> dict[tuple[int, str], torch.Tensor]:
    """Inputs of the named linears of every layer over all tokens (t, d), kept whole: the naive way."""
    found: dict[tuple[int, str], torch.Tensor] = {}
    handles = []
    for i, layer in enumerate(subject.layers):
        for key, name in names.items():

            def keep(_: object, inputs: tuple[torch.Tensor, ...], place: tuple[int, str] = (i, key)) -> None:
                found[place] = inputs[0].flatten(0, -2).double()

            handles.append(linear_of(layer, name).register_forward_pre_hook(keep))
    with torch.inference_mode():
        subject.model(input_ids=TOKENS, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def test_replay_layer_by_layer_equals_the_models_own_forward(any_subject: Subject) -> None:
    stream = moments.embed_tokens(any_subject, TOKENS)
    for index, layer in enumerate(any_subject.layers):
        moments.advance_stream(layer, stream, index)
    seen: list[torch.Tensor] = []
    handle = any_subject.layers[-1].register_forward_hook(
        lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.inference_mode():
        any_subject.model(input_ids=TOKENS, use_cache=False)
    handle.remove()
    torch.testing.assert_close(torch.cat(stream.hidden), seen[0], atol=1e-5, rtol=1e-5)


def test_oracle_moments_equal_those_of_the_activations(any_subject: Subject) -> None:
    family = any_subject.family
    names = {
        "attention": family.attention.reader,
        "mlp": family.mlp.reader,
        "input": next(iter(family.mlp.writers)),
    }
    naive = activations(any_subject, names)
    stream = moments.embed_tokens(any_subject, TOKENS)
    for index in range(3):
        found = moments.collect_moments(any_subject, stream, index)
        for key, got in (("attention", found.attention), ("mlp", found.mlp)):
            x = naive[index, key]
            assert got.tokens == len(x) == TOKENS.numel()
            torch.testing.assert_close(got.mean.double(), x.mean(0), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(got.gram.double(), x.T @ x / len(x), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            found.mlp_input_sq.double(), naive[index, "input"].square().mean(0), atol=1e-5, rtol=1e-4
        )


def test_oracle_layer_cosine_is_the_mean_over_tokens() -> None:
    subject = tiny_subject("llama")
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    handles = [
        layer.register_forward_hook(lambda _, inputs, output: pairs.append((inputs[0], output)))
        for layer in subject.layers
    ]
    with torch.inference_mode():
        subject.model(input_ids=TOKENS, use_cache=False)
    for handle in handles:
        handle.remove()
    stream = moments.embed_tokens(subject, TOKENS)
    for index, (before, after) in enumerate(pairs):
        a, b = before.double().flatten(0, 1), after.double().flatten(0, 1)
        naive = ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean()
        assert moments.collect_moments(subject, stream, index).cosine == pytest.approx(float(naive), abs=1e-6)


@pytest.mark.parametrize("tokens_per_batch", [33, 99, 10_000])
def test_the_batch_size_does_not_matter(tokens_per_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_subject("gemma3_text")
    monkeypatch.setattr(moments, "TOKENS_PER_BATCH", tokens_per_batch)
    stream = moments.embed_tokens(subject, TOKENS)
    found = moments.collect_moments(subject, stream, 0)
    whole = activations(subject, {"mlp": subject.family.mlp.reader})[0, "mlp"]
    torch.testing.assert_close(found.mlp.gram.double(), whole.T @ whole / len(whole), atol=1e-4, rtol=1e-4)


def test_two_halves_add_up_to_the_whole() -> None:
    subject = tiny_subject("qwen2")
    halves = [
        moments.collect_moments(subject, moments.embed_tokens(subject, part_), 0)
        for part_ in TOKENS.split([3, 4])
    ]
    whole = moments.collect_moments(subject, moments.embed_tokens(subject, TOKENS), 0)
    both = halves[0] + halves[1]
    assert both.mlp.tokens == whole.mlp.tokens
    torch.testing.assert_close(both.mlp.gram, whole.mlp.gram, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both.attention.mean, whole.attention.mean, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(both.mlp_input_sq, whole.mlp_input_sq, atol=1e-6, rtol=1e-4)
    assert both.cosine == pytest.approx(whole.cosine, abs=1e-6)


def test_no_hook_is_left_behind(any_subject: Subject) -> None:
    stream = moments.embed_tokens(any_subject, TOKENS)
    moments.collect_moments(any_subject, stream, 0)
    for module in any_subject.model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
