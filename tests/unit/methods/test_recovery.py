"""Claims about recoveries: each equals a naive fit on activations, its curve that fit's error; no NaN ever.

Everything naive below sees activations only. `soon` turns an endless loop into a failure.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slimllm.calibration.moments import Accumulator
from slimllm.core.held_out import HeldOut, HeldOutReader
from slimllm.core.types import Moments, Repair
from slimllm.methods.ordered_reader import OrderedReader
from slimllm.methods.recovery import (
    DAMPING,
    RECOVERIES,
    Dense,
    least_squares,
    least_squares_curve,
    regress_outputs,
)

Case = tuple[Tensor, Tensor, Tensor]  # activations (t, d), weight (o, d), order (d,)
INPUTS, OUTPUTS = 12, 5
HARD = {"sink": 1e-6, "large mean": 1e-6}  # tolerances where float64 itself loses digits; else 1e-9

pytestmark = pytest.mark.usefixtures("one_thread")


@contextlib.contextmanager
def soon(seconds: float = 2) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError("still running: this looks like an endless loop")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments_of(x: Tensor) -> Moments:
    return Moments(x.mean(0), x.T @ x / len(x), len(x))


def case(name: str, seed: int = 0) -> Case:
    """Correlated activations whose mean is not zero, with the named damage."""
    x = normal(80, INPUTS, seed=seed) @ normal(INPUTS, INPUTS, seed=seed + 1) / 3 + normal(
        INPUTS, seed=seed + 2
    )
    weight = normal(OUTPUTS, INPUTS, seed=seed + 3)
    order = torch.randperm(INPUTS, generator=torch.Generator().manual_seed(seed))
    if name == "dead channel":
        x[:, 3] = 0
    elif name == "dead first":  # the best channels are dead, so that widths 1 and 2 have nothing to offer
        x[:, order[:2]] = 0
    elif name == "constant output":
        weight[1] = 0
        weight[2] = 0
        weight[2, order[0]] = 1
        x[:, order[0]] = 0.1
    elif name == "few tokens":
        x = x[:5]
    elif name == "one token":
        x = x[:1]
    elif name == "duplicates":
        x[:, 6:] = x[:, :6]
    elif name == "sink":
        x[0] *= 1e4
    elif name == "large mean":
        x += 100
    elif name == "constant site":
        x[:] = 0.3 * torch.arange(1, INPUTS + 1)
    elif name == "dead site":
        x[:] = 0
    return x, weight, order


FITTABLE = ["random", "dead channel", "few tokens", "duplicates", "sink", "large mean"]
CASES = [*FITTABLE, "dead first", "constant output", "one token", "constant site", "dead site"]


def repaired(name: str, x: Tensor, weight: Tensor, kept: Tensor) -> Repair:
    with soon():
        return RECOVERIES[name].repair(weight, moments_of(x), kept)


def reader_of(weight: Tensor, x: Tensor) -> HeldOutReader:
    """The reader at activations that are held out."""
    return HeldOutReader(weight, HeldOut(x, torch.ones(len(x))))


def curve_of(name: str, x: Tensor, weight: Tensor, order: Tensor, unseen: Tensor | None = None) -> Tensor:
    """The curve of repairs fitted to `x`, told on `unseen` activations, or on the same ones."""
    with soon():
        reader = reader_of(weight, x if unseen is None else unseen)
        return RECOVERIES[name].curve(OrderedReader(reader, moments_of(x), order))


def outputs(x: Tensor, kept: Tensor, repair: Repair) -> Tensor:
    y = x[:, kept] @ repair.weight.T
    return y if repair.bias is None else y + repair.bias


def measured(x: Tensor, weight: Tensor, kept: Tensor, repair: Repair) -> float:
    """E‖y − ŷ‖² / E‖y‖² on activations; 0 where y is always 0 and nothing else is given."""
    y = x @ weight.T
    lost = float((y - outputs(x, kept, repair)).square().sum())
    return lost / float(y.square().sum()) if float(y.square().sum()) else lost


def close(value: float, expected: float, name: str) -> bool:
    return value == pytest.approx(expected, abs=HARD.get(name, 1e-9), rel=HARD.get(name, 1e-8))


def widths(order: Tensor) -> list[tuple[int, Tensor]]:
    return [(k, order[:k].sort().values) for k in range(len(order) + 1)]


# Forecast and knife agree ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("recovery", RECOVERIES)
def test_oracle_curve_is_the_error_measured_on_activations(recovery: str, name: str) -> None:
    for seed in (0, 100):
        x, weight, order = case(name, seed)
        curve = curve_of(recovery, x, weight, order)
        assert len(curve) == INPUTS + 1
        for k, kept in widths(order):
            repair = repaired(recovery, x, weight, kept)
            assert repair.weight.shape == (OUTPUTS, k)
            assert (repair.bias is not None) == RECOVERIES[recovery].bias
            assert close(float(curve[k]), measured(x, weight, kept, repair), name), f"width {k}"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("recovery", RECOVERIES)
def test_oracle_curve_is_the_error_of_the_repair_on_activations_it_has_not_seen(
    recovery: str, name: str
) -> None:
    """Also where an input lies still in what was learned and comes alive in what was not."""
    for other in (name, "random"):
        x, weight, order = case(name)
        unseen = case(other, seed=200)[0][:17]
        curve = curve_of(recovery, x, weight, order, unseen)
        for k, kept in widths(order):
            repair = repaired(recovery, x, weight, kept)
            assert close(float(curve[k]), measured(unseen, weight, kept, repair), name), f"width {k}"


@pytest.mark.parametrize("recovery", RECOVERIES)
def test_oracle_curve_counts_every_token_held_out_by_its_weight(recovery: str) -> None:
    x, weight, order = case("random")
    unseen, counts = normal(6, INPUTS, seed=9), torch.tensor([1, 2, 3, 1, 4, 1])
    reader = HeldOutReader(weight, HeldOut(unseen, counts.float()))
    curve = RECOVERIES[recovery].curve(OrderedReader(reader, moments_of(x), order))
    same = curve_of(recovery, x, weight, order, unseen.repeat_interleave(counts, 0))
    torch.testing.assert_close(curve, same)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("recovery", RECOVERIES)
def test_oracle_error_is_the_error_measured_on_activations(recovery: str, name: str) -> None:
    x, weight, order = case(name)
    energy = float((x @ weight.T).square().sum(1).mean()) or 1.0
    for _, kept in widths(order):
        repair = repaired(recovery, x, weight, kept)
        exact = measured(x, weight, kept, repair)
        value = Dense(weight, moments_of(x)).squared_error(kept, repair) / energy
        assert close(value, exact, name)
        value = reader_of(weight, x).error(kept, repair.weight, repair.bias)
        if energy != 1:  # else what is given where y is always 0 is a share of nothing
            assert close(value, exact, name)


def test_oracle_error_holds_for_any_weight_and_bias() -> None:
    x, weight, order = case("random")
    energy = float((x @ weight.T).square().sum(1).mean())
    for _, kept in widths(order):
        for bias in (None, normal(OUTPUTS, seed=5)):
            repair = Repair(normal(OUTPUTS, len(kept), seed=4), bias)
            value = reader_of(weight, x).error(kept, repair.weight, repair.bias)
            assert value == pytest.approx(measured(x, weight, kept, repair), rel=1e-9)
            value = Dense(weight, moments_of(x)).squared_error(kept, repair)
            assert value == pytest.approx(measured(x, weight, kept, repair) * energy, rel=1e-9)


def test_oracle_energy() -> None:
    x, weight, _ = case("random")
    energy = float((x @ weight.T).square().sum(1).mean())
    assert Dense(weight, moments_of(x)).energy == pytest.approx(energy)


# Repairs equal naive fits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_oracle_no_recovery_cuts_columns(name: str) -> None:
    x, weight, order = case(name)
    for _, kept in widths(order):
        repair = repaired("none", x, weight, kept)
        assert torch.equal(repair.weight, weight[:, kept])
        assert repair.bias is None


@pytest.mark.parametrize("name", CASES)
def test_oracle_bias_is_the_mean_of_what_is_lost(name: str) -> None:
    x, weight, order = case(name)
    for _, kept in widths(order):
        repair = repaired("bias", x, weight, kept)
        lost = x @ weight.T - x[:, kept] @ weight[:, kept].T
        assert torch.equal(repair.weight, weight[:, kept])
        torch.testing.assert_close(repair.bias, lost.mean(0), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", FITTABLE)
def test_oracle_regression_is_a_line_fitted_to_every_output(name: str) -> None:
    x, weight, order = case(name)
    for k, kept in widths(order)[1:]:
        repair = repaired("regression", x, weight, kept)
        before, y = (x[:, kept] @ weight[:, kept].T).numpy(), (x @ weight.T).numpy()
        for i in range(OUTPUTS):
            if np.ptp(before[:, i]) < 1e-9:
                continue
            slope, intercept = np.polyfit(before[:, i], y[:, i], 1)
            expected = torch.from_numpy(slope * before[:, i] + intercept)
            scale = float(np.abs(y).max())
            torch.testing.assert_close(
                outputs(x, kept, repair)[:, i],
                expected,
                atol=1e-6 * scale,
                rtol=0,
                msg=f"width {k}, output {i}",
            )
            assert repair.weight[i].tolist() == pytest.approx(
                (slope * weight[i, kept]).tolist(), rel=1e-5, abs=1e-7
            )


@pytest.mark.parametrize("name", FITTABLE)
@pytest.mark.parametrize("damping", [DAMPING, 0.3])
def test_oracle_least_squares_is_an_augmented_linear_fit(name: str, damping: float) -> None:
    """√(δ t)·I as extra rows pulls every kept weight towards its old value; centring frees the bias."""
    x, weight, order = case(name)
    t, y = len(x), x @ weight.T
    centred = x - x.mean(0)
    delta = damping * float(centred.square().mean())
    for _, kept in widths(order)[1:]:
        pull = (delta * t) ** 0.5
        rows = torch.cat((centred[:, kept], pull * torch.eye(len(kept), dtype=torch.float64)))
        targets = torch.cat((y - y.mean(0), pull * weight[:, kept].T))
        expected = torch.linalg.lstsq(rows, targets, driver="gelsd").solution.T
        with soon():
            repair = least_squares(weight, moments_of(x), kept, damping=damping)
        assert repair.bias is not None
        torch.testing.assert_close(repair.weight, expected, atol=HARD.get(name, 1e-9), rtol=1e-6)
        fitted = centred[:, kept] @ expected.T + y.mean(0)
        scale = float(y.abs().max())
        torch.testing.assert_close(outputs(x, kept, repair), fitted, atol=1e-8 * scale, rtol=0)


def test_oracle_least_squares_curve_follows_its_damping() -> None:
    x, weight, order = case("random")
    for damping in (1e-6, 0.3, 10.0):
        curve = least_squares_curve(
            OrderedReader(reader_of(weight, x), moments_of(x), order), damping=damping
        )
        for k, kept in widths(order):
            repair = least_squares(weight, moments_of(x), kept, damping=damping)
            assert float(curve[k]) == pytest.approx(measured(x, weight, kept, repair), rel=1e-6, abs=1e-10)


# Orders and limits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_keeping_everything_changes_nothing(name: str) -> None:
    x, weight, order = case(name)
    everything = torch.arange(INPUTS)
    for recovery in RECOVERIES:
        repair = repaired(recovery, x, weight, everything)
        if recovery == "regression":
            torch.testing.assert_close(repair.weight, weight, atol=1e-6, rtol=1e-6)
        else:
            assert torch.equal(repair.weight, weight)
        if repair.bias is not None:
            torch.testing.assert_close(repair.bias, torch.zeros_like(repair.bias), atol=1e-4, rtol=0)
        assert measured(x, weight, everything, repair) < 1e-9
        assert float(curve_of(recovery, x, weight, order)[-1]) == 0


@pytest.mark.parametrize("name", CASES)
def test_oracle_more_freedom_never_errs_more_on_the_calibration_tokens(name: str) -> None:
    x, weight, order = case(name)
    slack = HARD.get(name, 1e-9)
    for _, kept in widths(order):
        none, bias, regression, squares = (
            measured(x, weight, kept, repaired(r, x, weight, kept))
            for r in ("none", "bias", "regression", "least-squares")
        )
        assert bias <= none + slack
        assert regression <= bias + slack
        assert squares <= bias + slack


def test_least_squares_beats_regression_where_channels_are_redundant() -> None:
    x, weight, _ = case("duplicates")
    kept = torch.arange(6)  # columns 6… repeat them
    squares, regression = (
        measured(x, weight, kept, repaired(r, x, weight, kept)) for r in ("least-squares", "regression")
    )
    assert squares < 0.01 < regression


@pytest.mark.parametrize("source", ["float64", "float32", "accumulated"])
@pytest.mark.parametrize("value", [0.1, 0.3, 3.3, 1000.7])
def test_an_output_of_constant_inputs_has_slope_one(value: float, source: str) -> None:
    """Rounding leaves cov(x, x) ≈ ±ε·x² where x is constant; a slope fitted to that is noise."""
    x, weight, _ = case("random")
    x[:, [2, 5]] = value
    moments = moments_of(x.to(torch.float32 if source == "float32" else torch.float64))
    if source == "accumulated":
        accumulator = Accumulator()
        for batch in x.split(16):
            accumulator.add(batch)
        moments = accumulator.moments.double()
    kept = torch.tensor([2, 5])
    repair = regress_outputs(weight.to(moments.gram.dtype), moments, kept)
    torch.testing.assert_close(repair.weight.double(), weight[:, kept], rtol=1e-5, atol=1e-6)


# Numbers that break factorisations -------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("recovery", RECOVERIES)
def test_single_precision_is_finite_and_near_double_precision(recovery: str, name: str) -> None:
    x, weight, order = case(name)
    single = moments_of(x)
    single = Moments(single.mean.float(), single.gram.float(), single.tokens)
    with soon():
        reader = reader_of(weight.float(), x.float())
        curve = RECOVERIES[recovery].curve(OrderedReader(reader, single, order))
        repairs = [RECOVERIES[recovery].repair(weight.float(), single, kept) for _, kept in widths(order)]
    assert curve.dtype == torch.float32
    for repair in repairs:
        assert torch.isfinite(repair.weight).all()
        assert repair.bias is None or torch.isfinite(repair.bias).all()
    near = 2e-2 if name == "sink" else 1e-3  # slopes that a sink leaves are hardly known in single precision
    torch.testing.assert_close(curve.double(), curve_of(recovery, x, weight, order), atol=near, rtol=near)
    for (_, kept), repair in zip(widths(order), repairs, strict=True):
        double = Repair(repair.weight.double(), None if repair.bias is None else repair.bias.double())
        exact = measured(x, weight, kept, repaired(recovery, x, weight, kept))
        assert measured(x, weight, kept, double) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("value", [0.1, 0.3, 3.3, 1000.7])
@pytest.mark.parametrize("tokens", [3, 7, 30, 100])
def test_constant_activations_end_in_finite_curves(value: float, tokens: int) -> None:
    weight, order = normal(OUTPUTS, INPUTS, seed=3), torch.arange(INPUTS)
    x = value * torch.arange(1, INPUTS + 1, dtype=torch.float64).expand(tokens, INPUTS)
    for recovery in RECOVERIES:
        curve = curve_of(recovery, x, weight, order)
        repair = repaired(recovery, x, weight, order[:4])
        assert torch.isfinite(curve).all()
        assert torch.isfinite(repair.weight).all()
        if recovery != "none":  # the bias alone restores a constant
            assert float(curve.max()) < 1e-9


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_moments_that_are_not_finite_end_in_an_error_and_not_in_a_hang(value: float) -> None:
    x, weight, order = case("random")
    x[3, 4] = value
    with pytest.raises((ValueError, RuntimeError)):
        curve_of("least-squares", x, weight, order)
    with pytest.raises((ValueError, RuntimeError)):
        repaired("least-squares", x, weight, order[:5].sort().values)


def test_arguments_are_never_changed_in_place() -> None:
    x, weight, order = case("random")
    moments, kept = moments_of(x), order[:7].sort().values
    reader = reader_of(weight, x)
    given = (weight, moments.mean, moments.gram, reader.held.inputs, reader.held.weights, order, kept)
    before = [tensor.clone() for tensor in given]
    for recovery in RECOVERIES.values():
        repair = recovery.repair(weight, moments, kept)
        recovery.curve(OrderedReader(reader, moments, order))
        Dense(weight, moments).squared_error(kept, repair)
        reader.error(kept, repair.weight, repair.bias)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
