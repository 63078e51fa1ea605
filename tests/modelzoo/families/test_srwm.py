"""The self-referential weight matrix: its update, the delta rule inside it, and learning to learn five new classes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelzoo.families.memory.srwm import SRWM, SelfReferentialLayer
from modelzoo.family import family
from modelzoo.task import task
from modelzoo.tasks.few_shot import SHOTS, WAYS, queries, streams


def layer(**fields: bool) -> SelfReferentialLayer:
    torch.manual_seed(0)
    return SelfReferentialLayer(4, 2, **fields)


def by_hand(module: SelfReferentialLayer, x: Tensor, blocks: tuple[bool, bool, bool, bool]) -> Tensor:
    """One sequence, one head at a time, row by row as in the equation; `blocks` says which of y, k, q, β are rewritten."""
    outputs = []
    for head in range(2):
        weight, own = module.weight[head].detach().clone(), []
        for step in x[:, 4 * head : 4 * head + 4]:
            made = weight @ step.softmax(-1)
            y, key, query, rates = made[:4], made[4:8].softmax(-1), made[8:12].softmax(-1), made[12:].sigmoid()
            new, old = weight @ query, weight @ key
            for block, (first, last) in enumerate(((0, 4), (4, 8), (8, 12), (12, 16))):
                if blocks[block]:
                    change = rates[block] * (new - old)[first:last]
                    weight[first:last] = weight[first:last] + torch.outer(change, key)
            own.append(y)
        outputs.append(torch.stack(own))
    return torch.cat(outputs, -1)


@pytest.mark.parametrize("kind", ["whole", "delta", "frozen"])
def test_every_block_follows_its_rule(kind: str) -> None:
    """With the other blocks fixed, the rows of y follow the delta rule of fast weight programmers."""
    module = layer(**({} if kind == "whole" else {kind: True})).double()
    x = torch.randn(6, 8, dtype=torch.float64)
    blocks = {"whole": (True,) * 4, "delta": (True, False, False, False), "frozen": (False,) * 4}[kind]
    torch.testing.assert_close(module(x[None])[0], by_hand(module, x, blocks), atol=1e-12, rtol=0)


def test_the_three_kinds_differ() -> None:
    x = torch.randn(1, 6, 8)
    whole, delta, frozen = (layer(**fields)(x) for fields in ({}, {"delta": True}, {"frozen": True}))
    assert torch.equal(whole[:, 0], frozen[:, 0])
    for one, other in ((whole, delta), (whole, frozen), (delta, frozen)):
        assert (one[:, 2:] - other[:, 2:]).abs().max() > 1e-4


def test_a_head_is_equivariant_under_permutations_of_its_inputs() -> None:
    """Inputs move with the columns and with the rows of keys and queries; outputs stay."""
    module = layer().double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    before = module(x)
    order = torch.tensor([2, 0, 3, 1])
    rows = torch.cat([torch.arange(4), 4 + order, 8 + order, torch.arange(12, 16)])
    with torch.no_grad():
        module.weight[0] = module.weight[0][rows][:, order]
    moved = torch.cat([x[..., :4][..., order], x[..., 4:]], -1)
    torch.testing.assert_close(module(moved), before)
    assert (module(x) - before).abs().max() > 1e-3


def test_streams_show_every_class_once_a_round_and_hide_the_labels_that_are_asked_for() -> None:
    split = streams(3, torch.Generator().manual_seed(0))
    rounds = split.targets.view(3, 2 * SHOTS, WAYS)
    assert (rounds.sort(-1).values == torch.arange(WAYS)).all()
    labels = split.inputs[0][..., -WAYS:].view(3, SHOTS, 2, WAYS, WAYS)
    assert (labels[:, :, 1] == 0).all()
    assert torch.equal(labels[:, :, 0].argmax(-1), rounds.view(3, SHOTS, 2, WAYS)[:, :, 0])
    assert torch.equal(queries(split.targets), rounds[:, 1::2])


def shots(steps: int, **fields: Any) -> Tensor:
    """Test accuracy after one, two and three labelled samples a class."""
    found, chosen = family("srwm"), task("few_shot")
    module = found.build(found.configure(chosen, fields), 0)
    assert isinstance(module, SRWM)
    train, test = chosen.data().train, chosen.data().test
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(train.targets), (32,), generator=generator)
        loss = chosen.loss(module(train.inputs[0][rows]), train.targets[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        hits = queries(module(test.inputs[0])).argmax(-1) == queries(test.targets)
    return hits.float().mean((0, 2))


@pytest.mark.slow
def test_learns_five_new_classes_from_three_samples() -> None:
    own, delta, frozen = shots(1000), shots(1000, delta=True), shots(300, frozen=True)
    for name, row in (("self-referential", own), ("delta rule", delta), ("frozen", frozen)):
        print(f"accuracy after 1, 2, 3 shots, {name}:", *(f"{float(value):.3f}" for value in row))
    assert own[-1] >= 0.75
    assert own[0] < own[-1]
    assert frozen[-1] <= 0.3
