"""Products with symmetric matrices, each at about half of the multiplications of the plain product. Pure.

Everywhere weight (o, d) is any matrix W, and matrix (d, d) is symmetric.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# The bands that a triangle is computed in. More of them skip more zeros, but make smaller products.
BANDS = 8


def split_bands(columns: int, height: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of bands of this height; the last one may be lower."""
    for start in range(0, columns, height):
        yield start, min(start + height, columns)


def split_triangle(columns: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the bands of a triangle with this many columns."""
    return split_bands(columns, max(1, -(-columns // BANDS)))


def subtract_gram(matrix: Tensor, rows: Tensor) -> Tensor:
    """Subtract XᵀX of rows X (n, d) from a matrix, in place, and return it."""
    for start, end in split_triangle(len(matrix)):
        # (B, n) @ (n, d − start) → (B, d − start)
        matrix[start:end, start:].addmm_(rows[:, start:end].T, rows[:, start:], alpha=-1)
        matrix[end:, start:end] = matrix[start:end, end:].T
    return matrix


def measure_energies(weight: Tensor, matrix: Tensor) -> Tensor:
    """Return the diagonal of W M Wᵀ (o,): E[y²] of every output y of W x if the matrix is E[x xᵀ]."""
    energies = weight.new_zeros(len(weight))  # (o,)
    for start, end in split_triangle(len(matrix)):
        some = weight[:, start:end]  # (o, B)
        after = weight[:, end:] @ matrix[end:, start:end]  # (o, d − end) @ (d − end, B) → (o, B)
        energies += (some * (2 * after + some @ matrix[start:end, start:end])).sum(1)
    return energies


def transform_covariance(weight: Tensor, matrix: Tensor) -> Tensor:
    """Return W M Wᵀ (o, o), exactly symmetric: the covariance of W x if the matrix is that of x."""
    half = torch.empty_like(weight)  # W times the upper triangle of M with half its diagonal
    for start, end in split_triangle(len(matrix)):
        own = matrix[start:end, start:end]  # (B, B)
        within = own.triu(1).diagonal_scatter(own.diagonal() / 2)  # (B, B)
        # (o, start) @ (start, B) + (o, B) @ (B, B) → (o, B)
        half[:, start:end] = weight[:, :start] @ matrix[:start, start:end] + weight[:, start:end] @ within
    product = half @ weight.T  # (o, d) @ (d, o) → (o, o)
    return product + product.T
