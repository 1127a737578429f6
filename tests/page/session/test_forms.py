"""Forms are changed by what a person enters, on whichever page of the session: not by drawing, not by a page
that shows an old state."""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass
from typing import Any

import gradio as gr
import pytest
import torch

from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from ui.app import Settings, build_page
from ui.facts.combinations import all_options
from ui.page import notice
from ui.page.fast_blocks import LEAVE_ALONE
from ui.page.notice import CHANGED, Told
from ui.page.screen import Screen
from ui.page.views import Event
from ui.session.forms import AnalyseForm, Form, MeasureForm, MethodsForm, Shown
from ui.session.registry import REGISTRY
from ui.session.requests import made_words
from ui.session.session import Session
from ui.tabs.analyse import analyse_tab
from ui.tabs.tune import tune_tab


@dataclass(frozen=True)
class Taken(Form):
    """A form of two controls."""

    word: Any = "one"
    number: Any = 2


class Page:
    """A page of a session, as the server sees it: what it shows is what was drawn there."""

    def __init__(self, screen: Screen, session: Session):
        self.screen, self.session, self.seen = screen, session, dict[Any, Any]()
        self.shows = dict[Any, Any]()
        self.take(*screen._attach(session.id, "", self.seen, None)[:-1])  # type: ignore[arg-type]

    def take(self, notice: Any, timer: Any, soon: Any, _: Any, *updates: Any, tabs: Any = None) -> None:
        """Draws an answer."""
        shown = [part for view in self.screen._views(tabs or self.screen._all) for part in view.components]
        for component, update in zip(shown, updates, strict=True):
            if update != LEAVE_ALONE:
                self.shows[component] = value_of(update)
        self.notice = notice if isinstance(notice, Told) else self.notice
        self.timers = (timer, soon)

    def enter(self, event: Event, **by_place: Any) -> None:
        """Somebody enters values in controls of a form; the page sends all of them."""
        heard = self.notice.acts
        for place, value in by_place.items():
            self.shows[event.inputs[1 + int(place[1:])]] = value
        sent = [self.shows[control] for control in event.inputs[1:]]
        self.take(*self.screen._do(self.session.id, self.seen, self.screen._all, event, [heard, *sent]))

    def look(self) -> None:
        self.take(*self.screen._looked()(self.session.id, self.seen))


def value_of(update: Any) -> Any:
    """What a control says after an update."""
    if isinstance(update, dict) and "chosen" in update:
        return update["chosen"]
    return update.value if isinstance(update, gr.Dropdown) else update


@pytest.fixture
def made() -> tuple[Screen, Event, Session]:
    """A screen with one form of two controls, and the event that somebody enters something."""
    screen = Screen()
    with gr.Blocks(), gr.Tabs() as screen.tabs, gr.Tab("Here", id="here"):
        controls = [gr.Textbox(), gr.Number()]
        screen.keep(controls, "here", Taken.list_shown, Taken.take_entered)
    return screen, screen.events[-1], REGISTRY.open(None)


def test_a_page_enters_what_was_entered_there_and_nothing_else(made: tuple[Screen, Event, Session]) -> None:
    screen, event, session = made
    one, other = Page(screen, session), Page(screen, session)
    one.enter(event, p0="new")
    assert Taken.of_session(session) == Taken("new", 2)
    other.enter(event, p1=7)  # its first control still says "one"
    assert Taken.of_session(session) == Taken("new", 7)
    assert [other.shows[control] for control in event.inputs[1:]] == ["new", 7]
    one.look()
    assert [one.shows[control] for control in event.inputs[1:]] == ["new", 7]


def test_events_that_drawing_raises_enter_nothing(made: tuple[Screen, Event, Session]) -> None:
    screen, event, session = made
    one, other = Page(screen, session), Page(screen, session)
    one.enter(event, p0="new", p1=3)
    other.enter(event)  # all that it shows, none of it entered
    assert Taken.find_in(session) == Taken("new", 3)
    assert other.shows[event.inputs[1]] == "new"


def test_what_was_entered_before_a_draw_arrived_is_told_from_what_it_drew(
    made: tuple[Screen, Event, Session],
) -> None:
    """The page sends a value, and an answer that draws another control is under way."""
    screen, event, session = made
    one, other = Page(screen, session), Page(screen, session)
    heard, sent = other.notice.acts, [other.shows[control] for control in event.inputs[1:]]
    one.enter(event, p0="new")
    other.look()  # draws "new", but `sent` was put together before
    other.take(*screen._do(session.id, other.seen, screen._all, event, [heard, sent[0], 9]))
    assert Taken.of_session(session) == Taken("new", 9)
    assert other.shows[event.inputs[1]] == "new"


