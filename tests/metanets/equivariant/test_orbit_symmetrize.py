"""Orbit-distance symmetrization: group elements found, their equivariance and gradients, and a Lorentz-invariant regression."""

import pytest
import torch
from torch import Tensor, nn

from metanets.equivariant import (
    Canonicalized,
    GramSchmidtFrame,
    InvariantMixing,
    MatrixGroup,
    OrbitSymmetrized,
    act_on_vectors,
    pseudo_orthogonal,
)
from metanets.equivariant.orbit_symmetrize import nearest

GROUPS = {
    "SO(2)": pseudo_orthogonal(2, special=True),
    "O(3)": pseudo_orthogonal(3),
    "SO+(1,3)": pseudo_orthogonal(1, 3, special=True),
    "O(1,3)": pseudo_orthogonal(1, 3),
}


def elements(group: MatrixGroup, count: int, size: float = 0.7) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.stack([group.element(generator, size) for _ in range(count)])


@pytest.mark.parametrize("name", GROUPS)
def test_the_nearest_element_is_in_the_group_and_moves_along(name: str) -> None:
    torch.manual_seed(0)
    group = GROUPS[name]
    features = InvariantMixing(5, group).double()
    x, g = torch.randn(30, 5, group.n, dtype=torch.float64), elements(group, 30)
    u, distance = nearest(features(x), group)
    moved, same = nearest(features(act_on_vectors(g, x)), group)
    torch.testing.assert_close(u.mT @ group.form @ u, group.form.expand_as(u), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moved @ g, u, rtol=1e-6, atol=1e-6)  # u(g x) = u(x) g⁻¹
    torch.testing.assert_close(distance, same, rtol=1e-8, atol=1e-8)
    stretched = act_on_vectors(
        torch.diag(torch.tensor([2.0] + [1.0] * (group.n - 1), dtype=torch.float64)).expand_as(g), x
    )
    assert (nearest(features(stretched), group)[1] - distance).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["O(3)", "O(1,3)"])
def test_a_group_element_is_nearest_to_itself(name: str) -> None:
    g = elements(GROUPS[name], 8, 1.0)
    u, distance = nearest(g, GROUPS[name])
    torch.testing.assert_close(u, torch.linalg.inv(g), rtol=1e-8, atol=1e-8)
    assert distance.max() < 1e-8


def test_for_rotations_it_is_the_polar_factor() -> None:
    z = torch.randn(20, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(z)
    torch.testing.assert_close(nearest(z, GROUPS["O(3)"])[0], (left @ right).mT, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["SO(2)", "SO+(1,3)"])
def test_the_gradient_of_the_minimum_is_exact(name: str) -> None:
    group = GROUPS[name]
    z = torch.eye(group.n, dtype=torch.float64) + 0.3 * torch.randn(
        1, group.n, group.n, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    assert torch.autograd.gradcheck(
        lambda z: nearest(z, group)[0], (z.requires_grad_(),), eps=1e-6, atol=1e-5, fast_mode=True
    )


def test_any_network_becomes_equivariant_also_with_noise_and_an_outsider_breaks_it() -> None:
    torch.manual_seed(0)
    group = GROUPS["SO+(1,3)"]
    backbone = nn.Sequential(
        nn.Flatten(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 20), nn.Unflatten(1, (5, 4))
    ).double()
    features = InvariantMixing(5, group, noise=2).double()
    wrapped = OrbitSymmetrized(backbone, features, group, act_on_vectors, act_on_vectors, samples=2)
    x, g = torch.randn(10, 5, 4, dtype=torch.float64), elements(group, 10)

    def call(x: Tensor) -> Tensor:
        torch.manual_seed(5)  # the same noise
        return wrapped(x)

    torch.testing.assert_close(call(act_on_vectors(g, x)), act_on_vectors(g, call(x)), rtol=1e-6, atol=1e-6)
    assert (backbone(act_on_vectors(g, x)) - act_on_vectors(g, backbone(x))).abs().max() > 1e-2
    stretch = torch.diag(torch.tensor([1.0, 2.0, 1.0, 1.0], dtype=torch.float64)).expand_as(g)
    assert (call(act_on_vectors(stretch, x)) - act_on_vectors(stretch, call(x))).abs().max() > 1e-2
    call(x).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in features.parameters())


def patterns(samples: int, seed: int, turn: float) -> tuple[Tensor, Tensor]:
    """Noisy copies of six patterns of five points in the plane, `[samples, 5, 2]`, turned by up to `turn`, and which it is."""
    generator = torch.Generator().manual_seed(seed)
    templates = torch.randn(6, 5, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    labels = torch.randint(6, (samples,), generator=generator)
    x = templates[labels] + 0.4 * torch.randn(samples, 5, 2, generator=generator, dtype=torch.float64)
    angle = turn * (2 * torch.rand(samples, generator=generator, dtype=torch.float64) - 1)
    g = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    return act_on_vectors(g, x), labels


def test_turned_points_keep_their_pose() -> None:
    """Fast twin of the classification: predictions of any network hardly move when the points are turned."""
    torch.manual_seed(0)
    group = GROUPS["SO(2)"]
    turned, _ = patterns(100, 1, torch.pi)
    network = nn.Sequential(nn.Flatten(), nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 6)).double()
    model = OrbitSymmetrized(network, InvariantMixing(5, group).double(), group, act_on_vectors)
    again = act_on_vectors(elements(group, 100, 2.0), turned)
    with torch.no_grad():
        assert (model(again) - model(turned)).abs().max() < 1e-3
        assert (network(again) - network(turned)).abs().max() > 0.1


@pytest.mark.slow
def test_turned_points_are_told_apart_as_well_as_with_gram_schmidt() -> None:
    """Trained on patterns as they stand and tested on turned ones; poses are learned along with the network."""
    group, accuracy = GROUPS["SO(2)"], {}
    x, labels = patterns(300, 0, 0.0)
    turned, truth = patterns(500, 1, torch.pi)
    for kind in ("plain", "Gram-Schmidt", "orbit distance"):
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 6))
        if kind == "Gram-Schmidt":
            model = Canonicalized(model, GramSchmidtFrame(5, 2, special=True), act_on_vectors)
        elif kind == "orbit distance":
            model = OrbitSymmetrized(model, InvariantMixing(5, group), group, act_on_vectors)
        model.double()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(80):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), labels).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy[kind] = (model(turned).argmax(1) == truth).double().mean().item()
    print("turned points:", {kind: f"{value:.3f}" for kind, value in accuracy.items()})
    assert accuracy["orbit distance"] >= accuracy["Gram-Schmidt"] - 0.02
    assert accuracy["orbit distance"] >= accuracy["plain"] + 0.15


