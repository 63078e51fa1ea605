"""The HyperLSTM: what its rescaling does, and language modelling beside an LSTM of as many parameters."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.families.recurrent.hyperlstm import HyperLSTM, HyperLSTMConfig
from modelzoo.families.recurrent.lstm import LSTMLayer
from modelzoo.family import family, parameter_count
from modelzoo.task import task

LETTERS = 8


def build(**fields: int | bool) -> HyperLSTM:
    torch.manual_seed(0)
    return HyperLSTM(HyperLSTMConfig(**fields))  # type: ignore[arg-type]


def test_rescaling_rows_equals_a_generated_weight_matrix() -> None:
    """diag(d(ĥ)) W_h is the matrix that the hypernetwork generates; its rows are rescaled instead."""
    module = build(in_features=3, hidden=5, hyper=4, embedding=2)
    nn.init.normal_(module.rescalings.weight)
    hyper, state = torch.randn(2, 4), torch.randn(2, 5)
    scale, _, _ = module.rescalings(hyper)
    z = module.rescalings.embed(hyper).unflatten(-1, (12, 2))
    for gate in range(4):
        for sample in range(2):
            d = z[sample, gate] @ module.rescalings.weight[gate]
            generated = torch.diag(d) @ module.weight_h.unflatten(0, (4, 5))[gate]
            own = F.linear(state, module.weight_h).unflatten(-1, (4, -1))
            torch.testing.assert_close(generated @ state[sample], (scale * own)[sample, gate])


def test_scales_begin_at_a_tenth_and_then_follow_the_input() -> None:
    module = build(in_features=3, hidden=5, hyper=4, embedding=2)
    for scale in module.rescalings(torch.randn(6, 4))[:2]:
        torch.testing.assert_close(scale, torch.full_like(scale, 0.1), atol=0.02, rtol=0)
        assert scale.std() > 0


def test_every_step_sees_only_the_past() -> None:
    module = build(vocabulary=LETTERS, hidden=5, hyper=4, out_features=LETTERS, every_step=True)
    tokens = torch.randint(0, LETTERS, (2, 7))
    before = module(tokens)
    assert before.shape == (2, 7, LETTERS)
    tokens[:, 4] = (tokens[:, 4] + 1) % LETTERS
    after = module(tokens)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


class CharacterLSTM(nn.Module):
    """An ordinary LSTM that predicts every next character."""

    def __init__(self, letters: int, features: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Embedding(letters, features), LSTMLayer(features, hidden), nn.Linear(hidden, letters)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens)


def switching(count: int, length: int, generator: torch.Generator, letters: int = LETTERS) -> tuple[Tensor, Tensor]:
    """One of four fixed permutations gives the next letter; which one changes with probability 0.05, at any time."""
    rules = torch.stack([torch.randperm(letters, generator=torch.Generator().manual_seed(rule)) for rule in range(4)])
    regime = torch.randint(0, 4, (count,), generator=generator)
    letter = torch.randint(0, letters, (count,), generator=generator)
    text = [letter]
    for _ in range(length):
        switch = torch.rand(count, generator=generator) < 0.05
        regime = torch.where(switch, torch.randint(0, 4, (count,), generator=generator), regime)
        letter = rules[regime, letter]
        text.append(letter)
    return torch.stack(text[:-1], 1), torch.stack(text[1:], 1)


def bits(module: nn.Module, draw: object, steps: int, test: tuple[Tensor, Tensor]) -> float:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        inputs, targets = draw(generator)  # type: ignore[operator]
        loss = F.cross_entropy(module(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float(F.cross_entropy(module(test[0]).flatten(0, 1), test[1].flatten()) / torch.tensor(2.0).log())


def pair(letters: int, hidden: int) -> tuple[HyperLSTM, CharacterLSTM]:
    """A HyperLSTM, and an LSTM of at least as many parameters."""
    own = build(
        vocabulary=letters, hidden=hidden, hyper=hidden // 2, embedding=2, out_features=letters, every_step=True
    )
    width = hidden
    while parameter_count(CharacterLSTM(letters, 8, width)) < parameter_count(own):
        width += 1
    torch.manual_seed(0)
    return own, CharacterLSTM(letters, 8, width)


def test_learns_a_switching_grammar() -> None:
    own, _ = pair(LETTERS, 8)
    test = switching(100, 8, torch.Generator().manual_seed(9))
    assert bits(own, lambda generator: switching(32, 8, generator), 120, test) < 2.0 < 3.0  # three bits is chance


@pytest.mark.slow
def test_is_as_good_as_an_lstm_when_the_grammar_switches() -> None:
    """That it is better, as one might expect of weights that change with the regime, was not found at this size."""
    test = switching(1000, 32, torch.Generator().manual_seed(9), 16)
    own, other = (bits(m, lambda g: switching(32, 32, g, 16), 400, test) for m in pair(16, 16))
    print(f"switching grammar: HyperLSTM {own:.3f} bits, LSTM {other:.3f}")
    assert own <= other + 0.02


@pytest.mark.slow
def test_characters_beside_an_lstm() -> None:
    chosen = task("characters")
    train, held = chosen.data().train, chosen.data().test

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(train.targets), (32,), generator=generator)
        return train.inputs[0][rows], train.targets[rows]

    found = family("hyperlstm").configure(chosen, {})
    assert found.every_step  # type: ignore[attr-defined]
    own, other = (bits(m, draw, 500, (held.inputs[0], held.targets)) for m in pair(chosen.inputs.classes or 0, 32))
    print(f"characters: HyperLSTM {own:.3f} bits, LSTM {other:.3f}")
    assert own <= other + 0.02
