"""What the forms of the page say: entered by a person in one tab of a browser, shown in all of its tabs. No
Gradio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ui.session.session import Session


@dataclass(frozen=True)
class Form:
    """The values of some controls. They belong to the session: `usual` gives them as long as nobody has
    entered any, and `parts` of the session change with them."""

    name: str
    usual: Callable[[Session], Sequence[Any]]
    parts: tuple[str, ...] = ()

    def values(self, session: Session) -> tuple[Any, ...]:
        """What the controls say, in their order."""
        usual = tuple(self.usual(session))
        found = session.wishes.get(self.name, ())
        return found if len(found) == len(usual) else usual

    def fill(self, session: Session, values: Sequence[Any]) -> None:
        """Writes all of it anew."""
        session.wishes[self.name] = tuple(values)
        session.mark(*self.parts)

    def enter(self, session: Session, entered: Mapping[int, Any]) -> None:
        """Takes what a person entered, by the places of the controls; the others stay as they are."""
        self.fill(session, [entered.get(place, old) for place, old in enumerate(self.values(session))])


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
