"""Weight matching of two MLPs: our descent over the inferred group against git-re-basin written out by hand for MLPs.

python benchmarks/weight_matching.py [--json] [--small]

The second model is a noisy copy of the first with its neurons shuffled, so that both sides have one answer to find.
"""

import itertools
import sys

import numpy as np
import torch
from harness import Case, close, run, small
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import graphs
from analysis.symmetry.descent import Descent, Plan

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
        1, None, "pairs/s", "inferred group", "git-re-basin by hand",
    )  # fmt: skip


if __name__ == "__main__":
    sizes = [(16, 12, 12, 4)] if small() else [(784, 512, 512, 10), (784, 512, 512, 512, 10)]
    note = "Double precision, weights in place; inferring the group and its plan is not in the time, it is done once for any number of models."
    sys.exit(run("weight_matching", [case(widths) for widths in sizes], repeats=3, notes=[note]))
