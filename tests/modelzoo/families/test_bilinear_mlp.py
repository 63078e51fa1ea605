"""The bilinear MLP: one layer is a quadratic form that can be read off its weights."""

import torch

from modelzoo.families.feedforward.bilinear_mlp import BilinearMLP, BilinearMLPConfig


def test_one_layer_is_the_quadratic_form_of_its_interaction_matrices() -> None:
    torch.manual_seed(0)
    model = BilinearMLP(BilinearMLPConfig(in_features=7, width=5, out_features=3)).double()
    left = model.layers[0].left.weight @ model.embed.weight
    right = model.layers[0].right.weight @ model.embed.weight
    interaction = torch.einsum("kh,hi,hj->kij", model.head.weight, left, right)
    x = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(model(x), torch.einsum("bi,kij,bj->bk", x, interaction, x))
    symmetric = (interaction + interaction.mT) / 2
    torch.testing.assert_close(model(x), torch.einsum("bi,kij,bj->bk", x, symmetric, x))


def test_without_residuals_the_degree_doubles_with_every_layer() -> None:
    torch.manual_seed(1)
    x = torch.randn(4, 64, dtype=torch.float64)
    for layers in (1, 2, 3):
        model = BilinearMLP(BilinearMLPConfig(layers=layers)).double()
        torch.testing.assert_close(model(2 * x), 2 ** (2**layers) * model(x))


def test_residuals_add_the_input_of_every_layer() -> None:
    torch.manual_seed(2)
    model = BilinearMLP(BilinearMLPConfig(layers=2, residual=True)).double()
    x = torch.randn(4, 64, dtype=torch.float64)
    h = model.embed(x)
    for layer in model.layers:
        h = h + layer.left(h) * layer.right(h)
    torch.testing.assert_close(model(x), model.head(h))
