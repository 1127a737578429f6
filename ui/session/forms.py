"""What the forms of the page say: entered by a person in one tab of a browser, shown in all of its tabs. No
Gradio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from slimllm.core.types import Calibration, Plan
from slimllm.methods.table import METHODS
from slimllm.pruning.finetuning import Tuning
from ui.facts.combinations import all_options

if TYPE_CHECKING:
    from ui.session.session import Session

FIRST = "best"  # the method that is offered first: it lost least in docs/benchmarks.md
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
    """What the controls of a form say, unchecked, as the browser sent it: a field for each control. It
    belongs to the session, whose `parts` change with it.

    Controls and pages know only places; `list_values` and `from_values` say which field stands where.
    """

    parts: ClassVar[tuple[str, ...]] = ()

    def list_values(self) -> tuple[Any, ...]:
        """Return the values in the order of the controls."""
        return tuple(getattr(self, one.name) for one in fields(self))

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Self:
        """Return the form that says these values, given in the order of the controls."""
        return cls(*values)

    def with_entered(self, entered: Mapping[int, Any]) -> Self:
        """Return the form with what was entered at these places; the rest stays as it is."""
        return self.from_values([entered.get(place, old) for place, old in enumerate(self.list_values())])

    @classmethod
    def find_in(cls, session: Session) -> Self | None:
        """Return what somebody entered or chose in this session; None where nobody did."""
        found = session.forms.get(cls)
        return found if isinstance(found, cls) else None

    @classmethod
    def usual_form(cls, session: Session) -> Self:  # noqa: ARG003 – what others say depends on it
        """Return what the form says by itself."""
        return cls()

    @classmethod
    def of_session(cls, session: Session) -> Self:
        """Return what was entered in this session, else what the form says by itself."""
        return cls.find_in(session) or cls.usual_form(session)

    def fill_in(self, session: Session) -> None:
        """Make this what the form of the session says."""
        session.forms[type(self)] = self
        session.mark(*self.parts)

    @classmethod
    def list_shown(cls, session: Session) -> tuple[Any, ...]:
        """Return what the controls show, in their order."""
        return cls.of_session(session).list_values()

    @classmethod
    def take_entered(cls, session: Session, entered: Mapping[int, Any]) -> None:
        """Take what a person entered, by the places of the controls."""
        cls.of_session(session).with_entered(entered).fill_in(session)


@dataclass(frozen=True)
class LoadForm(Form):
    """The model to load."""

    source: Any = ""


# Analyse ----------------------------------------------------------------------------------------------------


def named_options(method: str = "", given: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Return the options of all methods by method and name: the usual ones, and of one method the given."""
    found: dict[str, dict[str, Any]] = {}
    for name, option in all_options():
        known = given if given is not None and name == method else {}
        found.setdefault(name, {})[option.name] = known.get(option.name, option.default)
    return found


@dataclass(frozen=True)
class AnalyseForm(Form):
    """What is read, by which method, and the options of all methods by method and name; their controls come
    last, in the order of `all_options`."""

    parts = ("preflight",)
    text: Any = Calibration.text
    samples: Any = Calibration.samples
    length: Any = Calibration.length
    seed: Any = Calibration.seed
    method: Any = FIRST
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=named_options)

    def list_values(self) -> tuple[Any, ...]:
        options = (self.options[name][option.name] for name, option in all_options())
        return self.text, self.samples, self.length, self.seed, self.method, *options

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Self:
        text, samples, length, seed, method, *rest = values
        options: dict[str, dict[str, Any]] = {}
        for (name, option), value in zip(all_options(), rest, strict=True):
            options.setdefault(name, {})[option.name] = value
        return cls(text, samples, length, seed, method, options)

    @classmethod
    def of_reading(cls, read: Calibration, method: str, given: Mapping[str, Any] | None = None) -> Self:
        """Return the form that asks for this text and method, with these of its options."""
        return cls(read.text, read.samples, read.length, read.seed, method, named_options(method, given))

    @classmethod
    def usual_form(cls, session: Session) -> Self:
        """Return how the present analysis was made, else what is offered first."""
        found = session.analysis
        return (
            cls() if found is None else cls.of_reading(found.calibration, found.method, dict(found.options))
        )


