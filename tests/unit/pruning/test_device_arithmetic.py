"""Arithmetic on a device: the same results as on the CPU, computed there, with few crossings between the two.

No device is needed: a pretended one counts what crosses and refuses to mix (`pretended_device`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slimllm import pipeline
from slimllm.calibration import moments, texts
from slimllm.core import arithmetic
from slimllm.core.types import NOTE, Analysis, Calibration, Progress
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import METHODS
from slimllm.models.loading import Pruned, Subject
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import PlanRules
from slimllm.pruning.masking import mask_units, masks_of
from tests.support.devices.pretended_device import Counts, PretendedDevice
from tests.support.tiny_models import PAGE, tiny_subject

pytestmark = pytest.mark.usefixtures("one_thread")

RATIO, SAMPLES, LENGTH = 0.3, 6, 32
# Two samples make a batch, so that a run has several.
TOKENS_PER_BATCH = 64
# The tiny model's matrices have 2,304 elements or more, and its rankings at most 96.
LIMIT = 1000
# The most copies to the device, copies back and waits of one layer, which has three KV groups.
MOST = {"analysing": Counts(20, 30, 45), "pruning": Counts(20, 25, 30)}
# Every recovery is the own one of some method.
OWN = [(name, row.recovery) for name, row in METHODS.items()]
ALL = [(name, recovery) for name, row in METHODS.items() for recovery in row.recoveries or RECOVERIES]
# The other pairs of method and recovery take longer.
CASES = [*OWN, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in OWN)]
Runner = Callable[..., "Run"]


@dataclass(frozen=True, eq=False)
class Run:
    """An analysis and a pruned model, the model's logits, the notes, and the crossings of one layer in each.

    Without a device, crossings are zero.
    """

    analysis: Analysis
    pruned: Pruned
    logits: Tensor
    notes: tuple[str, ...]
    analysing: Counts
    pruning: Counts
    host_work: Counter[str]

    @property
    def kept(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The kept heads and channels of every layer."""
        return [(layer.kept_heads, layer.kept_channels) for layer in self.pruned.layers]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[texts.Text]:
    """Return a text that is read in several batches, on a machine whose device has room."""
    file = tmp_path_factory.mktemp("text") / "page.txt"
    file.write_text(PAGE * 40, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "TOKENS_PER_BATCH", TOKENS_PER_BATCH)
        patch.setattr(pipeline, "watch_peak", lambda _: lambda: 0.0)
        patch.setattr(arithmetic, "available_mib", lambda _: 1e6)
        yield texts.find_text(str(file))


@pytest.fixture(scope="module")
def run(text: texts.Text) -> Runner:
    """Return a function that analyses and prunes once for each set of its arguments."""

    @functools.cache
    def run_once(method: str, recovery: str, kind: str = "cpu", samples: int = SAMPLES) -> Run:
        subject = tiny_subject()
        if kind == "cpu":
            return run_jobs(subject, text, method, recovery, samples, None)
        with pretend(kind) as device:
            return run_jobs(device.move_subject(subject), text, method, recovery, samples, device)

    return run_once


def pretend(kind: str, **changes: object) -> PretendedDevice:
    """Return a device of a kind; Apple's have no float64."""
    return PretendedDevice(kind, float64=kind != "mps", limit=LIMIT, **changes)  # type: ignore[arg-type]


def run_jobs(
    subject: Subject,
    text: texts.Text,
    method: str,
    recovery: str,
    samples: int,
    device: PretendedDevice | None,
) -> Run:
    """Analyse and prune, on the device if there is one."""
    notes: list[str] = []
    readings: dict[str, list[Counts]] = {"analyse": [], "prune": []}

    def watch(step: Progress) -> None:
        """Keep the notes, and the counts after every layer."""
        if step.stage == NOTE:
            notes.append(step.words)
        elif step.stage in readings:
            readings[step.stage].append(device.read_counts() if device else Counts())

    calibration = Calibration(text.name, samples, LENGTH)
    options = {"steps": 3} if method == "ddp" else {}
    job = pipeline.analyse_model(
        subject, text, calibration, method_name=method, options=options, recoveries=(recovery,)
    )
    analysis = pipeline.finish_job(job, watch)
    allocation = None if METHODS[method].allocations else "uniform"
    plan = make_plan(analysis, PlanRules(RATIO, recovery=recovery, allocation=allocation))
    pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text, analysis), watch)
    # The counts of the first layer include those of the embedding.
    analysing, pruning = (second - first for first, second, *_ in readings.values())
    work = device.host_work if device else Counter[str]()
    return Run(analysis, pruned, read_logits(pruned.subject), tuple(notes), analysing, pruning, work)


