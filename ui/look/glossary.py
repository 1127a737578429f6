"""List the terms of the field in plain words, as data, for all explanations on the page. Pure.

`assets/scripts/glossary.js` marks the first use of each term in every panel. A pointer or the keyboard focus
on it shows its sentence, and screen readers read it out. Every sentence must be easy to read; a test checks
this.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A term of the field: all forms in which the page uses it, and what it means."""

    name: str
    forms: tuple[str, ...]
    words: str


def make_term(forms: str, words: str) -> Term:
    """Return a term from its forms, separated by bars; the first form is its name."""
    every = tuple(forms.split("|"))
    return Term(every[0], every, words)


TERMS = (
    # what a model is made of
    make_term("Layer|Layers", "One floor of the model. Text flows through all of them, from first to last."),
    make_term(
        "Head|Heads|Attention heads|Query head|Query heads",
        "A part of a layer that looks back at past words and picks what is of use.",
    ),
    make_term(
        "KV group|KV groups|Group of heads|Groups of heads",
        "A few heads that share one memory of past words. They can only be cut as one, or evenly.",
    ),
    make_term(
        "Channel|Channels|MLP channels|MLP channel",
        "A small gate in the second half of a layer. It opens for some words and adds what it knows.",
    ),
    make_term("MLP", "The second half of a layer: many channels that work on each word alone."),
    make_term("Attention", "The first half of a layer: its heads, which look back at past words."),
    make_term(
        "Value column|Value columns",
        "One number of what a head reads out of past words. Cutting it makes the head thinner.",
    ),
    make_term("Parameter|Parameters", "A number that the model has learned. They are what takes up space."),
    make_term("Embeddings|Embedding", "The tables that turn words into numbers and back."),
    make_term("Norm|Norms", "A small step that keeps the size of the numbers in a layer steady."),
    make_term("Token|Tokens", "A word or a piece of one. Models read and write in these."),
    make_term("Decoder|Decoder parameters", "All the layers, without the tables for words in and out."),
    make_term("Dense|Dense model", "The whole model, before a thing was cut."),
    make_term(
        "KV cache",
        "What the model keeps in mind of the text so far. It grows with each word and takes up memory.",
    ),
    make_term("FLOPs|FLOPs per token", "How many sums the model must do for one piece of a word."),
    # how importance is found
    make_term(
        "Pruning|Prune|Pruned|Prunes",
        "To cut parts out of a model for good, so that it gets smaller.",
    ),
    make_term("Sparsity", "The share that is cut away: 20 % means that a fifth is gone."),
    make_term("Calibration", "The text that the model reads so that we can see which parts matter."),
    make_term("Sample|Samples", "One piece of text that the model reads."),
    make_term("Score|Scores", "How much a head or a channel matters. High ones are kept."),
    make_term(
        "Cosine",
        "How much the same way two lists of numbers point: 1 is the same way, 0 is not at all alike.",
    ),
    make_term(
        "PCA|PCA spectrum|Spectrum|Principal components",
        "The main ways in which the output of a layer moves, the strongest first.",
    ),
    make_term(
        "Greedy search|Swap|Swaps|Swapped",
        "We trade one kept head for one that was cut, as long as each trade makes things better.",
    ),
    make_term(
        "Rank agreement|Rank correlation|Spearman",
        "Do two lists put things in the same order? 1 is the same, 0 is by chance, −1 is upside down.",
    ),
    make_term("Gradient|Gradients", "Which way, and how much, the loss would move if a number were changed."),
    make_term("Gate|Gates", "A switch on a part that is slowly closed to see if it is missed."),
    make_term("Method", "The rule that says which parts matter most."),
    # how a cut is planned and mended
    make_term(
        "Plan", "How many heads and channels each layer keeps. It says all that is needed to cut again."
    ),
    make_term("Protect|Protected", "A part that you keep for good: no plan may cut it."),
    make_term("Force out|Forced out", "A part that you want gone: every plan leaves it out."),
    make_term(
        "Allocation|Allocations|Where to cut",
        "How the cut is shared out: some layers lose more than others.",
    ),
    make_term(
        "Recovery|Recoveries|Recovered",
        "The parts that stay are changed a bit, so that they make up for those that were cut.",
    ),
    make_term("Regression", "Mends each output with one factor that fits best."),
    make_term("Least squares|Least-squares", "Mends by solving anew for all the numbers that stay."),
    make_term(
        "Predicted error|Error per layer|Relative error",
        "How far off a layer will be on text it did not learn.",
    ),
    make_term("Measured error", "How far the output of a layer was off once the cut was made."),
    make_term("Seed", "The number that chance starts from. The same one gives the same result."),
    make_term(
        "Fine-tuning|Fine-tuned|LoRA", "Some more training after the cut, on a small set of new numbers."
    ),
    # how it is judged
    make_term(
        "Perplexity",
        "From how many words the model seems to pick each next one. Lower is better.",
    ),
    make_term("Excess loss|Loss|Nats per token", "How much worse the model guesses each piece of a word."),
    make_term("Window|Windows", "How many pieces of words the model sees at once while it is tested."),
    make_term("Temperature", "How bold the model is when it picks words: 0 takes the best guess each time."),
    make_term("Prefill", "Reading your prompt, before the first new word comes."),
    make_term("Decode|Decoding", "Writing new words, one by one."),
    make_term("Pareto front|Best at its size", "The tries that no other one beats in both size and quality."),
    # how it is kept
    make_term("Checkpoint|Checkpoints", "The files that hold a model."),
    make_term("Native", "Kept as a plain model that other programs can open as it is."),
    make_term("Shim", "Kept with a short piece of code that tells other programs how wide each layer is."),
    make_term("Padded", "Cut parts are filled with zeros. It opens with ease, but saves no space."),
    make_term("bfloat16|float16|float32", "How each number is stored: with 16 or with 32 bits."),
)  # fmt: skip


def as_data() -> list[dict[str, object]]:
    """Return the list in the form that the browser's script needs."""
    return [{"name": t.name, "forms": list(t.forms), "words": t.words} for t in TERMS]
