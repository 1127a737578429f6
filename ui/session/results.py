"""Hold the results of a session's plans: comparisons, answers, the table of methods, and models.

No Gradio.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from slimllm.models.loading import Pruned
from ui.facts.comparison import Answer, Comparison
from ui.facts.runs import Entry
from ui.session.finetuning_state import FineTuning

# Runs whose models stay in memory.
KEPT_WEIGHTS = 2


@dataclass(eq=False)
class Results:
    """The results of the plans of one session.

    `comparison` is the present comparison, `pending` one that is being filled, and `answers` holds the
    answers to the prompts. `entries` holds a row for each method that was tried. `finetuning` is the latest
    fine-tuning. `weights` holds the models of the latest runs by run number and column name. `parent` is the
    number of the run that the next run starts from.
    """

    comparison: Comparison | None = None
    pending: Comparison | None = None
    answers: list[Answer] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    finetuning: FineTuning | None = None
    weights: dict[int, dict[str, Pruned]] = field(default_factory=dict)
    parent: int | None = None

    def put_entry(self, entry: Entry) -> None:
        """Add a row to the table of methods.

        It replaces the row of the same method on the same budget.
        """
        self.entries = [*(old for old in self.entries if old.place != entry.place), entry]

    def keep_models(self, number: int, models: dict[str, Pruned]) -> None:
        """Keep the models of a run in memory, and make it the parent of the next run.

        Only the models of the latest KEPT_WEIGHTS runs stay.
        """
        self.weights[number] = models
        for old in sorted(self.weights)[:-KEPT_WEIGHTS]:
            del self.weights[old]
        self.parent = number

    def drop_models(self) -> None:
        """Forget the comparison, the answers and the pruned models of a model that is replaced."""
        self.comparison, self.answers = None, []
        self.weights.clear()

    def drop_entries(self) -> None:
        """Forget the table of methods and the parent, because their analyses are forgotten."""
        self.entries, self.parent = [], None
