"""Repairs of a reader whose inputs were cut, and their error at every width. Pure.

Everywhere weight (o, d) is the dense reader, `kept` (k,) ascending indices, `order` (d,) best input first.
Errors are E‖y − ŷ‖² / E‖y‖² with y = W x. A curve gives the exact error on the held-out tokens of a repair
that was fitted to the moments of the other tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slimllm.core.errors import Refusal
from slimllm.core.symmetric_products import measure_energies
from slimllm.core.types import Moments, Repair
from slimllm.methods.ordered_reader import (
    OrderedReader,
    fit_slopes,
    measure_losses,
    multiply_lower,
    tail_sums,
)

# The ridge as a share of the mean variance of the inputs, for least squares and for `guided_refit`, whose
# target is noisier.
DAMPING, GUIDED_DAMPING = 1e-2, 1e-1
# α of `guided_refit`.
GUIDANCE = 0.5
# The outputs of a reader that are processed together, so that a curve needs little beside its results.
OUTPUTS = 512


@dataclass(frozen=True, eq=False)
class Dense:
    """A dense reader W (o, d) and the moments of its inputs."""

    weight: Tensor
    moments: Moments

    @functools.cached_property
    def energy(self) -> float:
        """E‖y‖²."""
        return float(measure_energies(self.weight, self.moments.gram).sum())

    def squared_error(self, kept: Tensor, repair: Repair) -> float:
        """Return E‖W x − W' x_K − b‖² of a repair, as a scalar."""
        lost = self.weight.index_add(1, kept, repair.weight, alpha=-1)  # (o, d): W − W' at the kept inputs
        error = measure_energies(lost, self.moments.gram).sum()
        if repair.bias is not None:
            mean = lost @ self.moments.mean  # (o, d) @ (d,) → (o,)
            error = error - 2 * repair.bias @ mean + repair.bias.square().sum()
        return float(error.clamp_min(0))


def cut_columns(weight: Tensor, moments: Moments, kept: Tensor) -> Repair:
    """Return the kept columns (o, k), without any repair."""
    return Repair(weight[:, kept])


def shift_bias(weight: Tensor, moments: Moments, kept: Tensor) -> Repair:
    """Return the kept columns (o, k), with the mean of what is lost as bias (FLAP, arXiv 2312.11983)."""
    return Repair(weight[:, kept], lost_mean(weight, weight[:, kept], moments, kept))


def regress_outputs(weight: Tensor, moments: Moments, kept: Tensor) -> Repair:
    """Fit every output as a·ŷ + b: SlimLLM's recovery (section 3.5, arXiv 2505.22689).

    a = cov(y, ŷ) / var(ŷ), or 1 for a constant ŷ. a scales the row of the weight, and b becomes the bias.
    """
    cov, part, lost = moments.cov, weight[:, kept], complement_indices(kept, weight.shape[1])  # (o, k), (p,)
    variance = measure_energies(part, square_part(cov, kept))  # (o,)
    # y is ŷ and what the lost inputs give.
    shared = part @ cov[kept[:, None], lost]  # (o, k) @ (k, p) → (o, p)
    covariance = variance + (shared * weight[:, lost]).sum(1)  # (o,)
    slope = torch.where(
        output_varies(variance, moments, part, kept), covariance / variance, torch.ones_like(variance)
    )
    part = slope[:, None] * part
    return Repair(part, lost_mean(weight, part, moments, kept))


def least_squares(weight: Tensor, moments: Moments, kept: Tensor, *, damping: float = DAMPING) -> Repair:
    """Refit all kept columns and the bias at once; a ridge pulls towards the old weights.

    W' = W_K + W_P C_PK (C_KK + δI)⁻¹ with P the lost inputs, C the covariance and δ = damping · mean of its
    diagonal (after FASP, arXiv 2501.09412). Raise `Refusal` if the moments are not finite.
    """
    cov = moments.cov
    part = weight[:, kept]  # (o, k)
    lost = complement_indices(kept, weight.shape[1])  # (p,)
    if len(kept) and len(lost):
        root = cholesky_factor(add_damping(square_part(cov, kept), ridge_damping(cov, damping)))  # (k, k)
        target = cov[kept[:, None], lost] @ weight[:, lost].T  # (k, p) @ (p, o) → (k, o)
        part = part + torch.cholesky_solve(target, root).T  # (k, o) → (o, k)
    return Repair(part, lost_mean(weight, part, moments, kept))


