"""Jacobians of parameters that no layer product serves, by reverse differentiation: batched over samples where that works."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.utils import _pytree as pytree

from modelzoo.errors import UserError


def flat_output(output: Tensor, samplewise: bool) -> Tensor:
    """`[N, O]`, or `[1, O]` when all inputs are one sample; raises `UserError` for complex and integer outputs."""
    if not output.is_floating_point():
        raise UserError(f"the module's output is {output.dtype}, expected real numbers; add a layer that returns them.")
    return output.reshape(len(output) if samplewise else 1, -1)


def jacobians(
    module: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], cotangents: Tensor, samplewise: bool
) -> tuple[Tensor, str]:
    """c_o · ∂f(x_n)/∂θ for the named parameters.

    Args:
        module: in evaluation mode.
        inputs: of N samples.
        names: of parameters.
        cotangents: c `[O, outputs]`.
        samplewise: whether every output belongs to one sample.

    Returns:
        `[O, N, P]`, two entries for a complex scalar, and why samples were taken one by one (empty if they were not).
    """
    own = dict(module.named_parameters())
    chosen = {name: own[name].detach() for name in names}
    complexes = complex_names(chosen)
    chosen = without_complex(chosen)

    def projected(parameters: dict[str, Tensor], *single: Tensor) -> Tensor:
        given = tuple(x[None] for x in single) if samplewise else single
        output = pytree.tree_leaves(functional_call(module, restored(parameters, complexes), given))[0]
        return cotangents @ flat_output(output, samplewise)[0]

    if not samplewise:
        return _flat(jacrev(projected)(chosen, *inputs), 1).unsqueeze(1), ""
    try:
        found = vmap(jacrev(projected), (None, *(0 for _ in inputs)))(chosen, *inputs)
    except (RuntimeError, NotImplementedError) as error:  # an operation that cannot be mapped over
        rows = [_flat(jacrev(projected)(chosen, *(x[n] for x in inputs)), 1) for n in range(len(inputs[0]))]
        return torch.stack(rows, 1), str(error).strip().splitlines()[0]
    return _flat(found, 2).movedim(1, 0), ""


def complex_names(tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """Which tensors are complex."""
    return frozenset(name for name, value in tensors.items() if value.is_complex())


def without_complex(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Complex tensors as pairs of real ones: the kernel counts real parameters."""
    return {name: torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for name, x in tensors.items()}


def restored(tensors: Mapping[str, Tensor], complexes: frozenset[str]) -> dict[str, Tensor]:
    """The inverse of `without_complex`."""
    return {name: torch.view_as_complex(x) if name in complexes else x for name, x in tensors.items()}


def _flat(parts: dict[str, Tensor], lead: int) -> Tensor:
    return torch.cat([part.flatten(lead) for part in parts.values()], lead).detach()
