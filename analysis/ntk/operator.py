"""The tangent kernel as a linear operator: Θ v by derivatives of the whole module, no kernel stored."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn
from torch.func import functional_call, vjp
from torch.utils import _pytree as pytree

from analysis.ntk.remainder import complex_names, restored, without_complex
from analysis.ntk.smooth import smooth
from graphs.program import evaluation_mode

Parameters = dict[str, Tensor]


def pulled_back(function: Callable[[Any], Any], at: Any) -> tuple[Any, Callable[[Any], tuple[Any]]]:
    """The value of a function and its reverse derivative."""
    found = vjp(function, at)
    return found[0], found[1]


def _only(pullback: Callable[[Any], tuple[Any]], at: Any) -> Any:
    return pullback(at)[0]


class TangentKernelOperator(LinearOperator):
    """Θ = J J'ᵀ, `[N·O, M·O]` (rows by sample, then output), between two sets of samples.

    `operator @ v` is J'ᵀ v, a pass forward and backward through the samples on the right, and J of that, the derivative
    of w ↦ Jᵀ w: twice reverse, because forward derivatives disagree with reverse ones where torch defines gradients by
    hand (the padding row of an embedding). scipy's `eigsh`, `cg` and `svds` take it.

    Args:
        module: any module that can be differentiated twice; it is put into evaluation mode for every product.
        inputs: of N samples, each `[N, *]`.
        others: of M samples, None for `inputs`.
        batch: samples that are differentiated together; None for all (needed where outputs are coupled, as in a graph).
    """

    def __init__(
        self, module: nn.Module, inputs: Tensor | Sequence[Tensor], others: Tensor | Sequence[Tensor] | None = None,
        batch: int | None = None,
    ) -> None:  # fmt: skip
        self.module, self.batch = module, batch
        self.left = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        self.right = self.left if others is None else (others,) if isinstance(others, Tensor) else tuple(others)
        self.parameters = {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}
        self.complexes = complex_names(self.parameters)
        self.parameters = without_complex(self.parameters)
        with evaluation_mode(module), torch.no_grad():
            sizes = [sum(f(self.parameters).numel() for f in self._parts(side)) for side in (self.left, self.right)]
        kind = next(iter(self.parameters.values()))
        dtype = np.dtype(str(kind.dtype).removeprefix("torch."))
        super().__init__(dtype, tuple(sizes))  # type: ignore[call-arg]  # missing in scipy's stubs

    def _parts(self, inputs: tuple[Tensor, ...]) -> list[Callable[[Parameters], Tensor]]:
        """The function of the parameters, one for every batch of samples."""
        step = self.batch or len(inputs[0])
        starts = range(0, len(inputs[0]), step) if self.batch else (0,)

        def part(start: int) -> Callable[[Parameters], Tensor]:
            own = tuple(x[start : start + step] for x in inputs) if self.batch else inputs

            def function(parameters: Parameters) -> Tensor:
                given = restored(parameters, self.complexes)
                with smooth():
                    return pytree.tree_leaves(functional_call(self.module, given, own))[0].flatten()

            return function

        return [part(start) for start in starts]

    def _product(self, vector: NDArray[Any], left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> NDArray[Any]:
        kind = next(iter(self.parameters.values()))
        rest = torch.as_tensor(np.ascontiguousarray(vector).ravel(), dtype=kind.dtype, device=kind.device)
        direction: Mapping[str, Tensor] = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        with evaluation_mode(self.module):
            for function in self._parts(right):
                output, pullback = pulled_back(function, self.parameters)
                (share,) = pullback(rest[: len(output)])
                direction = {name: direction[name] + share[name] for name in direction}
                rest = rest[len(output) :]
            images = []
            for function in self._parts(left):
                output, pullback = pulled_back(function, self.parameters)
                push = pulled_back(partial(_only, pullback), torch.zeros_like(output))[1]
                images.append(push(dict(direction))[0])
        return torch.cat(images).detach().cpu().numpy()

    def _matvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._product(x, self.left, self.right)

    def _rmatvec(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._product(x, self.right, self.left)
