"""S117: feed-forward memories found in the program, planted ones recognised, and those of a trained language model."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from analysis.interpretation.feedforward_memories import Memories, feedforward_memories_of, memory_layers, repeats
from graphs.program import trace
from modelzoo.errors import UserError
from tests.analysis.interpretation.language import corpus, language_model, trained, untrained


class Planted(nn.Module):
    """x ← x + relu(x Kᵀ) V on one-hot words: memory i fires on word i alone and promotes word i + 1."""

    def __init__(self, words: int, order: Tensor | None = None) -> None:
        super().__init__()
        order = torch.arange(words) if order is None else order
        self.embed = nn.Embedding(words, words)
        self.keys, self.values = nn.Linear(words, words, bias=False), nn.Linear(words, words, bias=False)
        with torch.no_grad():
            self.embed.weight.copy_(torch.eye(words))
            self.keys.weight.copy_(torch.eye(words)[order])
            self.values.weight.copy_(2 * torch.eye(words).roll(1, 0)[:, order])

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        h = h + self.values(self.keys(h).relu())
        return h @ self.embed.weight.T


WORDS = 6
TOKENS = torch.stack([(torch.arange(9) + start) % WORDS for start in range(8)])


@cache
def planted(order: tuple[int, ...] = tuple(range(WORDS))) -> Memories:
    module = Planted(WORDS, torch.tensor(order))
    topics = torch.arange(8) % 2
    return feedforward_memories_of(module, TOKENS, (TOKENS + 1) % WORDS, module.embed.weight, topics=topics, triggers=4)


def test_planted_memories_are_read_off() -> None:
    found = planted()
    assert found.layers == ("values.weight",)
    assert found.table["token"].tolist() == [(i + 1) % WORDS for i in range(WORDS)]
    assert found.table["agrees"].all()
    assert (found.table["ngram"] >= 3).all(), "word i follows word i − 1 wherever it stands"
    assert found.novel.tolist() == [0], "every output is the value of its one active memory"
    assert found.settled.tolist() == [1]
    wrong = feedforward_memories_of(Planted(WORDS), TOKENS, TOKENS, torch.eye(WORDS))
    assert not wrong.table["agrees"].any(), "control: another language"


def test_the_order_of_memories_does_not_matter() -> None:
    one, two = planted(), planted((3, 1, 5, 0, 2, 4))
    columns = ["largest", "ngram", "topic", "token", "agrees"]
    assert (
        one.table[columns].sort_values("token").values.tolist()
        == two.table[columns].sort_values("token").values.tolist()
    )
    assert (one.novel == two.novel).all()


def test_repeats_are_counted() -> None:
    text = torch.tensor([[1, 2, 3], [5, 2, 3], [7, 8, 9]])
    rows, columns = torch.tensor([[0, 1, 2]]), torch.tensor([[2, 2, 2]])
    assert repeats(text, rows, columns, 2).tolist() == [2]
    assert repeats(text, rows, columns, 3).tolist() == [1]


def memories(module: nn.Module) -> Memories:
    tokens, targets, topics = corpus()
    return feedforward_memories_of(module, tokens, targets, module.embed.weight, module.norm, topics)  # type: ignore[arg-type]


def test_memories_of_a_trained_model() -> None:
    found, control = memories(trained()), memories(untrained())
    print(found.by_layer().round(3).to_string(), control.by_layer().round(3).to_string(), sep="\n")
    assert found.layers == ("layers.0.feedforward.down.weight", "layers.1.feedforward.down.weight")
    learnt, plain = found.by_layer(), control.by_layer()
    assert learnt["agreement"].max() > 3 * found.chance
    assert learnt["agreement"].max() > plain["agreement"].max() + 0.03
    assert learnt["topic"].min() > plain["topic"].max() + 0.1
    assert found.settled[-1] == pytest.approx(1)
    assert found.settled[0] < 1


@pytest.mark.slow
def test_claims_on_a_trained_model() -> None:
    """Three layers of width 64, 700 steps. Agreement does not rise with depth here (19%, 25%, 12%; chance 1.6%); in S117 it does."""
    found = memories(language_model(700, 3, 64))
    rows = found.by_layer()
    print(rows.round(3).to_string())
    assert rows["agreement"].iloc[-1] > 5 * found.chance
    assert rows["shallow"].iloc[0] > 0.6


def test_without_memories_it_says_so() -> None:
    with pytest.raises(UserError, match="no feed-forward layers"):
        memory_layers(trace(nn.Linear(2, 2), (torch.zeros(1, 2),)))
