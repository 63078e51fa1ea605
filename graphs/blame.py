"""Which operator breaks a symmetry: where a value stops moving as the group says it should.

The search goes backwards from an output that changes, from value to value, as long as some input of the operator at
hand moves wrongly too. It ends at an operator whose inputs move as they should and whose output does not. What
"as it should" means depends on the factor:

* a permutation moves every value as its labels move;
* a diagonal factor (scales, signs, phases) multiplies every entry by a number that is the same for all inputs;
* any other factor acts on every value by one affine map, the same for all inputs (tested on values of few entries).
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from graphs.elements import GroupElement
from graphs.factors import PermutationFactor, moved_as
from graphs.group import SymmetryGroup
from graphs.interpreter import interpret, widen
from graphs.program import Op

LARGEST = 64  # entries of a value up to which an affine map is fitted
TOLERANCE = 1e-6
Runs = list[dict[int, Tensor]]


def relative(before: Tensor, after: Tensor) -> float:
    """max |after − before| / max |before|; NaN counts as infinite unless it stands in both at the same place."""
    if before.numel() == 0:
        return 0.0
    if not (before.is_floating_point() or before.is_complex()):
        return 0.0 if torch.equal(before, after) else float("inf")
    same = torch.nan_to_num(before) == torch.nan_to_num(after)
    gap = torch.where(same & (before.isnan() == after.isnan()), torch.zeros_like(before), after - before).abs()
    error = float(gap.max() / torch.nan_to_num(before).abs().max().clamp_min(1e-300))
    return error if error == error else float("inf")


def blame(
    group: SymmetryGroup, tensors: Mapping[str, Tensor], element: GroupElement, inputs: Sequence[Tensor]
) -> Op | None:
    """The operator at which an element of one factor parts from what its rules say.

    Args:
        group: the group.
        tensors: parameters and state buffers, in double precision.
        element: of one factor; it changes the function.
        inputs: the input tensors at which it does.

    Returns:
        The operator, None if it cannot be told (no output changes, or only values too large to fit a map).
    """
    program = group.program
    generator = torch.Generator().manual_seed(1)
    factor, parameters = element.word[0]
    if isinstance(factor, PermutationFactor):
        number, jitter = 1, False
    else:
        jitter = _is_linear(element, tensors, generator)
        number = 4 if _is_diagonal(element, tensors, generator) else LARGEST + 16
    plain: Runs = []
    moved: Runs = []
    for run in range(number):
        named = _other(tensors, generator) if jitter and run else dict(tensors)
        given = [_noisy(x, generator) if run else x for x in inputs]
        plain.append(interpret(program, named, given))
        moved.append(interpret(program, element.apply(named), given))
    test: Callable[[int], bool]
    if isinstance(factor, PermutationFactor):
        back = factor.label_map(factor.inverse(parameters))

        def test(value: int) -> bool:
            labels = group.labelling.raw[value]
            expected = plain[0][value] if labels is None else moved_as(labels, plain[0][value], back)
            return relative(expected, moved[0][value]) <= TOLERANCE
    elif number == 4:

        def test(value: int) -> bool:
            return _one_ratio([run[value] for run in plain], [run[value] for run in moved])
    else:

        def test(value: int) -> bool:
            return _one_map([run[value] for run in plain], [run[value] for run in moved])

    changed = [v for v in program.outputs if relative(plain[0][v], moved[0][v]) > TOLERANCE]
    return _search(group, changed[0], test) if changed else None


def _search(group: SymmetryGroup, value: int, test: Callable[[int], bool]) -> Op | None:
    """Walk back from a value that moves wrongly to the operator where that begins."""
    program = group.program
    fixed = {*program.constants, *program.inputs, *program.tensors.values()}
    while True:
        producer = program.values[value].producer
        if producer is None:
            return None
        op = program.ops[producer]
        wrong = [v for v in op.inputs if v not in fixed and not test(v)]
        if not wrong:
            return op
        value = wrong[0]


def _noisy(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """A real or complex tensor with other entries of the same size; others as they are."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    wide = widen(tensor)
    return wide + torch.randn(wide.shape, generator=generator, dtype=torch.float64) * (wide.abs().mean() + 0.1)


def _other(tensors: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Other values of the parameters, tied names still tied; positive tensors stay positive."""
    made: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in made:
            noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            real = tensor.is_floating_point() or tensor.is_complex()
            made[id(tensor)] = tensor * (0.5 + noise) if real else tensor
    return {name: made[id(tensor)] for name, tensor in tensors.items()}


def _is_linear(element: GroupElement, tensors: Mapping[str, Tensor], generator: torch.Generator) -> bool:
    """Whether the element acts linearly on the parameters, so that they may be varied too."""
    first, second = _other(tensors, generator), _other(tensors, generator)
    both = element.apply({name: first[name] + second[name] for name in tensors})
    one, two = element.apply(first), element.apply(second)
    return all(relative(one[name] + two[name], both[name]) < TOLERANCE for name in tensors)


def _is_diagonal(element: GroupElement, tensors: Mapping[str, Tensor], generator: torch.Generator) -> bool:
    """Whether the element multiplies every entry of every parameter by a number of its own."""
    first, second = _other(tensors, generator), _other(tensors, generator)
    one, two = element.apply(first), element.apply(second)
    return all(_one_ratio([first[name], second[name]], [one[name], two[name]]) for name in tensors)


def _one_ratio(plain: Sequence[Tensor], moved: Sequence[Tensor]) -> bool:
    """Whether moved = c ∘ plain with the same c in every run."""
    if not (plain[0].is_floating_point() or plain[0].is_complex()):
        return all(map(torch.equal, plain, moved))
    before, after = torch.stack(list(plain)), torch.stack(list(moved))
    largest = before.abs().argmax(0, keepdim=True)
    divisor = before.gather(0, largest)
    ratio = torch.where(divisor == 0, torch.ones_like(divisor), after.gather(0, largest) / divisor)
    return relative(ratio * before, after) <= TOLERANCE


def _one_map(plain: Sequence[Tensor], moved: Sequence[Tensor]) -> bool:
    """Whether moved = A plain + b with the same A and b in every run; unknown counts as no."""
    if not (plain[0].is_floating_point() or plain[0].is_complex()):
        return all(map(torch.equal, plain, moved))
    if plain[0].numel() > LARGEST:
        return False
    before, after = (torch.stack([x.reshape(-1) for x in runs]) for runs in (plain, moved))
    extended = torch.cat([before, torch.ones_like(before[:, :1])], 1)
    solution = torch.linalg.lstsq(extended, after, driver="gelsd").solution
    return relative(after, extended @ solution) <= TOLERANCE