def guided_refit(weight: Tensor, moments: Moments, kept: Tensor) -> Repair:
    """Refit towards y + α e, which compensates for half of the stream's drift from the dense model.

    e is the error that earlier cuts left in the residual stream behind this site (`Moments.drift`). With α =
    1 a fit follows what its inputs cannot know, and is worse on other texts. A reader that keeps all its
    inputs is refitted without a bias, so that it gains no parameter. Raise `Refusal` if the moments are not
    finite.
    """
    drift, part = moments.drift, weight[:, kept]  # (o, k)
    if drift is None:
        return least_squares(weight, moments, kept, damping=GUIDED_DAMPING)
    whole = len(kept) == weight.shape[1]
    # Without a bias the fit uses moments about zero, with a bias those about the mean.
    second = moments.gram if whole else moments.cov  # (d, d)
    cross = drift.cross if whole else drift.cross - torch.outer(drift.mean, moments.mean)  # (o, d)
    inner = square_part(second, kept)  # (k, k)
    lost = weight @ second[:, kept] - part @ inner + GUIDANCE * cross[:, kept]  # (o, k)
    root = cholesky_factor(add_damping(inner, ridge_damping(second, GUIDED_DAMPING)))
    part = part + torch.cholesky_solve(lost.T, root).T  # (k, o) → (o, k)
    if whole:
        return Repair(part)
    return Repair(part, lost_mean(weight, part, moments, kept) + GUIDANCE * drift.mean)


def guided_curve(site: OrderedReader) -> Tensor:
    """Return the error (d+1,) of `guided_refit` at every width, without drift from earlier layers."""
    return least_squares_curve(site, damping=GUIDED_DAMPING)


def cut_curve(site: OrderedReader) -> Tensor:
    """Return the error (d+1,) of `cut_columns` at every width.

    As in `shift_bias_curve`, but the mean m of the lost inputs is missing, too: at a token of scale s, it
    adds s W_{k:} m_{k:} to the row of R_k.
    """
    error = tail_sums(site.added_losses.sum(0))  # (d+1,)
    mean, scale = site.fitted.mean[site.order], site.reader.scale  # (d,), (n, 1)
    seen = (scale.T @ site.inputs)[0]  # (d,)
    for some in site.weight.split(OUTPUTS):
        missing = tail_sums(some * mean)  # (r, d+1)
        error = error + (missing * (2 * tail_sums(some * seen) + scale.square().sum() * missing)).sum(0)
    return site.shares(error)


def shift_bias_curve(site: OrderedReader) -> Tensor:
    """Return the error (d+1,) of `shift_bias` at every width: ‖R_k‖²."""
    return site.shares(tail_sums(site.added_losses.sum(0)))


def regress_outputs_curve(site: OrderedReader) -> Tensor:
    """Return the error (d+1,) of `regress_outputs` at every width, by cumulative sums over the order."""
    slopes, error = fit_slopes(site.weight, site.cov), torch.zeros_like(site.weight[0])  # (o, d), (d,)
    energy = error.sum()
    for start in range(0, len(slopes), OUTPUTS):
        rows = slice(start, start + OUTPUTS)
        # What each input adds to E[y ŷ], then to E[ŷ²]: E(y − ŷ)² is E y² − 2 E[y ŷ] + E[ŷ²].
        shared = (site.outputs[:, rows].T @ site.inputs).mul_(site.weight[rows])  # (r, d)
        variance = (2 * shared - site.added_losses[rows]).cumsum(1)  # (r, d), with 1, 2, … d inputs
        covariance = shared.cumsum(1)  # (r, d)
        energy = energy + covariance[:, -1].sum()
        error += (covariance[:, -1:] - (2 * covariance - slopes[rows] * variance) * slopes[rows]).sum(0)
    # With nothing kept, the bias leaves the variance of y as error; with everything kept, there is none.
    return site.shares(torch.cat((energy[None], error[:-1], error.new_zeros(1))))


def least_squares_curve(site: OrderedReader, *, damping: float = DAMPING) -> Tensor:
    """Return the error (d+1,) of `least_squares` at every width from one factor L Lᵀ = C + δI.

    The change of weights at width k is (W L)_{k:} (L⁻¹)_{k:,:}, so the curve is that of `shift_bias` for the
    reader W L of the inputs X L⁻ᵀ, whose outputs are the same.
    """
    cov = site.cov  # (d, d)
    root = cholesky_factor(add_damping(cov, ridge_damping(cov, damping)))  # (d, d)
    # In float64, a matrix of 8,192 inputs takes half a gigabyte.
    del cov
    weight = multiply_lower(site.weight, root)  # (o, d)
    inputs = torch.linalg.solve_triangular(root, site.inputs.T, upper=False).T  # (n, d)
    del root
    return site.shares(tail_sums(measure_losses(weight, inputs, site.outputs).sum(0)))


