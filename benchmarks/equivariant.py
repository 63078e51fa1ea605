"""Equivariant linear layers: diagrams against multiplication by the dense matrix, as n and k + l grow; memory too.

The dense side has its n^l × n^k matrix ready and only multiplies; the agreement is checked first. One channel, float32.
"""

import resource
import subprocess
import sys
from collections.abc import Sequence

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
SIZES: list[tuple[type, int, int, int]] = [  # kind, n, order in, order out
    *((Symmetric, n, 2, 2) for n in (5, 10, 20, 40, 60)),
    *((Symmetric, n, 3, 2) for n in (5, 10, 18)),
    *((Symmetric, n, 3, 3) for n in (4, 8, 12)),
    (Alternating, 5, 3, 3),
    *((Orthogonal, n, 2, 2) for n in (10, 30, 60)),
    *((Orthogonal, n, 3, 3) for n in (4, 8, 14)),
    (SpecialOrthogonal, 4, 3, 3),
    *((Symplectic, n, 3, 3) for n in (4, 8, 14)),
]


def layer(kind: type, n: int, k: int, l: int) -> EquivariantLinear:  # noqa: E741
    torch.manual_seed(0)
    group: Group = kind(n)
    return EquivariantLinear(group, k, l, 1, 1, bias=False, terms="spanning", dense=False)


def dense_matrix(made: EquivariantLinear) -> torch.Tensor:
    """`[n^l, n^k]` built diagram by diagram, so that their matrices are never held together."""
    n = made.group.n
    total = torch.zeros(n**made.order_out, n**made.order_in)
    for term, weight in zip(made.terms, made.weight.detach().flatten().tolist(), strict=True):
        total += weight * torch.from_numpy(term.matrix(made.group)).float()
    return total


@torch.no_grad()
def case(kind: type, n: int, k: int, l: int) -> Case:  # noqa: E741
    made = layer(kind, n, k, l)
    x = torch.randn(BATCH, *(n,) * k, 1)
    flat, matrix = x.reshape(BATCH, -1), dense_matrix(made)
    return Case(
        f"{made.group} {k} → {l}, {len(made.terms)} diagrams",
        lambda: made(x).detach().reshape(BATCH, -1),
        lambda: flat @ matrix.T,
        close(1e-3, 1e-3 * n ** (k / 2)),
        ours_name="diagrams",
        baseline_name="dense",
    )


def peak_megabytes(side: str, kind: type, n: int, k: int, l: int) -> float:  # noqa: E741
    """How far one product, with what it needs, raises the peak memory of a fresh process."""
    command = [sys.executable, "-m", "benchmarks.equivariant", "--peak", side, kind.__name__, str(n), str(k), str(l)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def _peak(side: str, kind: str, n: str, k: str, l: str) -> None:  # noqa: E741
    made = layer({each.__name__: each for each, *_ in SIZES}[kind], int(n), int(k), int(l))
    x = torch.randn(BATCH, *(made.group.n,) * made.order_in, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if side == "dense":  # zeros of the right size: how the matrix is built does not count
        x.reshape(BATCH, -1) @ torch.zeros(made.group.n**made.order_out, made.group.n**made.order_in).add_(1).T
    else:
        made(x)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main(sizes: Sequence[tuple[type, int, int, int]] = SIZES) -> int:
    notes = []
    for size in ((Symmetric, 60, 2, 2), (Orthogonal, 14, 3, 3)):
        if size in sizes:
            fast, dense = (peak_megabytes(side, *size) for side in ("diagrams", "dense"))
            notes.append(
                f"peak memory, {size[0].__name__}({size[1]}) {size[2]} → {size[3]}: diagrams {fast:,.1f} MB, dense {dense:,.1f} MB"
            )
    return run("equivariant", [case(*size) for size in sizes], notes=notes)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        _peak(*sys.argv[2:])
    else:
        sys.exit(main())
