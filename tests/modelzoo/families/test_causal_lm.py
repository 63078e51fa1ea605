"""The causal language model: no look into the future, tied embeddings, both kinds of positions."""

import pytest
import torch
from torch.nn import functional as F

from graphs import trace
from modelzoo.errors import UserError
from modelzoo.families.attention.causal_lm import CausalLM, CausalLMConfig, SwiGLU
from modelzoo.family import family
from modelzoo.task import task

SMALL = {"vocabulary": 11, "length": 9, "width": 16, "heads": 4, "key_value_heads": 2, "hidden": 12}


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_token_changes_no_earlier_prediction_and_every_later_one(positions: str) -> None:
    torch.manual_seed(0)
    model = CausalLM(CausalLMConfig(**SMALL, positions=positions))
    tokens = torch.randint(11, (1, 9))
    for place in range(9):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 11
        gap = (model(tokens) - model(changed)).abs().amax((0, 2))
        assert (gap[:place] == 0).all()
        assert (gap[place:] > 1e-5).all()


def test_the_embedding_is_one_parameter_used_at_both_ends() -> None:
    torch.manual_seed(1)
    model = CausalLM(CausalLMConfig(**SMALL))
    assert [tuple(p.shape) for p in model.parameters()].count((11, 16)) == 1
    tokens = torch.zeros(1, 4, dtype=torch.long)  # token 3 is never read, only predicted
    before = model(tokens)
    with torch.no_grad():
        model.embed.weight[3] *= 2
    after = model(tokens)
    torch.testing.assert_close(after[..., 3], 2 * before[..., 3])
    others = [k for k in range(11) if k != 3]
    torch.testing.assert_close(after[..., others], before[..., others])
    assert "embed.weight" in trace(model, (tokens,)).parameters


def test_rotary_models_read_longer_texts_than_they_were_made_for() -> None:
    model = CausalLM(CausalLMConfig(**SMALL))
    assert model(torch.zeros(2, 30, dtype=torch.long)).shape == (2, 30, 11)


def test_the_gated_layer_is_its_formula() -> None:
    torch.manual_seed(2)
    layer, x = SwiGLU(6, 10).double(), torch.randn(4, 6, dtype=torch.float64)
    gate, up, down = layer.gate.weight, layer.up.weight, layer.down.weight
    torch.testing.assert_close(layer(x), (F.silu(x @ gate.T) * (x @ up.T)) @ down.T)


def test_an_untrained_model_is_near_the_uniform_guess() -> None:
    found = task("characters")
    model = family("causal_lm").build(family("causal_lm").configure(found), seed=0)
    test = found.data().test
    with torch.no_grad():
        bits = float(found.score(model(*test.inputs), test.targets))
    assert bits == pytest.approx(torch.tensor(97.0).log2().item(), abs=1.5)


@pytest.mark.parametrize("fields", [{"heads": 3}, {"heads": 4, "key_value_heads": 3}, {"width": 12, "heads": 4}])
def test_sizes_that_do_not_divide_are_one_sentence(fields: dict[str, int]) -> None:
    with pytest.raises(UserError, match="heads"):
        family("causal_lm").configure(task("characters"), fields)