def test_an_answer_does_not_overwrite_the_next_letter(made: tuple[Screen, Event, Session]) -> None:
    screen, event, session = made
    page = Page(screen, session)
    page.shows.pop(event.inputs[1])
    page.shows[event.inputs[1]] = "n"
    page.enter(event, p0="n")
    page.shows[event.inputs[1]] = "ne"
    page.look()
    assert page.shows[event.inputs[1]] == "ne"


def test_what_is_refused_goes_back_to_what_holds(made: tuple[Screen, Event, Session]) -> None:
    screen, event, session = made

    def refuse(*_: Any) -> None:
        raise Refusal("No.")

    page, refusing = (
        Page(screen, session),
        Event(None, "here", refuse, event.inputs, "once", values=event.values),
    )
    page.enter(refusing, p0="bad")
    assert page.shows[event.inputs[1]] == "one"
    assert (page.notice.words, page.notice.kind) == ("No.", "bad")
    page.enter(event, p0="good")
    assert page.notice.words == ""


def test_timers_are_told_again_by_every_look(made: tuple[Screen, Event, Session]) -> None:
    screen, _, session = made
    page = Page(screen, session)
    for busy in (False, True):
        session.job = types.SimpleNamespace(active=busy, state="running")
        for _ in range(2):
            page.look()
            assert [timer.active for timer in page.timers] == [busy, False]


def test_a_page_that_the_server_does_not_know_is_told_so(made: tuple[Screen, Event, Session]) -> None:
    screen, event, _ = made
    for answer in (screen._looked()("", {}), screen._do("", {}, screen._all, event, [0, "one", 2])):
        assert answer[0].gone
        assert all(update == LEAVE_ALONE for update in answer[1:])


def test_shown_tells_what_a_person_entered() -> None:
    shown = Shown(3, "a")
    assert shown.differs("b", 3)
    assert not shown.differs("a", 3)
    drawn = shown.after(5, "c")
    assert not drawn.differs("a", 4), "it had not heard of the draw"
    assert drawn.differs("a", 5), "somebody took it back"
    assert drawn.sent("d", 4).value == "c", "the draw arrives after what was sent"
    assert drawn.sent("d", 5).value == "d"


