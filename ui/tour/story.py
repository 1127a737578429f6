"""The text of the tour: every step and every sentence as data, for readers who never heard of pruning. Pure.

Each sentence must be easy to read: a test counts words and syllables. `step_sentences` fills in the names in
braces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Stage = Literal["before", "during", "after"]


@dataclass(frozen=True)
class TourStep:
    """One step of the tour: one idea, on the tab that shows it.

    `before`, `during` and `after` are its sentences in the three stages of its job. `picture` says what its
    picture shows, and `onward` is the label of the button to the next step.
    """

    name: str
    tab: str
    title: str
    before: tuple[str, ...]
    during: tuple[str, ...]
    after: tuple[str, ...]
    picture: str
    onward: str


STEPS = (
    TourStep(
        "model",
        "load",
        "A language model",
        ("A language model guesses the next word of a text.",),
        (
            "A language model guesses the next word of a text.",
            "It is a tall stack of layers, and each layer is full of numbers.",
            "We are opening a small one that is real.",
        ),
        (
            "A language model guesses the next word of a text.",
            "It is a tall stack of layers, and each layer is full of numbers.",
            "This one has {layers} layers and {parameters} numbers in all.",
            "That is a lot to store and to run, so we will make it smaller.",
        ),
        "Each bar is a layer. Words go in on the left, and the next word comes out on the right.",
        "Watch it read",
    ),
    TourStep(
        "matter",
        "analyse",
        "What matters",
        ("First we must know which parts it needs most.",),
        (
            "Now the model reads a few pages.",
            "We watch how much each part adds to what comes out.",
            "The squares fill up while it reads.",
        ),
        (
            "The model has read {tokens} bits of text, and we kept watch.",
            "The strong squares matter most, and the pale ones do little.",
            "The pale ones are what we can take out.",
        ),
        "Each column is a layer, and each square is one of its heads: a part that looks back at past words.",
        "Choose how small",
    ),
    TourStep(
        "small",
        "tune",
        "How small",
        ("One dial says how much to take out of the layers.",),
        ("One dial says how much to take out of the layers.",),
        (
            "One dial says how much to take out of the layers.",
            "It now says {share}.",
            "{spread}",
            "You can turn the dial below, or just go on.",
        ),
        "Each bar is a layer. The full part stays, and the striped part goes.",
        "Cut it",
    ),
    TourStep(
        "cut",
        "compare",
        "The cut",
        ("The parts are cut out for real.",),
        (
            "Now the parts are cut out for real, layer by layer.",
            "Then both models read new pages and write a few words.",
            "This takes about a minute or two.",
        ),
        (
            "It is done: {heads} of {all_heads} and {channels} of {all_channels} channels are gone.",
            "A channel is a small gate that opens for some words.",
            "{spread_cut}",
            "{mended}",
        ),
        "Each column is a layer. Full squares are heads that stayed, and crossed ones were cut. "
        "The bars show how much of its channels is left.",
        "See what it cost",
    ),
    TourStep(
        "cost",
        "compare",
        "What it cost",
        ("Here is what the cut saved, and what it cost.",),
        ("Here is what the cut saved, and what it cost.",),
        (
            "The model is now {smaller} smaller: it has {after} numbers left.",
            "We gave both models pages that they had not seen.",
            "The old one was as unsure as if it had to pick each word from {dense}.",
            "The new one is as unsure as if it had to pick from {pruned}.",
            "{verdict}",
            "Look at what both wrote, and judge for yourself.",
        ),
        "Less is better in both. The striped part is what was cut, or what was lost.",
        "Done",
    ),
)

SPREAD_PLANNED = (
    "The most would go from layer {most}, and the least from layer {least}.",
    "Each layer would lose the same.",
)
SPREAD_CUT = ("Layer {most} lost the most, and layer {least} lost the least.", "Each layer lost the same.")
MENDED = "The parts that stayed were changed a bit to make up for the loss."
BARE = "The parts that stayed were left as they were."
# (largest factor of perplexity, what it means), in ascending order.
VERDICTS = (
    (1.1, "So it reads almost as well as before."),
    (1.5, "So it reads a bit worse, but still quite well."),
    (3.0, "So it reads a good deal worse, and that is the price of the cut."),
    (float("inf"), "So it was hurt badly, and a smaller cut would be wise."),
)
LOST = "So neither of the two can read this text."
SIZE, DOUBT = "Numbers in the model", "Words to pick from"
TRY_AGAIN = "Try again"


def verdict_words(factor: float) -> str:
    """Return what a perplexity means that is `factor` times the one before; NaN where both are infinite."""
    return next((words for limit, words in VERDICTS if factor <= limit), LOST)


def step_sentences(step: TourStep, stage: Stage, facts: Mapping[str, str]) -> list[str]:
    """Return the sentences of a step at this stage, with the facts filled in."""
    sentences: tuple[str, ...] = getattr(step, stage)
    return [sentence.format_map(facts) for sentence in sentences]
