"""Layer shares add up to the Jacobian's Gram matrix."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from modelzoo.kernels.ntk_layer import ntk_layer


def gram(module: nn.Module, x: Tensor) -> Tensor:
    """Σ_θ ∂f_o(x_n) ∂f_p(x_m), `[O, O, N, N]`, from whole Jacobians."""
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    jacobians = vmap(jacrev(lambda own, x: functional_call(module, own, (x[None],))[0]), (None, 0))(parameters, x)
    flat = torch.cat([part.flatten(2) for part in jacobians.values()], 2)  # [N, O, P]
    return torch.einsum("nop,mqp->oqnm", flat, flat)


def test_a_perceptron() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    h = module[1](module[0](x))
    last = torch.eye(2, dtype=torch.float64).unsqueeze(1).expand(2, 4, 2).unsqueeze(2)
    first = (module[2].weight.unsqueeze(1) * (1 - h.square())).unsqueeze(2)
    kernel = ntk_layer(h.unsqueeze(1).detach(), last)
    kernel = ntk_layer(x.unsqueeze(1), first.detach(), kernel=kernel)
    torch.testing.assert_close(kernel, gram(module, x))
    assert not torch.allclose(ntk_layer(x.unsqueeze(1), first.detach()), gram(module, x), rtol=1e-2), (
        "one layer is not all"
    )


def test_a_convolution() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 4, 1, bias=False)).double()
    module[2].weight.requires_grad_(False)
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    patches = nn.functional.unfold(x, 3).mT  # [N, S, I]
    gradients = module[2].weight.view(1, 1, 3, 4).mT.expand(1, 5, 4, 3).detach()
    kernel = ntk_layer(patches, gradients)
    whole = gram(module, x) - ntk_layer(module[1](module[0](x)).unsqueeze(1).detach(), torch.ones(1, 5, 1, 1, dtype=torch.float64), bias=False)  # fmt: skip
    torch.testing.assert_close(kernel, whole)