@torch.inference_mode()
def read_logits(subject: Subject) -> Tensor:
    """Return a model's logits on a few tokens, on the CPU."""
    tokens = torch.arange(24, device=subject.device)[None]
    with arithmetic.Arithmetic(subject.device).cover_operations():
        return subject.model(input_ids=tokens).logits.cpu()


def test_the_pretended_device_refuses_to_mix_and_counts_what_crosses() -> None:
    here = torch.ones(3)
    with pretend("cuda") as device:
        there = torch.arange(3.0, device=device.place)
        for mix in (lambda: here + there, lambda: here[there.long()], lambda: here.copy_(there) @ there):
            with pytest.raises(RuntimeError, match="device"):
                mix()
        with pytest.raises(TypeError, match="cpu"):
            there.numpy()
        before = device.read_counts()
        assert (there * here.to(device.place)).cpu().tolist() == [0, 1, 4]
        assert there.double().sum().item() == 3
        crossed = device.read_counts() - before
    assert crossed == Counts(to_device=1, to_host=1, waits=1, float64=2)
    with pretend("mps") as device, pytest.raises(TypeError, match="float64"):
        torch.ones(3, device=device.place).double()


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize(("method", "recovery"), CASES)
def test_a_device_keeps_the_same_units_and_gives_the_same_logits(
    method: str, recovery: str, kind: str, run: Runner
) -> None:
    here, there = run(method, recovery), run(method, recovery, kind)
    assert there.kept == here.kept
    torch.testing.assert_close(there.logits, here.logits, atol=1e-4, rtol=1e-4)
    for mine, theirs in zip(here.analysis.layers, there.analysis.layers, strict=True):
        torch.testing.assert_close(theirs.mlp.ranking.scores, mine.mlp.ranking.scores)
        torch.testing.assert_close(theirs.mlp.error, mine.mlp.error)
        for unit, site in mine.attention.items():
            torch.testing.assert_close(theirs.attention[unit].error, site.error)
    assert there.notes == ()


@pytest.mark.parametrize(
    ("kinds", "cases"),
    [
        pytest.param(("cuda",), OWN, marks=pytest.mark.slow),
        # Takes two minutes; the pairs of other recoveries are checked for their results without it.
        pytest.param(("cuda", "mps"), ALL, marks=pytest.mark.soak),
    ],
    ids=["own recoveries", "all"],
)
def test_what_a_layer_sends_to_and_from_a_device_is_bounded_and_does_not_grow_with_the_text(
    kinds: tuple[str, ...], cases: list[tuple[str, str]], run: Runner
) -> None:
    print(f"\n{'one layer':47}to device  to host  waits  float64 operations")
    for kind, (method, recovery), (stage, most) in itertools.product(kinds, cases, MOST.items()):
        once, twice = (crossings(run(method, recovery, kind, n), stage) for n in (SAMPLES, 2 * SAMPLES))
        counts = "".join(f"{count:9}" for count in once.values())
        print(f"{kind:5}{method:18}{recovery:14}{stage:10}{counts}")
        once.pop("float64"), twice.pop("float64")
        assert once == twice, (method, recovery, stage)
        assert all(count <= getattr(most, name) for name, count in once.items()), (method, stage)


def crossings(run: Run, stage: str) -> dict[str, int]:
    """Return the counts of one layer in a stage."""
    return dataclasses.asdict(getattr(run, stage))


@pytest.mark.parametrize(("method", "recovery"), CASES)
def test_the_arithmetic_of_a_device_with_float64_stays_on_it(method: str, recovery: str, run: Runner) -> None:
    assert not run(method, recovery, "cuda").host_work


def test_a_wide_layer_is_computed_on_the_device_that_has_float64(text: texts.Text) -> None:
    # A matrix of its 1,152 channels has more than a million elements.
    wide = tiny_subject(intermediate_size=1152, num_hidden_layers=2)
    work = {}
    for kind in ("cuda", "mps"):
        device = PretendedDevice(kind, float64=kind == "cuda")
        with device:
            run_jobs(device.move_subject(wide), text, "slimllm", "least-squares", SAMPLES, device)
        work[kind] = device.host_work, device.device_work
    (host, there), (apple_host, apple_there) = work.values()
    assert not host
    # Products are made in bands that are smaller, so they are not among the counted operations.
    assert there["mul"] > 5
    assert there["linalg_cholesky_ex"]
    # Without float64 the device only sums the moments.
    assert apple_host["mul"] > 5
    assert apple_host["linalg_cholesky_ex"]
    assert not apple_there["linalg_cholesky_ex"]


