"""What a command works on: a module with example inputs, given by a family, a model of a zoo, or a Python callable."""

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelzoo.errors import UserError

_INPUT = re.compile(r"(?:(float|complex|bool|int(\d*)):)?(\d+(?:x\d+)*|scalar)")


@dataclass(frozen=True)
class Subject:
    """A module and the inputs of one call.

    Args:
        name: as the user wrote it.
        module: the module.
        inputs: example inputs.
        real: `(count) -> inputs`, that many samples of the data it belongs to; None where it has none.
    """

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    real: Callable[[int], tuple[Tensor, ...]] | None = None


def subject(what: str, model: str | None = None, inputs: Sequence[str] = (), tiny: bool = False) -> Subject:
    """Find what a command is to work on.

    Args:
        what: `package.module:callable`, a family (or `family.variant`), or the folder of a zoo.
        model: `POPULATION/ID`, when `what` is a zoo.
        inputs: for a callable, one text an input (see `example_input`).
        tiny: for a family, its smallest member.

    Raises:
        UserError: there is no such thing.
    """
    if model is not None:
        from modelzoo.store import Zoo

        name, _, number = model.partition("/")
        population = Zoo.open(what)[name]
        if not number.isdigit():
            raise UserError(
                f"model {model!r} has no number; write POPULATION/ID, metazoo show {what} {name} lists them.", 2
            )
        row = int(population.positions([int(number)])[0])
        return Subject(model, population.module(row), population.example_inputs(), population.example_inputs)
    if ":" in what:
        if not inputs:
            raise UserError(f"{what!r} needs the shape of every input; add --input SHAPE, e.g. --input 2x3.", 2)
        return Subject(what, _called(what), tuple(map(example_input, inputs)))
    from modelzoo.family import resolve
    from modelzoo.task import task

    if inputs:
        raise UserError(f"family {what!r} takes its inputs from its task; leave --input out.", 2)
    family, fields = resolve(what)
    chosen = task(family.task)
    config = family.configure(chosen, {**family.tiny, **fields} if tiny else fields)
    return Subject(what, family.build(config, seed=0), chosen.example_inputs(), chosen.example_inputs)


def example_input(text: str) -> Tensor:
    """A random tensor for `2x3`, `float:2x3`, `complex:2x3`, `bool:4`, `int:4x8` (0 and 1) or `int100:4x8` (0 to 99).

    Raises:
        UserError: the text is none of these.
    """
    found = _INPUT.fullmatch(text)
    if found is None:
        raise UserError(
            f"input {text!r} is no shape; write 2x3, int:4x8, int100:4x8, bool:4, complex:2x3 or scalar.", 2
        )
    kind, count, sizes = found.groups()
    shape = () if sizes == "scalar" else tuple(map(int, sizes.split("x")))
    generator = torch.Generator().manual_seed(0)
    if kind == "bool":
        return torch.rand(shape, generator=generator) < 0.5
    if kind and kind.startswith("int"):
        return torch.randint(0, int(count or 2), shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=torch.complex64 if kind == "complex" else torch.float32)


def _called(what: str) -> nn.Module:
    """The module that `package.module:callable` makes when called without arguments."""
    path, _, name = what.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's own files
    try:
        made = importlib.import_module(path)
    except ImportError as error:
        raise UserError(
            f"cannot import {path!r} ({error}); run from the folder that holds it, or install it.", 2
        ) from None
    for part in name.split("."):
        if not hasattr(made, part):
            raise UserError(f"module {path!r} has no {name!r}; check the name behind the colon.", 2)
        made = getattr(made, part)
    if isinstance(made, nn.Module):
        return made
    if not callable(made):
        raise UserError(
            f"{what!r} is neither a torch.nn.Module nor callable; name a class or a function without arguments.", 2
        )
    try:
        module = made()
    except TypeError as error:
        raise UserError(
            f"calling {what!r} without arguments failed ({error}); name a function that takes none.", 2
        ) from None
    if not isinstance(module, nn.Module):
        raise UserError(f"{what!r} returned {type(module).__name__!r}, expected a torch.nn.Module.", 2)
    return module