@dataclass(frozen=True)
class OverlayForm(Form):
    """The second method and text; empty for the same as the first."""

    method: Any = ""
    text: Any = ""


@dataclass(frozen=True)
class ColoursForm(Form):
    """Which of two analyses the maps show, or how they differ."""

    parts = ("overlay",)
    colours: Any = "both"


@dataclass(frozen=True)
class MapsForm(Form):
    """How the channels are ordered, and whether their map shows all layers or one."""

    parts = ("order",)
    order: Any = "sorted"
    zoom: Any = "all"


# Tune -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RulesForm(Form):
    """The dial and the rules of a plan."""

    ratio: Any = START_RATIO
    recovery: Any = METHODS[FIRST].recovery
    allocation: Any = METHODS[FIRST].allocation
    unit: Any = "auto"
    align: Any = 8
    count: Any = "decoder"
    same_width: Any = False


@dataclass(frozen=True)
class HoldForm(Form):
    """Whether other layers give way to one that is moved."""

    hold: Any = False


@dataclass(frozen=True)
class PresetForm(Form):
    """The preset that was taken last, and the plan that came of it."""

    key: str = ""
    plan: Plan | None = None


# Compare ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeasureForm(Form):
    """On what perplexity is measured, and what the models are to answer."""

    text: Any = "encyclopedia"
    window: Any = 128
    limit: Any = 8192
    prompts: Any = FIRST_PROMPTS
    new_tokens: Any = 48
    temperature: Any = 0
    seed: Any = 0


@dataclass(frozen=True)
class PassageForm(Form):
    """The user's own passage; empty for one from the text."""

    own: Any = ""


@dataclass(frozen=True)
class AgainstForm(Form):
    """The model that a passage is coloured by; empty before one was chosen."""

    parts = ("against",)
    model: Any = ""


@dataclass(frozen=True)
class TopicsForm(Form):
    """How many tokens of each topic are read."""

    limit: Any = 1024


@dataclass(frozen=True)
class SpeedForm(Form):
    """The tokens of the prompt and of the answer, and how often they are read and written."""

    length: Any = 128
    new_tokens: Any = 32
    rounds: Any = 5


@dataclass(frozen=True)
class MethodsForm(Form):
    """The methods that are compared on one budget; the boxes to tick are one control, whose value is a
    list."""

    parts = ("methods",)
    methods: tuple[str, ...] = QUICK_METHODS

    def list_values(self) -> tuple[Any, ...]:
        return (list(self.methods),)

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Self:
        """Return the known ones among what the browser says is ticked, in its order."""
        (ticked,) = values
        named = dict.fromkeys(map(str, ticked if isinstance(ticked, list) else []))
        return cls(tuple(name for name in named if name in METHODS))


# History ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TierForm(Form):
    """How a checkpoint is stored."""

    tier: Any = "auto"


@dataclass(frozen=True)
class TuningForm(Form):
    """The text to learn, how many steps, the highest learning rate."""

    parts = ("polish-wish",)
    text: Any = "encyclopedia"
    steps: Any = 100
    rate: Any = Tuning.rate


# What a page shows ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """What a control shows on one page: since the answer that told of so many acts on the session, and what
    it showed before that answer arrived."""

    acts: int
    value: Any
    before: Any = None

    def after(self, acts: int, value: Any) -> Shown:
        """What it shows once another answer has drawn it."""
        return Shown(acts, value, self.value)

    def overtook(self, heard: int) -> bool:
        """Whether a page that had heard of so many acts did not show this yet."""
        return self.acts > heard

    def differs(self, sent: Any, heard: int) -> bool:
        """Whether a person must have entered what the page sent."""
        return sent != (self.before if self.overtook(heard) else self.value)

    def sent(self, value: Any, heard: int) -> Shown:
        """What it shows after the page has sent this."""
        return Shown(self.acts, self.value, value) if self.overtook(heard) else Shown(heard, value)
