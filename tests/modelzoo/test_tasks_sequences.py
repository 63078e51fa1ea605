"""Properties of the generated sequence, tree, flow, operator and recall tasks, against independent oracles."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad_vec

from modelzoo.metrics import overlap, r2
from modelzoo.task import _REGISTRY, Split, task
from modelzoo.tasks import adding, arithmetic_trees, burgers, patterns, spirals

NAMES = ("adding", "parity", "spirals", "burgers", "patterns", "arithmetic_trees")


def tensors(split: Split) -> tuple[torch.Tensor, ...]:
    return (*split.inputs, split.targets)


@pytest.mark.parametrize("name", NAMES)
def test_data_is_deterministic_and_has_the_stated_shape(name: str) -> None:
    found = task(name)
    data = found.data()
    torch.manual_seed(123)
    np.random.seed(123)  # the data must not follow the global generators
    again = _REGISTRY[name].load()
    for first, second in ((data.train, again.train), (data.test, again.test)):
        for x, y in zip(tensors(first), tensors(second), strict=True):
            assert torch.equal(x, y)
    for split in (data.train, data.test):
        for x in split.inputs:
            assert tuple(x.shape[1:]) == found.inputs.shape
            assert x.is_floating_point() == (found.inputs.kind not in ("tokens", "tree"))
        assert tuple(split.targets.shape[1:]) == found.targets.shape
        assert len(split.targets) == len(split.inputs[0])
        if found.targets.kind == "classes":
            assert set(split.targets.tolist()) == set(range(found.targets.classes or 0))


@pytest.mark.parametrize("name", NAMES)
def test_no_test_input_was_trained_on(name: str) -> None:
    data = task(name).data()
    rows = [torch.cat([x.flatten(1).double() for x in split.inputs], 1) for split in (data.train, data.test)]
    seen = {tuple(row) for row in rows[0].tolist()}
    assert not seen & {tuple(row) for row in rows[1].tolist()}


def test_adding_targets_are_the_sum_at_two_markers() -> None:
    split = task("adding").data().train
    values, markers = split.inputs[0].unbind(-1)
    half = adding.LENGTH // 2
    assert (markers[:, :half].sum(1) == 1).all()
    assert (markers[:, half:].sum(1) == 1).all()
    for row in range(50):
        first, second = torch.nonzero(markers[row]).flatten().tolist()
        assert float(split.targets[row, 0]) == pytest.approx(float(values[row, first]) + float(values[row, second]))
    assert task("adding").trivial_score() == pytest.approx(1 / 6, rel=0.1)


def test_parity_is_the_exclusive_or_of_all_bits() -> None:
    data = task("parity").data()
    for row, answer in zip(data.test.inputs[0].tolist(), data.test.targets.tolist(), strict=True):
        assert answer == int(np.bitwise_xor.reduce(row))
    bits = torch.cat([data.train.inputs[0], data.test.inputs[0]])
    assert len(bits.unique(dim=0)) == len(bits) == 2 ** bits.shape[1]


def test_spirals_obey_the_flow_and_start_where_they_say() -> None:
    split = task("spirals").data().test
    assert torch.equal(split.inputs[0], split.targets[:, 0])
    start = split.inputs[0][:4].double().numpy()
    step, states = 1e-3, start  # Heun's method, another solver than the task's
    for _ in range(round(spirals.HORIZON / step)):
        ahead = states + step * spirals.flow(0, states).reshape(-1, 2)
        states = states + step / 2 * (spirals.flow(0, states) + spirals.flow(0, ahead)).reshape(-1, 2)
    np.testing.assert_allclose(split.targets[:4, -1], states, atol=1e-4)


def test_burgers_converges_to_the_cole_hopf_solution() -> None:
    """u = -2ν φ_x/φ with φ the heat flow of exp(-∫u₀/2ν); here u₀ = sin 2πx."""
    viscosity, time = 0.05, 0.3

    def exact(x: np.ndarray) -> np.ndarray:
        def kernel(y: float) -> np.ndarray:  # exp of -(potential + heat kernel), y over the real line
            exponent = (np.cos(2 * np.pi * y) - 1) / (4 * np.pi * viscosity) - (x - y) ** 2 / (4 * viscosity * time)
            return np.stack([(x - y) / time * np.exp(exponent), np.exp(exponent)])

        upper, lower = quad_vec(kernel, -2.0, 3.0, epsabs=1e-10)[0]
        return upper / lower

    errors = []
    for grid in (32, 64):
        x = np.arange(grid) / grid
        errors.append(np.abs(burgers.solve(np.sin(2 * np.pi * x)[None], time, viscosity)[0] - exact(x)).max())
    assert errors[1] < 0.03
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.35), "second order in the grid"


def test_burgers_conserves_momentum_and_loses_energy() -> None:
    split = task("burgers").data().train
    start, end = split.inputs[0], split.targets
    torch.testing.assert_close(start.mean(-1), end.mean(-1), atol=1e-4, rtol=0)
    assert (end.square().mean(-1) < start.square().mean(-1)).all()


def test_arithmetic_trees_are_in_post_order_and_evaluate_as_python_does() -> None:
    split = task("arithmetic_trees").data().test
    for tokens, lefts, rights, answer in zip(*(x.tolist() for x in split.inputs), split.targets.tolist(), strict=True):
        texts: list[str] = []
        for node, (token, left, right) in enumerate(zip(tokens, lefts, rights, strict=True)):
            if left < 0:
                assert right < 0
                texts.append(str(token))
            else:
                assert left < right < node
                texts.append(
                    f"({texts[left]} {arithmetic_trees.OPERATORS[token - arithmetic_trees.MODULUS]} {texts[right]})"
                )
        assert eval(texts[-1]) % arithmetic_trees.MODULUS == answer
        assert texts[-1].count("(") == arithmetic_trees.LEAVES - 1, "every node is below the root"


def test_patterns_are_distinct_and_flipped_at_the_stated_rate() -> None:
    data = task("patterns").data()
    stored = patterns.archetypes()
    assert len(stored.unique(dim=0)) == patterns.PATTERNS
    assert torch.equal(data.train.targets.unique(dim=0), stored.unique(dim=0))
    flipped = (data.train.inputs[0] != data.train.targets).float().mean()
    assert float(flipped) == pytest.approx(patterns.FLIPPED, abs=0.01)
    assert task("patterns").trivial_score() == pytest.approx(1 - 2 * patterns.FLIPPED, abs=0.02)


def test_metrics_at_their_fixed_points() -> None:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (8, 16), generator=generator) * 2.0 - 1
    assert float(overlap(0.3 * signs, signs)) == 1
    assert float(overlap(-signs, signs)) == -1
    values = torch.randn(32, 3, 2, generator=generator)
    assert float(r2(values, values)) == 1
    assert float(r2(values.mean(0, keepdim=True), values)) == pytest.approx(0, abs=1e-6)
    for name in ("spirals", "burgers"):
        assert task(name).trivial_score() == pytest.approx(0, abs=0.05)
