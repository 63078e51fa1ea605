"""Metrics and trivial predictors shared by tasks; every metric is vmappable."""

from math import log

import torch
from torch import Tensor

from modelzoo.task import TaskData


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of rows whose largest logit is the label; logits `[..., classes]`, labels `[...]`."""
    return (logits.argmax(-1) == labels).float().mean()


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of the squared difference over all entries."""
    return (outputs - targets).square().mean()


def r2(outputs: Tensor, targets: Tensor) -> Tensor:
    """Coefficient of determination 1 - SSE/SST, entries `[sample, feature]` pooled over features."""
    residual = (outputs - targets).square().sum()
    return 1 - residual / (targets - targets.mean(0, keepdim=True)).square().sum()


def psnr(outputs: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for signals in [0, 1]: -10 log10 MSE."""
    return -10 * torch.log10(mean_squared_error(outputs, targets))


def majority_accuracy(data: TaskData) -> float:
    """Accuracy on the test split of always answering the most frequent training label."""
    train, test = data.train.targets, data.test.targets
    if data.train.mask is not None:
        train = train[data.train.mask]
    if data.test.mask is not None:
        test = test[data.test.mask]
    return float((test == train.flatten().mode().values).float().mean())


def mean_squared_error_of_mean(data: TaskData) -> float:
    """Mean squared error on the test split of always answering the mean training target."""
    return float(mean_squared_error(data.train.targets.mean(0, keepdim=True), data.test.targets))


def r2_of_mean(data: TaskData) -> float:
    """Coefficient of determination on the test split of always answering the mean training target."""
    train, test = data.train.targets, data.test.targets
    return float(r2(train.mean(0, keepdim=True), test))


def overlap(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over entries of sign(output) · target, for targets of ±1: 1 is perfect recall, 0 is chance."""
    return (outputs.sign() * targets).mean()


def bits_per_character(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean of -log2 p(token); logits `[..., vocabulary]`, tokens `[...]`."""
    chosen = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1))
    return -chosen.mean() / log(2)