FORMS = sorted(Form.__subclasses__(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", [kind for kind in FORMS if kind is not Taken])
def test_a_form_says_the_same_after_it_went_through_the_places_of_its_controls(kind: type[Form]) -> None:
    usual = kind()
    assert kind.from_values(usual.list_values()) == usual
    values: list[Any] = [f"value {place}" for place in range(len(usual.list_values()))]
    if kind is MethodsForm:
        values = [["wanda-sp", "slimllm"]]
    assert list(kind.from_values(values).list_values()) == values
    for place, value in enumerate(values):
        entered = usual.with_entered({place: value})
        expected = [*usual.list_values()]
        expected[place] = value
        assert list(entered.list_values()) == expected


def test_every_field_of_a_form_has_a_place() -> None:
    assert AnalyseForm("t", 1, 2, 3, "m").list_values()[:5] == ("t", 1, 2, 3, "m")
    assert len(AnalyseForm().list_values()) == 5 + len(all_options())
    assert MeasureForm.from_values(["t", 1, 2, "p", 3, 4, 5]) == MeasureForm(
        text="t", window=1, limit=2, prompts="p", new_tokens=3, temperature=4, seed=5
    )
    for kind in FORMS:
        if kind is not AnalyseForm:
            assert len(kind().list_values()) == len(dataclasses.fields(kind)), kind


def test_options_of_all_methods_have_their_places_and_their_names() -> None:
    changed = AnalyseForm.from_values(
        [*AnalyseForm().list_values()[:5], *(f"{name} {option.name}" for name, option in all_options())]
    )
    for name, option in all_options():
        assert changed.options[name][option.name] == f"{name} {option.name}"
    assert AnalyseForm.of_reading(Calibration(), "ddp", {"steps": 7}).options["ddp"]["steps"] == 7


def test_only_known_methods_are_taken() -> None:
    assert MethodsForm.from_values([["wanda-sp", "nonsense", "wanda-sp", 5]]).methods == ("wanda-sp",)
    assert MethodsForm.from_values([None]).methods == ()


# The plan ---------------------------------------------------------------------------------------------------


@pytest.fixture
def planned() -> Session:
    session = REGISTRY.open(None)
    analysis = synthetic_analysis(layers=4, channels=256)
    subject = types.SimpleNamespace(shape=analysis.shape, source="made-up", dtype=torch.float32)
    session.loaded = types.SimpleNamespace(
        subject=subject, pace=1000.0, device="cpu", dtype="float32", outlook=()
    )
    session.set_analysis(analysis, plan_making.make_plan(analysis, PlanRules(0.2)))
    return session


def test_a_fader_moved_on_an_old_page_leaves_the_others_as_they_are(planned: Session) -> None:
    old = planned.plan
    first = old.channels[0] - 32
    value = {"heads": list(old.heads), "channels": list(old.channels), "locked": [False] * 4}
    tune_tab.move_faders(
        planned, value | {"channels": [first, *old.channels[1:]], "touched": {"mlp 0"}}, False
    )
    assert planned.plan.channels[0] == first
    second = old.channels[1] - 16
    stale = [old.channels[0], second, *old.channels[2:]]
    tune_tab.move_faders(planned, value | {"channels": stale, "touched": {"mlp 1"}}, False)
    assert planned.plan.channels[:2] == (first, second)
    tune_tab.move_faders(planned, value | {"locked": [True] * 4, "touched": {"lock 2"}}, False)
    assert planned.locked == {2}
    assert planned.plan.channels[:2] == (first, second)


def test_a_rule_changed_on_an_old_page_leaves_the_dial_as_it_is(planned: Session) -> None:
    tune_tab.change_rules(planned, {0: 0.1})
    tune_tab.change_rules(planned, {1: "none"})
    assert (planned.plan.ratio_requested, planned.plan.recovery) == (0.1, "none")
    assert (tune_tab.shown_rules(planned).ratio, tune_tab.shown_rules(planned).recovery) == (0.1, "none")


def test_the_plan_of_another_page_is_told_once(planned: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "GESTURE", 0.0)  # what was told has been read
    screen = screen_of_the_app()
    one, other = Page(screen, planned), Page(screen, planned)
    dial = next(each for each in screen.events if getattr(each.act, "__name__", "") == "change_rules")
    one.enter(dial, p0=0.1)
    other.look()
    assert (one.notice.words, other.notice.words) == ("", CHANGED)
    other.enter(dial, p0=0.3)
    assert other.notice.words == ""
    one.look()
    assert one.notice.words == CHANGED
    planned.push(plan_making.make_plan(planned.known, PlanRules(0.5)))  # as a job does
    other.look()
    assert other.notice.words == ""


def test_a_change_that_meets_an_unseen_one_is_told(planned: Session) -> None:
    screen = screen_of_the_app()
    one, other = Page(screen, planned), Page(screen, planned)
    dial = next(each for each in screen.events if getattr(each.act, "__name__", "") == "change_rules")
    one.enter(dial, p0=0.1)
    other.enter(dial, p4=16)
    assert (planned.plan.ratio_requested, planned.plan.align) == (0.1, 16)
    assert other.notice.words == CHANGED


def screen_of_the_app() -> Screen:
    """The screen of the whole app."""
    found = list[Screen]()
    wire = Screen.wire

    def caught(self: Screen, demo: gr.Blocks) -> None:
        found.append(self)
        wire(self, demo)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Screen, "wire", caught)
        patch.setattr(REGISTRY, "settings", REGISTRY.settings)  # pages that are served keep theirs
        build_page(Settings())
    return found[0]


def test_the_form_says_how_the_analysis_was_made_until_somebody_enters_something(planned: Session) -> None:
    read = planned.known.calibration
    assert AnalyseForm.of_session(planned) == AnalyseForm.of_reading(read, "slimllm")
    AnalyseForm.take_entered(planned, {1: 77})
    more = dataclasses.replace(read, samples=77)
    assert AnalyseForm.of_session(planned) == AnalyseForm.of_reading(more, "slimllm")


def test_the_maps_say_how_they_were_made(planned: Session) -> None:
    read = planned.known.calibration
    words = made_words("slimllm", read)
    assert f"{read.samples * read.length:,} tokens" in words
    for draw in (analyse_tab.draw_layers, analyse_tab.draw_heads, analyse_tab.draw_channels):
        assert draw(planned).layout.title.subtitle.text == words
