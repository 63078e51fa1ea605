"""Fine-tuning of language models beside its kernels (S139)."""

import numpy as np
import pytest
import torch
from torch import nn

from analysis.analysis import find
from analysis.ntk.finetuning_kernel import (
    FinetuningKernel,
    FreshHead,
    PromptHead,
    finetune,
    kernel_descent,
    label_words,
    logistic_slope,
    low_rank_errors,
    outputs_of,
    pretrained,
    sign_kernel_descent,
    two_topics,
)
from analysis.ntk.sign_kernel import gradients, sign_kernel_matrix


class Linear(nn.Module):
    """A model whose kernel never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.map(x)


def test_kernels_follow_a_linear_model_exactly() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(7, 4, generator=draw, dtype=torch.float64)
    labels = torch.tensor([0.0, 1, 1, 0, 1], dtype=torch.float64)
    for order in (9, [0, 3, 1, 4, 2, 0]):
        torch.manual_seed(1)
        module = Linear().double()
        start, rows = outputs_of(module, x), gradients(module, [x])
        if isinstance(order, int):
            expected = kernel_descent(rows @ rows[:5].T, start, labels, 0.5, order)
        else:
            expected = sign_kernel_descent(sign_kernel_matrix(rows, rows[:5]), start, labels, 0.05, order)
        finetune(module, x[:5], labels, 0.5 if isinstance(order, int) else 0.05, order)
        torch.testing.assert_close(outputs_of(module, x), expected)
        assert (expected - start).abs().max() > 0.05, "the model moved"
    slope = logistic_slope(torch.tensor(0.3, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    assert float(slope) == pytest.approx(1 / (1 + np.exp(-0.3)) - 1)


def test_heads_and_the_kernel_of_low_rank_adaptation() -> None:
    model = pretrained(1, 8, 1, 0)
    tokens, labels = two_topics(3, 6, 0)
    assert labels.tolist() == [0, 1] * 3
    words = label_words()
    logits = model(tokens)[:, -1]
    torch.testing.assert_close(PromptHead(model, words)(tokens)[:, 0], logits[:, words[1]] - logits[:, words[0]])
    head = FreshHead(model, model.embed.weight[5].detach().clone())
    torch.testing.assert_close(head(tokens)[:, 0], logits[:, 5])
    module = PromptHead(model, words)
    errors = low_rank_errors(module, gradients(module, [tokens]), (4, 1024), repeats=8)
    assert errors[1] < 0.25 * errors[0], "sixteen times less in expectation"


def check(found: FinetuningKernel) -> None:
    prompt, fresh = found.means.loc["prompt"], found.means.loc["fresh"]
    assert abs(prompt["fine-tuned"] - prompt["kernel"]) <= 0.08
    assert prompt["kernel change"] <= 0.5 * fresh["kernel change"]
    assert prompt["linearization error"] <= 0.5 * fresh["linearization error"]
    assert prompt["asymmetry"] > 0.05
    assert prompt["zero shot"] < prompt["fine-tuned"]


def test_prompts_keep_fine_tuning_a_kernel_method() -> None:
    found = find("finetuning_kernel").run(None, {"pretraining": 120, "draws": 1, "ranks": (2, 8), "steps": 40})
    assert isinstance(found, FinetuningKernel)
    check(found)


@pytest.mark.slow
def test_prompts_keep_fine_tuning_a_kernel_method_over_draws() -> None:
    found = find("finetuning_kernel").run()
    assert isinstance(found, FinetuningKernel)
    check(found)
    assert found.exponent == pytest.approx(-0.5, abs=0.1)
    prompt = found.means.loc["prompt"]
    assert abs(prompt["sign descent"] - prompt["sign kernel"]) <= 0.08
