"""What every operation of the registry is held to."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from modelzoo.kernels.registry import VARIABLE, Op

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2e-2}  # relative to the largest entry
INTERPRETED = (torch.float32, torch.bfloat16)


def floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def results(op: Op, arguments: tuple[Any, ...], backend: str, patch: pytest.MonkeyPatch) -> list[Tensor]:
    """Outputs of the public function, its updated arguments, and all gradients for one fixed cotangent."""
    patch.setenv(VARIABLE, backend)
    own = pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, arguments)
    leaves = [leaf for leaf in pytree.tree_leaves(own) if floating(leaf)]
    if op.differentiable:
        for leaf in leaves:
            leaf.requires_grad_()
    outputs = [leaf for leaf in pytree.tree_leaves(op.function(*own)) if isinstance(leaf, Tensor)]
    if not op.differentiable:
        return [*outputs, *leaves]
    draw = torch.Generator().manual_seed(1)
    loss: Any = 0
    for output in outputs:
        weights = torch.randn(*output.shape, 2, generator=draw)
        weights = torch.view_as_complex(weights) if output.is_complex() else weights[..., 0]
        loss = loss + (output * weights.to(output.dtype)).sum()
    gradients = torch.autograd.grad(loss.real if loss.is_complex() else loss, leaves, materialize_grads=True)
    return [output.detach() for output in outputs] + list(gradients)


def difference(got: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest difference relative to the largest entry of the tensor; infinite for NaN or another shape."""
    assert len(got) == len(wanted)
    worst = 0.0
    for a, b in zip(got, wanted, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if b.numel():
            kind = torch.complex128 if b.is_complex() else torch.float64
            equal = (a == b) | (a.isnan() & b.isnan())
            gap = torch.where(equal, 0, (a.to(kind) - b.to(kind)).abs()).max()
            finite = b.to(kind)[b.isfinite()]
            size = finite.abs().max() if finite.any() else torch.ones(())
            worst = max(worst, float(gap / size)) if gap.isfinite() else float("inf")
    return worst


def doubled(arguments: Any) -> Any:
    """Half precision to float32; float32 stays."""
    return pytree.tree_map(
        lambda leaf: leaf.float() if floating(leaf) and leaf.dtype in (torch.bfloat16, torch.float16) else leaf, arguments
    )  # fmt: skip
