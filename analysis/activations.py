"""Activations of any traced module: what its parameters' contractions make of a batch of inputs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from graphs.interpreter import interpret
from graphs.parameter_graph.uses import Use, find_uses
from graphs.program import Program, trace
from modelzoo.errors import UserError


def contracting_uses(program: Program) -> dict[str, Use]:
    """The uses of the parameters that are contracted with data, by name, in program order."""
    uses = find_uses(program)
    found = {name: uses[value] for name, value in program.parameters.items() if uses[value].contracts}
    return dict(sorted(found.items(), key=lambda item: item[1].op))


def sites_of(program: Program) -> dict[str, int]:
    """The results of the operators that contract a parameter (pre-activations), by the parameter's name."""
    return {name: use.output for name, use in contracting_uses(program).items()}


def latent_of(program: Program) -> int:
    """What the last contraction of a parameter reads: the latent representation in front of the output layer.

    Raises:
        UserError: nothing is contracted with a parameter.
    """
    uses = list(contracting_uses(program).values())
    if not uses or uses[-1].other is None:
        raise UserError(f"{program.module_name!r} has no output layer, so there is no latent representation before it; choose another family.")  # fmt: skip
    return uses[-1].other


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, copied."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: tensor.detach().clone() for name, tensor in named}


@torch.no_grad()
def activations(
    program: Program, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor], values: Mapping[str, int]
) -> dict[str, Tensor]:
    """Chosen values of a program on a batch of the traced shapes, in double precision.

    Args:
        program: the traced module.
        tensors: its parameters and buffers by name.
        inputs: of the traced shapes.
        values: names and ids.
    """
    found = interpret(program, {name: tensors[name] for name in program.tensors}, inputs)
    return {name: found[value] for name, value in values.items()}


def latents_of(module: nn.Module, models: Sequence[Mapping[str, Tensor]], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The latent representations of several models, flattened, `[N, d]` each.

    Args:
        module: their architecture.
        models: parameters and buffers by name.
        inputs: `[N, ...]` each.
    """
    program = trace(module, inputs)
    values = {"latent": latent_of(program)}
    return [activations(program, tensors, inputs, values)["latent"].flatten(1) for tensors in models]