def lost_mean(weight: Tensor, part: Tensor, moments: Moments, kept: Tensor) -> Tensor:
    """Return the mean E[W x − W' x_K] (o,) that a repair loses."""
    return weight @ moments.mean - part @ moments.mean[kept]  # (o, d) @ (d,) − (o, k) @ (k,) → (o,)


def output_varies(variance: Tensor, moments: Moments, part: Tensor, kept: Tensor) -> Tensor:
    """Return whether each output's variance (o,) exceeds rounding errors, as (o,) bool."""
    scale = part.square() @ moments.cov.diagonal()[kept].clamp_min(0)  # (o, k) @ (k,) → (o,)
    return variance > torch.finfo(variance.dtype).eps * scale


def complement_indices(kept: Tensor, n: int) -> Tensor:
    """Return the indices (n − k,) below n that are not among these (k,), in ascending order."""
    mask = torch.zeros(n, dtype=torch.uint8, device=kept.device).index_fill_(0, kept, 1)
    # Unlike `nonzero`, a stable sort does not wait for the device to count.
    return mask.argsort(stable=True)[: n - len(kept)]


def ridge_damping(cov: Tensor, damping: float) -> Tensor:
    """Return δ, a share of the mean variance, as a scalar; it is positive even for constant inputs."""
    return (damping * cov.diagonal().mean()).clamp_min(torch.finfo(cov.dtype).eps)


def cholesky_factor(matrix: Tensor) -> Tensor:
    """Return the lower Cholesky factors of matrices (…, k, k).

    If rounding makes a factorisation fail, the damping of that matrix grows tenfold until it succeeds. Raise
    `Refusal` if a matrix is not finite. The device is waited for once, unless something fails.
    """
    root, info = torch.linalg.cholesky_ex(matrix)
    if not (info.any() | ~matrix.isfinite().all()):
        return root
    if not matrix.isfinite().all():
        raise Refusal(
            "The moments of this layer are not finite, so the model overflows on this text; load it "
            "with --dtype float32."
        )
    lift = torch.finfo(matrix.dtype).eps * matrix.diagonal(dim1=-2, dim2=-1).abs().amax(-1)  # (…,)
    while info.any():
        matrix = matrix + torch.diag_embed((lift * (info > 0))[..., None].expand(matrix.shape[:-1]))
        lift = lift * 10
        root, info = torch.linalg.cholesky_ex(matrix)
    return root


def square_part(matrix: Tensor, index: Tensor) -> Tensor:
    """Return a copy (k, k) of the rows and columns of a matrix (d, d) with these indices (k,)."""
    return matrix[index[:, None], index]


def add_damping(matrix: Tensor, delta: Tensor) -> Tensor:
    """Add δ to the diagonal, in place, and return the matrix."""
    matrix.diagonal().add_(delta)
    return matrix


@dataclass(frozen=True)
class Recovery:
    """A row of the table: a repair, its error curve, whether it adds a bias, and a description.

    `follows`: it also compensates for errors that earlier cuts left in the stream. `fits`: it fits a number
    to every remaining input, which needs a long text.
    """

    title: str
    repair: Callable[[Tensor, Moments, Tensor], Repair]
    curve: Callable[[OrderedReader], Tensor]
    bias: bool
    words: str
    follows: bool = False
    fits: bool = False


RECOVERIES: dict[str, Recovery] = {
    "none": Recovery("None", cut_columns, cut_curve, False, "Cut and leave the rest as it is."),
    "bias": Recovery(
        "Bias", shift_bias, shift_bias_curve, True, "Add back the average of what was cut as a constant."
    ),
    "regression": Recovery(
        "Regression",
        regress_outputs,
        regress_outputs_curve,
        True,
        "Rescale and shift every output so that it follows the original as closely as two numbers can "
        "(SlimLLM).",
    ),
    "least-squares": Recovery(
        "Least squares",
        least_squares,
        least_squares_curve,
        True,
        "Refit all remaining weights of the reading layer so that its output follows the original.",
        fits=True,
    ),
    "guided": Recovery(
        "Guided least squares",
        guided_refit,
        guided_curve,
        True,
        "Refit as least squares, and let later layers make up for half of what earlier ones lost.",
        follows=True,
        fits=True,
    ),
}
