"""The analyses of the loaded model: the present one, those that are remembered, and one that fills up. No
Gradio."""

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

# A few megabytes each.
KEPT_ANALYSES = 16


class Analyses:
    """All analyses of one model. `second` is laid over the present one.

    `partial` are the layers that the maps show: those of the present analysis, or of one that is under way,
    as they come; `made` are the method and the text that they were made with, `training` the steps of a
    method that trains.
    """

    def __init__(self) -> None:
        self.present: Analysis | None = None
        self.second: Analysis | None = None
        self.remembered: dict[Source, Analysis] = {}
        self.partial: list[LayerAnalysis | None] = []
        self.made: tuple[str, Calibration] | None = None
        self.training: list[dict[str, float]] = []

    def remember_analysis(self, analysis: Analysis) -> None:
        """Keep an analysis, so that its plans can be shown and pruned again; the oldest give way."""
        source = source_of(analysis)
        self.remembered.pop(source, None)
        self.remembered[source] = analysis
        for old in list(self.remembered)[:-KEPT_ANALYSES]:
            del self.remembered[old]

    def make_present(self, analysis: Analysis) -> None:
        """Make an analysis the present one; a second one stays only while one thing tells them apart."""
        self.present, self.partial = analysis, list(analysis.layers)
        self.made = (analysis.method, analysis.calibration)
        if self.second is not None and not are_comparable(self.second, analysis):
            self.second = None

    def begin_filling(self, method: str, calibration: Calibration, layers: int) -> Callable[[], None]:
        """Make room for the layers of an analysis that begins; return what brings back the ones before."""
        earlier = self.partial, self.made, self.training
        self.partial, self.made, self.training = [None] * layers, (method, calibration), []

        def bring_back() -> None:
            self.partial, self.made, self.training = earlier

        return bring_back

    def find_origin(self, plan: Plan) -> Analysis | None:
        """Return the analysis that a plan was made from, if it is remembered."""
        found = self.remembered.get(source_of(plan))
        if found is not None and is_other(dict(plan.fingerprints), found.fingerprints):
            return None
        return found

    def find_analysis(
        self, method: str, options: Mapping[str, Any], calibration: Calibration
    ) -> Analysis | None:
        """Return the analysis by a method with these options, the others as usual, if it is remembered."""
        return self.remembered.get(
            (method, tuple(sorted(fill_options(method, options).items())), calibration)
        )

    def find_suitable(self, plan: Plan) -> Analysis:
        """Return the analysis that a plan was made from, else another one that knows its units; raise a
        `Refusal` where there is none."""
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
    """What a person looks at on the Analyse tab: the layer that is open, the units that are chosen on the
    maps, and the plan that the pictures show."""

    detail: int | None = None
    picked: Picked | None = None
    drawn_plan: Plan | None = None
