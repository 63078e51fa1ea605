"""Linear mixing of features that are expanded, merged or cut before they are summed over."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphs import completeness, symmetry
from tests.graphs import architectures as a


class GroupedQueries(nn.Module):
    """Grouped-query attention alone; `squash` stands between the values and their copies."""

    def __init__(self, heads: int = 4, keys: int = 2, head: int = 2, squash: nn.Module | None = None) -> None:
        super().__init__()
        self.heads, self.keys, self.head, self.squash = heads, keys, head, squash or nn.Identity()
        self.query, self.out = nn.Linear(4, heads * head, bias=False), nn.Linear(heads * head, 3, bias=False)
        self.key, self.value = (nn.Linear(4, keys * head, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.query(x).view(b, t, self.heads, self.head).transpose(1, 2)
        k, v = (
            values.view(b, t, self.keys, self.head).transpose(1, 2).repeat_interleave(self.heads // self.keys, 1)
            for values in (self.key(x), self.squash(self.value(x)))
        )
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1))


class Twice(nn.Module):
    """W [U x, U x], the second copy squashed perhaps."""

    def __init__(self, squash: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.last, self.squash = nn.Linear(4, 3), nn.Linear(6, 4), squash or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(torch.cat([h, self.squash(h)], -1))


class Flattened(nn.Module):
    """Channels of a convolution, flattened with their positions; one of them is read backwards perhaps."""

    def __init__(self, backwards: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.backwards = nn.Conv1d(3, 2, 1), nn.Linear(6, 3), backwards

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.backwards:
            h = torch.cat([h[:, :1], h[:, 1:].flip(-1)], 1)
        return self.last(h.flatten(1))


def linear(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Counter[tuple[str, frozenset[str]]], int]:
    """GL factors with the dimensions they act on, and how many dimensions of the group are missing."""
    group = symmetry(module, inputs)  # raises when the check in double precision fails
    found = [(f.kind, frozenset(map(str, f.slots))) for f in group.factors if f.kind.startswith("GL")]
    return Counter(found), completeness(group, module, inputs).hidden


QK, VO = frozenset(("key.weight[0]", "query.weight[0]")), frozenset(("value.weight[0]", "out.weight[1]"))


@pytest.mark.parametrize(
    ("make", "shape", "expected", "hidden"),
    [
        (GroupedQueries, (16, 3, 4), [("GL(2)^2", QK), ("GL(2)^2", VO)], 0),
        (lambda: GroupedQueries(keys=1), (16, 3, 4), [("GL(2)", QK), ("GL(2)", VO)], 0),
        (lambda: GroupedQueries(keys=4), (16, 3, 4), [("GL(2)^4", QK), ("GL(2)^4", VO)], 0),
        (lambda: GroupedQueries(squash=nn.Tanh()), (16, 3, 4), [("GL(2)^2", QK)], 0),
        (Twice, (2, 4), [("GL(3)", frozenset(("first.weight[0]", "first.bias[0]", "last.weight[1]")))], None),
        (lambda: Twice(nn.Tanh()), (2, 4), [], 0),
        (Flattened, (2, 3, 3), [("GL(2)", frozenset(("first.weight[0]", "first.bias[0]", "last.weight[1]")))], 0),
        (lambda: Flattened(backwards=True), (2, 3, 3), [], 2),  # two of GL(2) are scales, the mixing is not found
    ],
    ids=["grouped", "multi-query", "multi-head", "grouped, tanh", "twice", "twice, tanh", "flattened", "backwards"],
)  # fmt: skip
def test_expanded_and_merged_features(make, shape, expected, hidden) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    found, missing = linear(make(), (torch.randn(shape),))
    assert found == Counter(expected)
    assert hidden is None or missing == hidden


def test_the_values_of_a_key_head_are_mixed_alike_in_all_its_query_heads() -> None:
    """Applied by hand; the control leaves one query head's columns as they were."""
    torch.manual_seed(0)
    module, inputs = a.Decoder(), (torch.randint(0, 11, (2, 5)),)
    group = symmetry(module, inputs)
    factor = next(f for f in group.factors if f.kind == "GL(2)^2" and "out.weight[1]" in map(str, f.slots))
    assert {"value.weight[0]", "out.weight[1]"} == set(map(str, factor.slots))
    double = module.double()
    tensors = {name: p.detach() for name, p in double.named_parameters(remove_duplicate=False)}
    moved = group.element({factor.name: factor.sample(torch.Generator().manual_seed(1))}).apply(tensors)
    before = double(*inputs)

    def change(changed: dict[str, Tensor]) -> float:
        after = torch.func.functional_call(double, changed, inputs, tie_weights=False)
        return float(((after - before).abs().max() / before.abs().max()).detach())

    assert change(moved) < 1e-12
    for head in range(4):
        columns = slice(2 * head, 2 * head + 2)
        wrong = moved["out.weight"].clone()
        wrong[:, columns] = tensors["out.weight"][:, columns]
        assert change({**moved, "out.weight": wrong}) > 1e-3
