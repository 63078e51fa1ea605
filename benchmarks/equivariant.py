"""Equivariant linear layers: diagrams against multiplication by the dense matrix, as n and k + l grow; memory too.

The dense side has its n^l × n^k matrix ready and only multiplies; the agreement is checked first. float32.
"""

import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.harness import Case, close, run
from metanets.equivariant import (
    Alternating,
    EquivariantLinear,
    Group,
    Orthogonal,
    SpecialOrthogonal,
    Symmetric,
    Symplectic,
)

BATCH = 16
Size = tuple[type, int, int, int, int]
SIZES: list[Size] = [  # kind, n, order in, order out, channels
    *((Symmetric, n, 2, 2, 1) for n in (5, 10, 20, 40, 60)),
    *((Symmetric, n, 2, 2, 8) for n in (5, 10, 20, 30)),
    *((Symmetric, n, 3, 2, 1) for n in (5, 10, 18)),
    *((Symmetric, n, 3, 3, 1) for n in (4, 8, 12)),
    (Alternating, 5, 3, 3, 8),
    *((Orthogonal, n, 2, 2, 1) for n in (10, 30, 60)),
    *((Orthogonal, n, 3, 3, 1) for n in (4, 8, 14)),
    *((Orthogonal, n, 3, 3, 8) for n in (4, 6, 8)),
    (SpecialOrthogonal, 4, 3, 3, 8),
    *((Symplectic, n, 3, 3, 1) for n in (4, 8, 14)),
]

MEMORY: list[Size] = [
    *((Symmetric, n, 2, 2, 1) for n in (20, 40, 60)),
    *((Symmetric, n, 3, 3, 1) for n in (8, 12)),
    *((Orthogonal, n, 3, 3, 1) for n in (8, 14)),
]


def layer(kind: type, n: int, order_in: int, order_out: int, channels: int) -> EquivariantLinear:
    torch.manual_seed(0)
    group: Group = kind(n)
    return EquivariantLinear(group, order_in, order_out, channels, channels, bias=False, terms="spanning", dense=False)


def dense_matrix(made: EquivariantLinear) -> torch.Tensor:
    """`[n^l · D, n^k · C]` built diagram by diagram, so that their matrices are never held together."""
    n, channels = made.group.n, made.weight.shape[1]
    total = torch.zeros(n**made.order_out, channels, n**made.order_in, channels)
    for term, weight in zip(made.terms, made.weight.detach(), strict=True):
        matrix = torch.from_numpy(term.matrix(made.group)).float()
        total += matrix[:, None, :, None] * weight.T[None, :, None, :]
    return total.flatten(2).flatten(0, 1)


@torch.no_grad()
def case(*size: Any) -> Case:
    made = layer(*size)
    x = inputs(made)
    flat, matrix = x.reshape(BATCH, -1), dense_matrix(made)
    return Case(
        f"{made.group} {made.order_in} → {made.order_out}, channels {made.weight.shape[1]}, {len(made.terms)} diagrams",
        lambda: made(x).detach().reshape(BATCH, -1),
        lambda: flat @ matrix.T,
        close(1e-3, 1e-3),
        ours_name="diagrams",
        baseline_name="dense",
    )


def inputs(made: EquivariantLinear) -> torch.Tensor:
    return torch.randn(BATCH, *(made.group.n,) * made.order_in, made.weight.shape[1])


def peak_megabytes(side: str, kind: type, *numbers: int) -> float:
    """How far one product, with what it needs, raises the peak memory of a fresh process."""
    command = [sys.executable, "-m", "benchmarks.equivariant", "--peak", side, kind.__name__, *map(str, numbers)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def _peak(side: str, kind: str, *numbers: str) -> None:
    made = layer({each.__name__: each for each, *_ in SIZES}[kind], *map(int, numbers))
    x = inputs(made)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if side == "dense":  # ones of the right size: how the matrix is built does not count
        flat = x.reshape(BATCH, -1)
        flat @ torch.ones(made.group.n**made.order_out * made.weight.shape[2], flat.shape[1]).T
    else:
        made(x)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main(sizes: Sequence[Size] = SIZES) -> int:
    notes = []
    for size in MEMORY:
        if size in sizes:
            fast, dense = (peak_megabytes(side, *size) for side in ("diagrams", "dense"))
            text = (
                f"{size[0].__name__}({size[1]}) {size[2]} → {size[3]}: diagrams {fast:,.1f} MB, dense {dense:,.1f} MB"
            )
            notes.append(f"peak memory, {text}")
    return run("equivariant", [case(*size) for size in sizes], notes=notes)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        _peak(*sys.argv[2:])
    else:
        sys.exit(main())
