"""Hold what the forms of the page say.

A person enters it in one tab of a browser, and all tabs of that browser show it. No Gradio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from slimllm.core.types import Calibration, Plan
from slimllm.methods.table import METHODS
from slimllm.pruning.finetuning import Tuning
from ui.facts.combinations import all_options
from ui.session.parts import Part

if TYPE_CHECKING:
    from ui.session.session import Session

# The method that is offered first, because it lost least in docs/benchmarks.md.
FIRST = "best"
START_RATIO = 0.2
PROMPTS = (
    "The capital of France is",
    "Water boils when",
    "Once upon a time there was a small robot who",
    "The opposite of hot is",
    "To bake bread you need",
    "def add(a, b):",
)
FIRST_PROMPTS = "\n".join(PROMPTS[:3])
QUICK_METHODS = tuple(name for name, row in METHODS.items() if not row.learns)


@dataclass(frozen=True)
class Form:
    """What the controls of a form say, unchecked, as the browser sent it, with a field for each control.

    A form belongs to the session. `parts` names the parts of the page that change with it. Controls and pages
    know only positions; `list_values` and `from_values` say which field belongs to which position.
    """

    parts: ClassVar[tuple[Part, ...]] = ()

    def list_values(self) -> tuple[Any, ...]:
        """Return the values in the order of the controls."""
        return tuple(getattr(self, one.name) for one in fields(self))

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Self:
        """Return the form with these values, which are in the order of the controls."""
        return cls(*values)

    def with_entered(self, entered: Mapping[int, Any]) -> Self:
        """Return the form with the entered values, given by position; the others stay as they are."""
        return self.from_values([entered.get(place, old) for place, old in enumerate(self.list_values())])

    @classmethod
    def find_in(cls, session: Session) -> Self | None:
        """Return what a person entered in this session, or None if nobody did."""
        found = session.forms.get(cls)
        return found if isinstance(found, cls) else None

    @classmethod
    def usual_form(cls, session: Session) -> Self:  # noqa: ARG003 – some subclasses use it
        """Return what the form says before anything is entered."""
        return cls()

    @classmethod
    def of_session(cls, session: Session) -> Self:
        """Return what was entered in this session, or else what the form says by default."""
        return cls.find_in(session) or cls.usual_form(session)

    def fill_in(self, session: Session) -> None:
        """Store this as what the form says in the session, and mark the parts that change with it."""
        session.forms[type(self)] = self
        session.mark(*self.parts)

    @classmethod
    def list_shown(cls, session: Session) -> tuple[Any, ...]:
        """Return the values that the controls show, in their order."""
        return cls.of_session(session).list_values()

    @classmethod
    def take_entered(cls, session: Session, entered: Mapping[int, Any]) -> None:
        """Store what a person entered, given by the positions of the controls."""
        cls.of_session(session).with_entered(entered).fill_in(session)


@dataclass(frozen=True)
class LoadForm(Form):
    """The model to load."""

    source: Any = ""


# Analyse ----------------------------------------------------------------------------------------------------


def named_options(method: str = "", given: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Return the options of all methods by method and name.

    Each option has its default, unless `given` has another value for it and belongs to `method`.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, option in all_options():
        known = given if given is not None and name == method else {}
        found.setdefault(name, {})[option.name] = known.get(option.name, option.default)
    return found


@dataclass(frozen=True)
class AnalyseForm(Form):
    """The text to read, the method, and the options of all methods by method and name.

    The controls of the options come last, in the order of `all_options`.
    """

    parts = ("preflight",)
    text: Any = Calibration.text
    samples: Any = Calibration.samples
    length: Any = Calibration.length
    seed: Any = Calibration.seed
    method: Any = FIRST
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=named_options)

    def list_values(self) -> tuple[Any, ...]:
        """Return the values in the order of the controls, the options last."""
        options = (self.options[name][option.name] for name, option in all_options())
        return self.text, self.samples, self.length, self.seed, self.method, *options

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Self:
        """Return the form with these values; raise `ValueError` if there are too many or too few."""
        text, samples, length, seed, method, *rest = values
        options: dict[str, dict[str, Any]] = {}
        for (name, option), value in zip(all_options(), rest, strict=True):
            options.setdefault(name, {})[option.name] = value
        return cls(text, samples, length, seed, method, options)

    @classmethod
    def of_reading(cls, read: Calibration, method: str, given: Mapping[str, Any] | None = None) -> Self:
        """Return the form that asks for a calibration and a method with the given options."""
        return cls(read.text, read.samples, read.length, read.seed, method, named_options(method, given))

    @classmethod
    def usual_form(cls, session: Session) -> Self:
        """Return the form that made the present analysis, or the default form if there is none."""
        found = session.analysis
        return (
            cls() if found is None else cls.of_reading(found.calibration, found.method, dict(found.options))
        )


@dataclass(frozen=True)
class OverlayForm(Form):
    """The method and the text of the second analysis; empty means the same as the first."""

    method: Any = ""
    text: Any = ""


@dataclass(frozen=True)
class ColoursForm(Form):
    """Which of two analyses the maps show, or their difference."""

    parts = ("overlay",)
    colours: Any = "both"


@dataclass(frozen=True)
class MapsForm(Form):
    """The order of the channels, and whether their map shows all layers or one."""

    parts = ("order",)
    order: Any = "sorted"
    zoom: Any = "all"


# Tune -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RulesForm(Form):
    """The dial, which sets the ratio, and the rules of a plan."""

    ratio: Any = START_RATIO
    recovery: Any = METHODS[FIRST].recovery
    allocation: Any = METHODS[FIRST].allocation
    unit: Any = "auto"
    align: Any = 8
    count: Any = "decoder"
    same_width: Any = False


@dataclass(frozen=True)
class HoldForm(Form):
    """Whether the other layers change to keep the size when one layer is moved."""

    hold: Any = False


@dataclass(frozen=True)
class PresetForm(Form):
    """The key of the preset that was applied last, and the plan that it gave."""

    key: str = ""
    plan: Plan | None = None


# Compare ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeasureForm(Form):
    """The text and settings by which perplexity is measured, and the prompts with their settings."""

    text: Any = "encyclopedia"
    window: Any = 128
    limit: Any = 8192
    prompts: Any = FIRST_PROMPTS
    new_tokens: Any = 48
    temperature: Any = 0
    seed: Any = 0


@dataclass(frozen=True)
class PassageForm(Form):
    """A passage that the person wrote; empty for one from the text."""

    own: Any = ""


@dataclass(frozen=True)
class AgainstForm(Form):
    """The model whose losses colour a passage; empty until one is chosen."""

    parts = ("against",)
    model: Any = ""


@dataclass(frozen=True)
class TopicsForm(Form):
    """The number of tokens that are read of each topic."""

    limit: Any = 1024


@dataclass(frozen=True)
class SpeedForm(Form):
    """The number of tokens of the prompt and of the answer, and the number of rounds."""

    length: Any = 128
    new_tokens: Any = 32
    rounds: Any = 5


@dataclass(frozen=True)
class MethodsForm(Form):
    """The methods that are compared on one budget.

    The boxes to tick are one control, whose value is a list.
    """

    parts = ("methods",)
    methods: tuple[str, ...] = QUICK_METHODS

    def list_values(self) -> tuple[Any, ...]:
        """Return the list of methods as the only value."""
        return (list(self.methods),)

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Self:
        """Return the form with the ticked methods, in the browser's order and without unknown ones."""
        (ticked,) = values
        named = dict.fromkeys(map(str, ticked if isinstance(ticked, list) else []))
        return cls(tuple(name for name in named if name in METHODS))


# History ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TierForm(Form):
    """The format in which a checkpoint is stored."""

    tier: Any = "auto"


@dataclass(frozen=True)
class TuningForm(Form):
    """The text to learn, the number of steps, and the highest learning rate."""

    parts = ("polish-request",)
    text: Any = "encyclopedia"
    steps: Any = 100
    rate: Any = Tuning.rate


# What a page shows ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """What a control shows on one page.

    `value` is shown since an answer that was made after `acts` acts on the session. `before` is what the
    control showed until that answer arrived.
    """

    acts: int
    value: Any
    before: Any = None

    def after(self, acts: int, value: Any) -> Shown:
        """Return the state after another answer, made after `acts` acts, has drawn `value`."""
        return Shown(acts, value, self.value)

    def overtook(self, heard: int) -> bool:
        """Return whether a page that knew of only `heard` acts did not show this value yet."""
        return self.acts > heard

    def differs(self, sent: Any, heard: int) -> bool:
        """Return whether a person must have entered the value that the page sent."""
        return sent != (self.before if self.overtook(heard) else self.value)

    def sent(self, value: Any, heard: int) -> Shown:
        """Return the state after the page has sent a value."""
        return Shown(self.acts, self.value, value) if self.overtook(heard) else Shown(heard, value)
