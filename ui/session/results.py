"""What came of the plans of a session: comparisons, answers, the table of methods, fine-tuning, and the
models themselves. No Gradio."""

from __future__ import annotations

from dataclasses import dataclass, field

from slimllm.models.loading import Pruned
from ui.facts.comparison import Answer, Comparison
from ui.facts.runs import Entry
from ui.session.finetuning_state import Polished

# Pruned models stay in memory for the latest runs only.
KEPT_WEIGHTS = 2


@dataclass(eq=False)
class Results:
    """The present comparison and one that is being filled, the answers to its prompts, a row for each method
    that was tried, the latest fine-tuning, the models of the latest runs by run and column, and the run that
    the next one starts from."""

    comparison: Comparison | None = None
    pending: Comparison | None = None
    answers: list[Answer] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    polished: Polished | None = None
    weights: dict[int, dict[str, Pruned]] = field(default_factory=dict)
    parent: int | None = None

    def put_entry(self, entry: Entry) -> None:
        """Add a row to the table of methods; the same method on the same budget has one row."""
        self.entries = [*(old for old in self.entries if old.place != entry.place), entry]

    def keep_models(self, number: int, models: dict[str, Pruned]) -> None:
        """Keep the models of a run in memory; those of older runs give way."""
        self.weights[number] = models
        for old in sorted(self.weights)[:-KEPT_WEIGHTS]:
            del self.weights[old]
        self.parent = number

    def drop_models(self) -> None:
        """Forget what was made of a model that gives way to another one."""
        self.comparison, self.answers = None, []
        self.weights.clear()

    def drop_entries(self) -> None:
        """Forget what was tried with the analyses that are forgotten."""
        self.entries, self.parent = [], None
