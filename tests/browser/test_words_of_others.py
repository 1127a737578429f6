"""Words of others that would like to be code: in names, prompts, answers, notes and topics, on every tab and
in the report, in a real browser."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from slimllm.core.types import Calibration
from slimllm.evaluation.evaluate import Speed
from slimllm.models import loading
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.made_up_runs import family
from tests.support.tiny_models import tiny_model, tiny_tokenizer
from tests.support.visitor import BROWSER, Visitor, expect
from ui.facts.comparison import Answer, Comparison
from ui.facts.findings import Findings, Guess, Passage, Piece
from ui.facts.resources.estimates import Rates
from ui.facts.runs import Budget, Entry, Protocol
from ui.html import report
from ui.session.loaded import Loaded
from ui.session.registry import REGISTRY
from ui.session.session import Session

pytestmark = BROWSER
EVIL = (
    "<img src=x onerror=\"window.hacked='image'\"><script>window.hacked='script'</script>"
    "${window.hacked='template'}{{window.hacked='braces'}}\"' onfocus=window.hacked='attribute' autofocus x='"
    "</textarea></style><svg onload=window.hacked='svg'>[x](javascript:window.hacked='link')"
)


def poisoned(session: Session) -> str:
    """Puts the words wherever words of others are shown; the report's HTML."""
    analysis = synthetic_analysis(layers=3, heads=6, groups=3, head_size=8, channels=96)
    analysis = dataclasses.replace(analysis, model=EVIL, calibration=Calibration(text=f"/{EVIL}.txt"))
    loaded = Loaded(
        loading.make_subject(EVIL, tiny_model("llama"), tiny_tokenizer()), Rates(100.0), "cpu", EVIL, (EVIL,)
    )
    session.set_loaded(loaded)
    session.preview.auto = False
    session.preview.prompt = EVIL
    plan = plan_making.make_plan(analysis, PlanRules(0.2))
    session.set_analysis(analysis, plan)
    session.lay_over(dataclasses.replace(analysis, calibration=Calibration(text=f"{EVIL}/b.txt")))
    answers = ((EVIL, {"dense": EVIL, "pruned": EVIL, "recovered": f"{EVIL} and more"}),)
    run = dataclasses.replace(
        family(analysis)[0],
        note=EVIL,
        told=EVIL,
        rules=EVIL,
        dtype=EVIL,
        answers=answers,
        protocol=Protocol(EVIL),
    )
    session.archive.add(run)
    session.presets = {EVIL[:60]: plan}
    guess = {name: Guess(2.0, EVIL, 0.5) for name in ("dense", "pruned", "recovered")}
    topics = {EVIL: {"dense": 10.0, "pruned": 20.0, "recovered": 15.0}}
    found = Findings(
        passage=Passage(EVIL, (Piece("a", {}), Piece(EVIL, guess))),
        topics=topics,
        counts={EVIL: 100},
        window=16,
        speeds={name: Speed((1.0,), (1.0,), 1, 1) for name in guess},
    )
    session.results.comparison = Comparison(
        run.plan, Protocol(EVIL), dict(run.columns), findings=found, run=1
    )
    session.comparison.models = dict.fromkeys(guess)  # type: ignore[arg-type]
    session.results.answers = [Answer(EVIL, dict(answers[0][1]), done=True)]
    budget = Budget(0.2, "decoder", analysis.calibration, Protocol(EVIL))
    session.put_entry(Entry("slimllm", budget, run.columns["dense"], refusal=EVIL))
    for part in ("load", "analyse", "tune", "compare", "history", "tour"):
        session.say(part, EVIL, "bad")
    session.mark("table", "answers", "passage", "topics", "pace", "presets", "runs", "subject", "prompts")
    return report.report_page(run)


def test_security_words_of_others_are_never_code(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    session = REGISTRY.open(str(page.evaluate("localStorage.getItem('slimllm-browser')")))
    file = tmp_path / "report.html"
    file.write_text(poisoned(session), encoding="utf-8")
    visitor.open()
    shown = {
        "Load": "#load-card",
        "Analyse": "#analyse-agreement-words",
        "Tune": "#tune-preview",
        "Compare": "#compare-answers",
        "History": "#history-about",
    }
    for tab, where in shown.items():
        visitor.tab(tab)
        expect(page.locator(where)).not_to_be_empty()
        page.keyboard.press("Tab")
        assert page.evaluate("window.hacked") is None, tab
    seen = page.locator("body").inner_text()
    assert "onerror" in seen, "they are shown as words"
    page.click("#tour-start")
    expect(page.locator("#tour")).to_contain_text("Step")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('img[src=x], svg[onload]').length") == 0
    paper = visitor.context.new_page()
    paper.goto(file.as_uri())
    expect(paper.locator("body")).to_contain_text("onerror")
    assert paper.evaluate("window.hacked") is None