def momentum_pairs(samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two momenta with two spectators, `[samples, 4, 4]`, the same boosted, and the log of the pair's invariant mass."""
    torch.manual_seed(0)
    group = GROUPS["SO+(1,3)"]
    momenta, masses = torch.randn(samples, 2, 3, dtype=torch.float64), torch.rand(samples, 2, dtype=torch.float64) + 0.5
    pair = torch.cat([(momenta.square().sum(2) + masses.square()).sqrt()[..., None], momenta], 2)
    total = pair.sum(1)
    # two momenta do not span R^4: spectators, which do not matter for the answer, complete the frame
    x = torch.cat([pair, torch.randn(samples, 2, 4, dtype=torch.float64)], 1)
    return x, act_on_vectors(elements(group, samples, 0.6), x), (total @ group.form * total).sum(1).log()


def canonical(x: Tensor) -> Tensor:
    """Every sample moved by the element nearest to its features."""
    group = GROUPS["SO+(1,3)"]
    torch.manual_seed(1)
    features = InvariantMixing(4, group).double()
    with torch.no_grad():
        return act_on_vectors(nearest(features(x), group)[0], x)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1)
    ).double()


def test_boosts_move_hardly_any_symmetrized_prediction() -> None:
    """Fast twin of the regression: a few samples in a hundred may meet another minimum (see `nearest`)."""
    x, boosted, _ = momentum_pairs(200)
    p = network()
    with torch.no_grad():
        moved = {
            kind: ((p(a) - p(b)).abs() > 1e-6).double().mean().item()
            for kind, (a, b) in {"plain": (x, boosted), "symmetrized": (canonical(x), canonical(boosted))}.items()
        }
    assert moved["plain"] > 0.99
    assert moved["symmetrized"] <= 0.02


@pytest.mark.slow
def test_the_invariant_mass_is_learned_up_to_boosts() -> None:
    x, boosted, y = momentum_pairs(1600)
    errors = {}
    for kind, (inputs, other) in {"plain": (x, boosted), "symmetrized": (canonical(x), canonical(boosted))}.items():
        learner = network()
        optimizer = torch.optim.AdamW(learner.parameters(), 5e-3, weight_decay=1e-2)
        for _ in range(400):
            optimizer.zero_grad()
            (learner(inputs[:1300])[:, 0] - y[:1300]).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            errors[kind] = [(learner(v[1300:])[:, 0] - y[1300:]).square().mean().item() for v in (inputs, other)]
    print(errors, 1 - errors["symmetrized"][0] / y[1300:].var().item())
    assert errors["symmetrized"][0] <= 0.1 * y[1300:].var()  # R² of 0.9
    assert errors["symmetrized"][1] <= 1.2 * errors["symmetrized"][0]
    assert errors["plain"][1] >= 3 * errors["plain"][0]
