"""Weight matching of two models: our descent over the inferred group against git-re-basin written out by hand.

python benchmarks/weight_matching.py [--json] [--small]

By hand means: for MLPs a loop over their hidden layers, for ResNet-18 a table of which permutation acts on which dimension
of which tensor. Ours reads both off the module, and for ResNet-18 chooses the sign of every channel too.

The second model is a noisy copy of the first with its neurons shuffled, so that both sides have one answer to find.
"""

import itertools
import sys

import numpy as np
import torch
from harness import Case, close, equal, run, small
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import graphs
from analysis.symmetry.descent import Descent
from analysis.symmetry.plan import Plan
from analysis.symmetry.weight_matching import Matching
from graphs.elements import GroupElement
from graphs.factors import PermutationFactor

SWEEPS = 100


def network(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def by_hand(widths: tuple[int, ...], a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    """Coordinate descent over one permutation a hidden layer; weights are `{2k}.weight`, `{2k}.bias`."""
    hidden = len(widths) - 2
    orders = [torch.arange(width) for width in widths[1:-1]]

    def into(k: int, tensor: Tensor) -> Tensor:
        return tensor if k == 0 else tensor[:, orders[k - 1]]

    generator = np.random.default_rng(0)
    for _ in range(SWEEPS):
        moved = False
        for k in generator.permutation(hidden):
            w_in, bias, w_out = f"{2 * k}.weight", f"{2 * k}.bias", f"{2 * k + 2}.weight"
            after = b[w_out] if k == hidden - 1 else b[w_out][orders[k + 1]]
            overlap = a[w_in] @ into(k, b[w_in]).T + torch.outer(a[bias], b[bias]) + a[w_out].T @ after
            order = torch.from_numpy(linear_sum_assignment(overlap.numpy(), maximize=True)[1])
            rows = torch.arange(len(order))
            if float(overlap[rows, order].sum() - overlap[rows, orders[k]].sum()) > 1e-9:
                orders[k], moved = order, True
        if not moved:
            break
    found = {}
    for k in range(hidden + 1):
        weight, bias = into(k, b[f"{2 * k}.weight"]), b[f"{2 * k}.bias"]
        found[f"{2 * k}.weight"] = weight if k == hidden else weight[orders[k]]
        found[f"{2 * k}.bias"] = bias if k == hidden else bias[orders[k]]
    return found


def ours(plan: Plan, a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    descent = Descent(plan, a, b)
    descent.run(SWEEPS, np.random.default_rng(0))
    return descent.tensors


def case(widths: tuple[int, ...]) -> Case:
    """Two models, the second a noisy and shuffled copy of the first."""
    torch.manual_seed(0)
    module = network(widths)
    group = graphs.symmetry(module, (torch.randn(2, widths[0]),), verify=False)
    plan = Plan(group)
    a = {name: tensor.detach().double() for name, tensor in module.named_parameters()}
    noisy = {name: tensor + 0.3 * tensor.std() * torch.randn_like(tensor) for name, tensor in a.items()}
    b = group.sample(torch.Generator().manual_seed(1), scale=0.0).apply(noisy)
    return Case(
        f"MLP {'-'.join(map(str, widths))}", lambda: ours(plan, a, b), lambda: by_hand(widths, a, b), close(1e-9),
        work=1, unit="pairs/s", ours_name="inferred group", baseline_name="git-re-basin by hand",
    )  # fmt: skip


class Block(nn.Module):
    """Two convolutions with batch norm, added to what came in."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        down = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.down = nn.Identity() if before == after else down

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(h)) + self.down(x))


class ResNet18(nn.Module):
    """The network of 18 layers of "Deep Residual Learning for Image Recognition" (He et al., 2015), 11.7 million at width 64."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        stem = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        blocks = []
        for before, after in itertools.pairwise(widths):
            blocks += [Block(before, after, 1 if before == after else 2), Block(after, after, 1)]
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


Axes = dict[str, tuple[str | None, ...]]


def axes_by_hand(module: ResNet18) -> Axes:
    """Which permutation acts on which dimension of a parameter."""
    axes: Axes = {"stem.0.weight": ("stage 0", None), "stem.1.weight": ("stage 0",), "stem.1.bias": ("stage 0",)}
    stage = "stage 0"
    for number, block in enumerate(module.blocks):
        name, inner, before = f"blocks.{number}", f"inner {number}", stage
        if not isinstance(block.down, nn.Identity):
            stage = f"stage {number}"
            axes[f"{name}.down.0.weight"] = (stage, before)
            axes |= {f"{name}.down.1.{kind}": (stage,) for kind in ("weight", "bias")}
        axes |= {f"{name}.conv1.weight": (inner, before), f"{name}.conv2.weight": (stage, inner)}
        axes |= {f"{name}.bn1.{kind}": (inner,) for kind in ("weight", "bias")}
        axes |= {f"{name}.bn2.{kind}": (stage,) for kind in ("weight", "bias")}
    return axes | {"head.weight": (None, stage)}


def by_table(axes: Axes, a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    """Coordinate descent over named permutations; the order of every batch norm's channels by the name of its bias."""
    met: dict[str, list[tuple[str, int]]] = {}
    for name, own in axes.items():
        for axis, permutation in enumerate(own):
            if permutation is not None:
                met.setdefault(permutation, []).append((name, axis))
    orders = {permutation: torch.arange(a[places[0][0]].shape[places[0][1]]) for permutation, places in met.items()}
    generator = np.random.default_rng(0)
    for _ in range(SWEEPS):
        moved = False
        for permutation in generator.permutation(list(met)):
            overlap = torch.zeros(len(orders[permutation]), len(orders[permutation]), dtype=torch.float64)
            for name, axis in met[permutation]:
                other = b[name]
                for d, known in enumerate(axes[name]):
                    if d != axis and known is not None:
                        other = other.index_select(d, orders[known])
                overlap += a[name].movedim(axis, 0).flatten(1) @ other.movedim(axis, 0).flatten(1).T if other.ndim > 1 else torch.outer(a[name], other)  # fmt: skip
            order = torch.from_numpy(linear_sum_assignment(overlap.numpy(), maximize=True)[1])
            rows = torch.arange(len(order))
            if float(overlap[rows, order].sum() - overlap[rows, orders[permutation]].sum()) > 1e-9:
                orders[permutation], moved = order, True
        if not moved:
            break
    return {name: orders[str(own[0])] for name, own in axes.items() if name.endswith(".bias")}


def channels(element: GroupElement, orders: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where an element's permutations send numbered channels."""
    for factor, parameters in element.word:
        if isinstance(factor, PermutationFactor):
            orders = {**orders, **factor.apply(parameters, orders)}
    return orders


def residual(width: int, classes: int) -> list[Case]:
    """Two ResNet-18: the descent on weights in place, and everything from the weights as given."""
    torch.manual_seed(0)
    module, draw = ResNet18(width, classes).eval(), torch.Generator().manual_seed(2)
    group = graphs.symmetry(module, (torch.randn(2, 3, 64, 64),), verify=False)
    plan, axes = Plan(group), axes_by_hand(module)
    a = {
        name: tensor.detach().double() for name, tensor in module.state_dict().items() if name in group.program.tensors
    }
    for name, tensor in a.items():  # as after training: no two channels are normalised alike
        if tensor.ndim == 1:
            a[name] = tensor + 0.2 * torch.rand(tensor.shape, generator=draw, dtype=torch.float64)
    noisy = {name: tensor + 0.3 * tensor.std() * torch.randn(tensor.shape, generator=draw, dtype=torch.float64) for name, tensor in a.items()}  # fmt: skip
    noisy |= {name: tensor for name, tensor in a.items() if name.endswith("running_var")}
    planted = [
        (f, f.sample(torch.Generator().manual_seed(1))) for f in group.factors if isinstance(f, PermutationFactor)
    ]
    b = GroupElement(group, tuple(planted)).apply(noisy)
    numbers = {name: torch.arange(a[name].numel()) for name in axes if name.endswith(".bias")}

    def descent() -> dict[str, Tensor]:
        found = Descent(plan, a, b)
        found.run(SWEEPS, np.random.default_rng(0))
        return channels(GroupElement(group, tuple(found.word)), numbers)

    def everything() -> dict[str, Tensor]:
        return channels(Matching(group, a, plan).align(b).path, numbers)

    size = f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.1f} M"
    return [
        Case(f"ResNet-18 of {size}, weights in place", descent, lambda: by_table(axes, a, b), equal,
             work=1, unit="pairs/s", ours_name="inferred group", baseline_name="git-re-basin by hand"),
        Case(f"ResNet-18 of {size}, both balanced first", everything, lambda: by_table(axes, a, b), equal,
             work=1, unit="pairs/s", ours_name="inferred group", baseline_name="git-re-basin by hand"),
    ]  # fmt: skip


if __name__ == "__main__":
    sizes = [(16, 12, 12, 4)] if small() else [(784, 512, 512, 10), (784, 512, 512, 512, 10)]
    note = "Double precision, weights in place; inferring the group and its plan is not in the time, it is done once for any number of models."
    cases = [*map(case, sizes), *residual(*((4, 5) if small() else (64, 1000)))]
    sys.exit(run("weight_matching", cases, repeats=3, notes=[note]))
