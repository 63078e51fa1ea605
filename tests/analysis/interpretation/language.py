"""A small language model of the topic language, trained once for several tests."""

from functools import cache

import torch
from torch import Tensor

from modelzoo.families.attention.causal_lm import CausalLM
from modelzoo.family import family
from modelzoo.task import task
from modelzoo.tasks.topic_ngrams import sentences

TASK = task("topic_ngrams")


@cache
def language_model(steps: int, layers: int, width: int, seed: int = 0) -> CausalLM:
    """A causal transformer with learned positions after some steps of Adam."""
    found = family("causal_lm")
    fields = {
        "width": width,
        "heads": 4,
        "key_value_heads": 4,
        "hidden": 2 * width,
        "layers": layers,
        "positions": "learned",
    }
    module = found.build(found.configure(TASK, fields), seed)
    assert isinstance(module, CausalLM)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=max(steps, 1))
    data, generator = TASK.data().train, torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(data.targets), (32,), generator=generator)
        optimizer.zero_grad()
        TASK.loss(module(data.inputs[0][rows]), data.targets[rows]).backward()
        optimizer.step()
        schedule.step()
    return module


@cache
def trained() -> CausalLM:
    """Two layers of width 32, 60 steps: enough for topics and the commonest bigrams."""
    return language_model(60, 2, 32)


@cache
def untrained() -> CausalLM:
    return language_model(0, 2, 32)


@cache
def corpus(count: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens `[N, T]`, next tokens, and topics `[N]`, none of them seen in training."""
    text, topics = sentences(count, torch.Generator().manual_seed(77))
    return text[:, :-1], text[:, 1:], topics
