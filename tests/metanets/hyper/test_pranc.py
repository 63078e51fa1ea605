"""Networks of pseudo-random networks: exact gradients, exact reconstruction, and how small they get."""

import subprocess
import sys

import pytest
import torch

from metanets.hyper import Problem, hypernetwork
from metanets.hyper.hypernetwork import descend
from metanets.hyper.pranc import PRANC, Basis, PRANCConfig
from modelzoo.errors import UserError
from modelzoo.family import Recipe, family
from modelzoo.task import task


def problem(*hidden: int) -> Problem:
    mlp, digits = family("mlp"), task("digits")
    return Problem(mlp, mlp.configure(digits, {"hidden": hidden}), digits)


def dense_basis(basis: Basis, tensor: int) -> torch.Tensor:
    return torch.cat([basis.block(tensor, start) for start in basis.starts()])


@pytest.mark.parametrize("held", [0, 2**20])
def test_generated_in_chunks_equals_the_whole_matrix(held: int) -> None:
    target = problem(8).target()
    model = PRANC(target, PRANCConfig(coefficients=21, models=3, chunk=4, held=held, seed=5))
    index = torch.arange(3)
    whole = torch.cat([dense_basis(model.basis, k) for k in range(len(target.shapes))], 1)  # [k, size]
    assert whole.shape == (21, target.size)
    flat = target.join(model(index))
    torch.testing.assert_close(flat, model.coefficients @ whole, rtol=1e-5, atol=1e-6)
    weight = torch.randn(3, target.size)
    (flat * weight).sum().backward()
    assert model.coefficients.grad is not None
    torch.testing.assert_close(model.coefficients.grad, weight @ whole.T, rtol=1e-5, atol=1e-5)
    assert bool(model.basis._kept) == bool(held)


def test_basis_networks_are_uniform_independent_and_scaled() -> None:
    target = problem(32).target()
    basis = Basis(target, PRANCConfig(coefficients=64))
    rows = dense_basis(basis, 0) / basis.scales[0]
    assert rows.abs().max() <= 3**0.5
    assert abs(float(rows.mean())) < 0.01
    assert float(rows.var()) == pytest.approx(1, abs=0.01)
    gram = rows @ rows.T / rows.shape[1]
    assert (gram - torch.eye(64)).abs().max() < 0.12  # 1 / √2048 = 0.022, five standard deviations
    other = Basis(target, PRANCConfig(coefficients=64, seed=1))
    assert not torch.equal(dense_basis(other, 0), dense_basis(basis, 0))


def test_one_layer_can_be_made_alone() -> None:
    target = problem(8).target()
    model = PRANC(target, PRANCConfig(coefficients=9, models=2))
    for name, value in model(torch.arange(2)).items():
        assert torch.equal(value, model.tensor(name, torch.arange(2)))


RECONSTRUCT = """
import sys, hashlib
from metanets.hyper import Problem
from metanets.hyper.pranc import PRANC
from modelzoo.family import family
from modelzoo.task import task
mlp, digits = family("mlp"), task("digits")
target = Problem(mlp, mlp.configure(digits, {"hidden": (8,)}), digits).target()
import torch
model = PRANC.from_bytes(target, bytes.fromhex(sys.argv[1]))
print(hashlib.sha256(target.join(model(torch.arange(1))).detach().numpy().tobytes()).hexdigest())
"""


def test_bytes_give_the_same_network_in_another_process() -> None:
    import hashlib

    target = problem(8).target()
    data = PRANC(target, PRANCConfig(coefficients=40, seed=123456789)).to_bytes()
    assert len(data) == 17 + 80
    flat = target.join(PRANC.from_bytes(target, data)(torch.arange(1))).detach()
    own = hashlib.sha256(flat.numpy().tobytes()).hexdigest()
    run = subprocess.run([sys.executable, "-c", RECONSTRUCT, data.hex()], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == own
    assert PRANC.from_bytes(target, data).to_bytes() == data


def test_damaged_bytes_are_refused() -> None:
    target = problem(8).target()
    data = PRANC(target, PRANCConfig(coefficients=4)).to_bytes()
    for wrong in (b"", b"zip" + data[3:], data[:-1]):
        with pytest.raises(UserError):
            PRANC.from_bytes(target, wrong)


def compare(chosen: Problem, coefficients: int, steps: int) -> tuple[float, float, float]:
    """Test accuracy of the dense network, of one with all but `coefficients` weights pruned, and of PRANC from bytes."""
    target = chosen.target()
    module = chosen.family.build(chosen.config, 0)
    generator = torch.Generator().manual_seed(0)

    def loss() -> torch.Tensor:
        inputs, targets = chosen.batch(generator, 128)
        return chosen.task.loss(module(*inputs), targets)

    descend(module, loss, Recipe(steps=300, learning_rate=3e-3))
    flat = target.join({name: value.detach()[None] for name, value in module.named_parameters()})
    kept = flat * (flat.abs() >= flat.abs().topk(coefficients).values[..., -1:])
    found = hypernetwork("pranc")
    model = found.build(target, PRANCConfig(coefficients=coefficients), 0)
    model.fit(chosen, found.recipe.model_copy(update={"steps": steps}), 0)
    assert isinstance(model, PRANC)
    restored = PRANC.from_bytes(target, model.to_bytes())(torch.arange(1))
    return tuple(float(chosen.scores(target, own)[0]) for own in (target.split(flat), target.split(kept), restored))  # type: ignore[return-value]


def test_few_coefficients_beat_as_many_kept_weights() -> None:
    dense, pruned, own = compare(problem(64), 120, 150)
    assert own >= 0.85 * dense
    assert own >= pruned + 0.05


@pytest.mark.slow
def test_a_fiftieth_of_the_numbers_keeps_the_accuracy() -> None:
    chosen = problem(128, 80)
    coefficients = chosen.target().size // 50
    dense, pruned, own = compare(chosen, coefficients, 400)
    print(f"{coefficients} of {chosen.target().size} numbers: dense {dense:.3f}, pruned {pruned:.3f}, PRANC {own:.3f}")
    assert own >= 0.85 * dense
    assert own >= pruned + 0.05
