"""Hold the analyses of the loaded model: the present one, remembered ones, and one that is being made.

No Gradio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from slimllm.core.errors import Refusal
from slimllm.core.fingerprints import is_other
from slimllm.core.types import Analysis, Calibration, LayerAnalysis, Plan
from slimllm.methods.table import fill_options
from ui.facts.combinations import Source, are_comparable, source_of
from ui.facts.selection import Picked
from ui.look.formatting import method_title

# Each takes a few MB of memory.
KEPT_ANALYSES = 16


class Analyses:
    """All analyses of one model.

    `present` is the present analysis, and `second` another one that the maps show together with it.
    `remembered` holds earlier analyses by their method, options and calibration.

    `partial` holds the layers that the maps show, None for a layer that is not analysed yet. They belong to
    the present analysis, or to one that is being made. `made` is their method and calibration, and `training`
    holds the training steps of a method that trains.
    """

    def __init__(self) -> None:
        self.present: Analysis | None = None
        self.second: Analysis | None = None
        self.remembered: dict[Source, Analysis] = {}
        self.partial: list[LayerAnalysis | None] = []
        self.made: tuple[str, Calibration] | None = None
        self.training: list[dict[str, float]] = []

    def remember_analysis(self, analysis: Analysis) -> None:
        """Remember an analysis, so that its plans can be shown and pruned again.

        Only the latest KEPT_ANALYSES are remembered, and the present one.
        """
        source = source_of(analysis)
        self.remembered.pop(source, None)
        self.remembered[source] = analysis
        for old in list(self.remembered)[:-KEPT_ANALYSES]:
            if self.remembered[old] is not self.present:
                del self.remembered[old]

    def make_present(self, analysis: Analysis) -> None:
        """Make an analysis the present one.

        The second analysis stays only if it differs in one thing: the text, or the method with its options.
        """
        self.present, self.partial = analysis, list(analysis.layers)
        self.made = (analysis.method, analysis.calibration)
        if self.second is not None and not are_comparable(self.second, analysis):
            self.second = None

    def begin_filling(self, method: str, calibration: Calibration, layers: int) -> Callable[[], None]:
        """Clear the shown layers for an analysis that begins; return a function that restores them.

        `layers` is the number of layers of the model.
        """
        earlier = self.partial, self.made, self.training
        self.partial, self.made, self.training = [None] * layers, (method, calibration), []

        def bring_back() -> None:
            """Show the earlier layers again."""
            self.partial, self.made, self.training = earlier

        return bring_back

    def find_origin(self, plan: Plan) -> Analysis | None:
        """Return the analysis that a plan was made from, or None if it is not remembered.

        An analysis of a model with other fingerprints does not count.
        """
        found = self.remembered.get(source_of(plan))
        if found is not None and is_other(dict(plan.fingerprints), found.fingerprints):
            return None
        return found

    def find_analysis(
        self, method: str, options: Mapping[str, Any], calibration: Calibration
    ) -> Analysis | None:
        """Return the remembered analysis by a method with these options on this calibration, or None.

        Options that are not given have their defaults.
        """
        return self.remembered.get(
            (method, tuple(sorted(fill_options(method, options).items())), calibration)
        )

    def find_suitable(self, plan: Plan) -> Analysis:
        """Return the remembered analysis that fits a plan best: the one it was made from, if possible.

        Any other must have scores for the plan's attention unit. One by the same method comes before the
        present one, and that before the rest. Raise `Refusal` if no analysis has these scores.
        """
        able = [a for a in self.remembered.values() if plan.unit in a.layers[0].attention]
        if not able:
            raise Refusal(
                f"This plan cuts {plan.unit} units; analyse the model with method "
                f"{method_title(plan.method)} first."
            )
        return max(
            able,
            key=lambda a: (source_of(a) == source_of(plan), a.method == plan.method, a is self.present),
        )


@dataclass(eq=False)
class Focus:
    """What a person looks at on the Analyse tab.

    `detail` is the index of the open layer, `picked` the selection on the maps, and `drawn_plan` the plan
    that the pictures show.
    """

    detail: int | None = None
    picked: Picked | None = None
    drawn_plan: Plan | None = None