@pytest.mark.parametrize(
    ("method", "lacked"),
    [("fasp", "linalg_cholesky_ex"), ("fasp", "silu"), ("fasp", "triu"), ("best", "silu"), ("ddp", "silu")],
)
def test_an_operation_that_a_device_lacks_is_done_by_the_processor_and_told_once(
    method: str, lacked: str, text: texts.Text, run: Runner
) -> None:
    recovery = METHODS[method].recovery
    here = run(method, recovery)
    with pretend("cuda", lacks=(lacked,)) as device:
        there = run_jobs(device.move_subject(tiny_subject()), text, method, recovery, SAMPLES, device)
    assert there.kept == here.kept
    torch.testing.assert_close(there.logits, here.logits, atol=1e-4, rtol=1e-4)
    # Once in the analysis and once in the pruning, which are two jobs.
    words = f"cuda:0 lacks the operation '{lacked}', so the processor does it."
    assert there.notes == (words, words)


def test_an_operation_that_no_device_is_to_blame_for_fails_as_it_did() -> None:
    def refuse(tensor: Tensor) -> Tensor:
        raise NotImplementedError(str(tensor.dtype))

    fallback = arithmetic.Fallback(lambda *_: None)
    with pytest.raises(NotImplementedError, match="float32"):
        fallback.__torch_function__(refuse, (), (torch.ones(2),))


def test_an_operation_in_place_changes_the_tensor_on_the_device() -> None:
    with pretend("cuda", lacks=("mul_",)) as device:
        tensor = torch.ones(3, device=device.place)
        with arithmetic.Arithmetic(device.place).cover_operations():
            assert tensor.mul_(2) is tensor
        assert tensor.cpu().tolist() == [2, 2, 2]


def test_matrices_that_a_device_has_no_room_for_go_to_the_processor_and_this_is_told_once(
    text: texts.Text, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run("slimllm", "regression")
    # Room for the 48 inputs of the attention's reader, but not for the 96 channels.
    room = arithmetic.needed_mib(48, 48)
    assert room < arithmetic.needed_mib(48, 96)
    monkeypatch.setattr(arithmetic, "available_mib", lambda _: room)
    with pretend("cuda") as device:
        there = run_jobs(device.move_subject(tiny_subject()), text, "slimllm", "regression", SAMPLES, device)
    assert there.kept == here.kept
    torch.testing.assert_close(there.logits, here.logits, atol=1e-4, rtol=1e-4)
    assert device.host_work["_linalg_eigh"]
    assert device.device_work["mm"]
    assert len(there.notes) == 2
    for words in there.notes:
        assert words.startswith("A layer's matrices need 0.0 GB and cuda:0 has 0.0 GB free, so the processor")


@pytest.mark.parametrize(("kind", "place"), [("cuda", "cuda:0"), ("mps", "cpu")])
def test_a_job_computes_on_its_device_if_that_has_float64(kind: str, place: str) -> None:
    with pretend(kind) as device:
        assert arithmetic.Arithmetic(device.place).device == torch.device(place)


def test_the_processor_needs_no_reading_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "available_mib", lambda _: pytest.fail("read"))
    plain = arithmetic.Arithmetic(torch.device("cpu"))
    assert plain.place_for(10**6, 10**6) == torch.device("cpu")
    assert isinstance(plain.cover_operations(), contextlib.nullcontext)


def test_moments_stored_by_a_device_are_used_again_on_it(text: texts.Text, tmp_path: Path) -> None:
    found, notes = [], []
    for kind in ("cuda", "cuda", "mps"):
        with pretend(kind) as device:
            job = pipeline.analyse_model(
                device.move_subject(tiny_subject()),
                text,
                Calibration(text.name, SAMPLES, LENGTH),
                folder=tmp_path,
            )
            found.append(pipeline.finish_job(job, lambda step: notes.append(step.words)))
    assert sum("used again" in words for words in notes) == 2
    for layers in zip(*(analysis.layers for analysis in found), strict=True):
        for other in layers[1:]:
            torch.testing.assert_close(other.mlp.error, layers[0].mlp.error)
            assert other.mlp.ranking.order.equal(layers[0].mlp.ranking.order)


def test_a_model_that_lost_value_columns_on_a_device_is_pruned_again_on_it(text: texts.Text) -> None:
    kept, logits = [], []
    for kind in ("cpu", "cuda"):
        device = pretend(kind)
        with device if kind == "cuda" else contextlib.nullcontext():
            subject = device.move_subject(tiny_subject()) if kind == "cuda" else tiny_subject()
            once = run_jobs(subject, text, "fasp", "least-squares", SAMPLES, None)
            twice = run_jobs(once.pruned.subject, text, "slimllm", "regression", SAMPLES, None)
            kept.append(twice.kept)
            logits.append(twice.logits)
    assert kept[0] == kept[1]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)


def test_the_mask_preview_of_a_device_gives_the_logits_of_the_processor(run: Runner) -> None:
    here = run("slimllm", "regression")
    masks = masks_of(here.analysis, here.pruned.plan)
    expected = read_logits(mask_units(tiny_subject(), masks))
    with pretend("cuda") as device:
        found = read_logits(mask_units(device.move_subject(tiny_subject()), masks))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
