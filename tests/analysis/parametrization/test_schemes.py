"""Exponents of abc-parametrizations against the papers' closed forms."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from analysis.parametrization.schemes import NAMES, SCHEMES, Exponents, Scheme, scheme
from modelzoo.errors import UserError

# S103: r, stable, learns features
TABLE = {
    ("standard", "sgd"): (-1, False, False),
    ("ntp", "sgd"): (0.5, True, False),
    ("mean_field", "sgd"): (0, True, True),
    ("mup", "sgd"): (0, True, True),
    ("depth_mup", "sgd"): (0, True, True),
    ("standard", "adam"): (-1, False, False),
    ("ntp", "adam"): (0.5, True, False),
    ("mean_field", "adam"): (0, True, True),
    ("mup", "adam"): (0, True, True),
    ("depth_mup", "adam"): (0, True, True),
}


def test_the_table_has_every_scheme() -> None:
    assert TABLE.keys() == SCHEMES.keys()


@pytest.mark.parametrize("key", TABLE, ids="-".join)
def test_feature_exponent_and_stability(key: tuple[str, str]) -> None:
    found = SCHEMES[key]
    assert (found.feature_exponent, found.stable, found.learns_features) == TABLE[key]


def test_standard_is_stable_when_its_rate_falls_with_width() -> None:
    slower = scheme("standard", "sgd").slower(1)
    assert (slower.feature_exponent, slower.stable, slower.learns_features) == (0.5, True, False)
    assert not scheme("ntp", "sgd").slower(-0.5).stable, "control: faster than the kernel limit allows"


def formula(chosen: Scheme, c: float) -> float:
    """r of S103 as printed, for one common c."""
    assert chosen.hidden is not None
    a, out = [chosen.input.a, chosen.hidden.a], chosen.output
    return min(out.a + out.b, 2 * out.a + c) + c - 1 + min(2 * a[0] + 1, 2 * a[1])


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_the_printed_formula(a1: float, a2: float, a3: float, b3: float, c: float) -> None:
    chosen = Scheme("any", "sgd", Exponents(a1, 0, c), Exponents(a2, 0, c), Exponents(a3, b3, c))
    assert chosen.feature_exponent == pytest.approx(formula(chosen, c))


@given(st.sampled_from(sorted(SCHEMES)), st.integers(-4, 4))
def test_the_gauge_changes_nothing(key: tuple[str, str], quarters: int) -> None:
    found = SCHEMES[key]
    shifted = found.shift(quarters / 4)
    assert shifted.feature_exponent == found.feature_exponent
    assert shifted.stable == found.stable
    for role in ("input", "output"):
        assert shifted[role].folded(found.optimizer) == found[role].folded(found.optimizer)


def test_mup_is_the_published_table() -> None:
    """Greg Yang et al., Tensor Programs V: initial variance and rate without multipliers, by role."""
    for optimizer, rates in (("sgd", (-1, 0, 1)), ("adam", (0, 1, 1))):
        found = scheme("mup", optimizer)
        for role, start, rate in zip(("input", "hidden", "output"), (0, 0.5, 1), rates, strict=True):
            assert found[role].folded(found.optimizer) == (start, rate)  # type: ignore[index]


def test_depth_rates() -> None:
    """A branch moves the output by 1/L: L^{-1/2} for Adam and nothing for SGD at branch exponent 1/2."""
    assert (scheme("depth_mup", "adam").branch_rate, scheme("depth_mup", "sgd").branch_rate) == (0.5, 0)
    assert scheme("mup", "adam").branch_rate == 0


def test_refusals() -> None:
    with pytest.raises(UserError, match="did you mean 'mup'"):
        scheme("mupp")
    with pytest.raises(UserError, match="unknown optimizer 'lion'"):
        scheme("mup", "lion")
    with pytest.raises(UserError, match="one hidden layer"):
        scheme("mean_field")["hidden"]
    assert set(NAMES) == {name for name, _ in SCHEMES}
