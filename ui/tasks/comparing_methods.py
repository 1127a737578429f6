"""The job that compares several methods on one budget, one after the other. No Gradio.

The methods that are finished stay in the table if the job is stopped.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal, Stopped
from slimllm.core.types import Analysis, Plan, Progress
from slimllm.models.loading import Subject
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules, keep_pins
from ui.facts.combinations import for_ratio
from ui.facts.runs import Asked, Budget, Column, Entry
from ui.jobs.worker import Job, Result, Steps, retold, sentence
from ui.look.formatting import method_title
from ui.session.registry import Registry
from ui.session.session import Session
from ui.tasks.comparing import known_dense
from ui.tasks.measuring import measured_column, with_tokens
from ui.tasks.work import is_current, score_layers


@dataclass(frozen=True, eq=False)
class Contest:
    """What all entries of one job share.

    `subject` is the dense model, and `dense` its figures. `present` is the session's plan, and `analysis` the
    present analysis.
    """

    session: Session
    subject: Subject
    present: Plan
    analysis: Analysis
    budget: Budget
    dense: Column

    @property
    def offline(self) -> bool:
        """Whether the network must not be used."""
        return self.session.settings.offline


def budget_of(plan: Plan, analysis: Analysis, asked: Asked) -> Budget:
    """Return the budget of the present plan: its size, its calibration, and the protocol that was asked for.

    The size is the requested ratio, or the achieved one if the widths were set by hand.
    """
    ratio = plan.ratio_achieved if plan.allocation == "hand" else plan.ratio_requested
    return Budget(ratio, plan.count, analysis.calibration, asked.protocol)


def start_methods(registry: Registry, session: Session, methods: Sequence[str], asked: Asked) -> Job:
    """Start the job that prunes by each method, and by the present plan, and measures the results.

    Each method uses its own recovery and allocation. Every finished method becomes an entry of the session at
    once.

    Return the job. Raise `Refusal` if there is no plan or analysis, if no method is chosen, if the plan does
    not fit the model, if the limits forbid the work, or if another job of the session is active.
    """
    subject, plan, analysis = session.subject, session.plan, session.known
    session.limits.check_comparison(plan, asked)
    if not methods:
        raise Refusal("No method is chosen; choose at least one to compare.")
    plan_making.check_plan(plan, subject.shape)
    asked = asked.begun(subject.beginning.words)

    def run_steps(_: Job) -> Steps:
        protocol = with_tokens(asked.protocol, subject, session.settings.offline)
        budget = replace(budget_of(plan, analysis, asked), protocol=protocol)
        dense = yield from lead_steps("Dense model", "0", dense_column(session, subject, budget))
        contest = Contest(session, subject, plan, analysis, budget, dense)
        total = len(methods)
        yield from try_entry("", "Your plan", "p", contest)
        for number, name in enumerate(methods, 1):
            yield from try_entry(
                name, f"Method {number} of {total} · {method_title(name)}", str(number), contest
            )

    job = Job("methods", "Comparing methods", run_steps, left="what was finished is in the table")
    return session.begin(registry.worker, job)


def try_entry(name: str, title: str, stage: str, contest: Contest) -> Steps:
    """Add one method's entry to the session; if the method fails, its entry says why in one sentence."""
    try:
        entry = yield from lead_steps(title, stage, attempt_method(name, contest))
    except Stopped:
        raise
    except Exception as failure:
        entry = Entry(
            name or contest.present.method,
            contest.budget,
            contest.dense,
            present=not name,
            refusal=sentence(failure),
        )
    contest.session.put_entry(entry)


def lead_steps(
    title: str, stage: str, steps: Generator[Progress, None, Result]
) -> Generator[Progress, None, Result]:
    """Yield steps with a title before their words and a prefix before their stage; return their result."""
    return retold(
        steps, lambda step: replace(step, stage=f"{stage} {step.stage}", words=f"{title} · {step.words}")
    )


def attempt_method(name: str, contest: Contest) -> Generator[Progress, None, Entry]:
    """Score, plan, prune and measure by one method, and return its entry.

    An empty name stands for the present plan. A plan that has an entry with figures on this budget is not
    measured again.
    """
    session, subject, budget = contest.session, contest.subject, contest.budget
    if name:
        analysis = yield from analysis_by(name, contest)
        plan = plan_making.make_plan(
            analysis,
            keep_pins(
                PlanRules(budget.ratio, count=contest.present.count, align=contest.present.align),
                contest.present,
                None,
            ),
        )
    else:
        plan, analysis = contest.present, session.analyses.find_origin(contest.present) or contest.analysis
    of = partial(Entry, plan.method, budget, contest.dense, plan, present=not name)
    entries = session.results.entries
    known = next((e for e in entries if e.plan == plan and e.budget == budget and e.column), None)
    if known is not None:
        return of(column=known.column, seconds=known.seconds)
    text = texts.find_text(plan.calibration.text, offline=contest.offline)
    pruned = yield from pipeline.prune_model(subject, plan, text, analysis)
    column = yield from measured_column(pruned.subject, budget.protocol, contest.offline)
    return of(column=column, seconds=analysis.seconds + pruned.seconds)


def analysis_by(name: str, contest: Contest) -> Generator[Progress, None, Analysis]:
    """Return the analysis by one method: the remembered one, or a new one from the moments on disk.

    A new analysis is remembered by the session.
    """
    options, session = for_ratio(name, contest.budget.ratio), contest.session
    known = session.analyses.find_analysis(name, options, contest.budget.calibration)
    if known is None or not is_current(known, contest.subject, contest.offline):
        known = yield from score_layers(
            contest.subject, contest.budget.calibration, name, options, contest.offline
        )
        session.keep_analysis(known)
    return known


def dense_column(session: Session, subject: Subject, budget: Budget) -> Generator[Progress, None, Column]:
    """Return the dense model's figures, which are measured only once for each protocol."""
    for entry in session.results.entries:
        if entry.budget.protocol == budget.protocol:
            return entry.dense
    known = known_dense(session, budget.protocol)
    if known is not None and known.perplexity is not None:
        return known
    return (yield from measured_column(subject, budget.protocol, session.settings.offline))
