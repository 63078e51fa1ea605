"""A small language model of the topic language, trained once for several tests."""

from functools import cache

import torch
from torch import Tensor

from analysis.ntk.finetuning_kernel import pretrained
from modelzoo.families.attention.causal_lm import CausalLM
from modelzoo.task import task
from modelzoo.tasks.topic_ngrams import sentences

TASK = task("topic_ngrams")


@cache
def language_model(steps: int, layers: int, width: int, seed: int = 0) -> CausalLM:
    """A causal transformer with learned positions after some steps of Adam."""
    return pretrained(steps, width, layers, seed)


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
