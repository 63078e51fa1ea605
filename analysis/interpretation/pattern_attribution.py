"""PatternNet and PatternAttribution: which part of the input carries the signal that a neuron reads.

A weight vector has to cancel distractors, so it does not point along the signal. Of x = s + d with y = wᵀx the signal is
estimated by S(x) = a wᵀx with a pattern a that depends on the data: a = cov[x, y] / wᵀcov[x, y] for linear neurons, and
a_+ = (E_+[x y] − E_+[x] E[y]) / (wᵀE_+[x y] − wᵀE_+[x] E[y]), means over y > 0, for rectified ones. "Learning how to
explain neural networks: PatternNet and PatternAttribution" (Kindermans et al., 2018; row S154).

A neuron of a convolution sees patches: patterns are estimated over samples and positions.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.analysis import ModelOptions, analysis
from analysis.interpretation.signal_estimators import Estimator, patches, patterns, quality
from analysis.theme import CATEGORICAL, figure
from graphs.program import evaluation_mode
from modelzoo.errors import UserError
from modelzoo.store import Population

ROW = "S154"
Method = Literal["gradient", "deconvnet", "guided", "lrp", "patternnet", "pattern_attribution"]
LAYERS = (nn.Linear, nn.Conv2d)


class Explainer:
    """Explanations of a feed-forward network of linear layers, convolutions and ReLUs.

    Args:
        module: the network; hooks see its layers in the order of its forward pass.
        data: inputs from which patterns are estimated, `[N, *shape]`.
        estimator: of the patterns.

    Raises:
        UserError: it has no linear layer or convolution, or another nonlinearity than ReLU.
    """

    def __init__(self, module: nn.Module, data: Tensor, estimator: Estimator = "two_component") -> None:
        self.module = module
        self.layers = {name: part for name, part in module.named_modules() if isinstance(part, LAYERS)}
        others = [
            type(part).__name__ for part in module.modules()
            if not list(part.children()) and not isinstance(part, (*LAYERS, nn.ReLU, nn.Identity, nn.Dropout, nn.Flatten))
        ]  # fmt: skip
        if not self.layers or others:
            raise UserError(f"patterns need a network of linear layers, convolutions and ReLUs, {type(module).__name__!r} has {others[0] if others else 'none of them'}; choose another.")  # fmt: skip
        self.seen = {name: patches(self.layers[name], x) for name, x in self.inputs_of(data).items()}
        self.thresholds = {name: None if part.bias is None else -part.bias.detach().double() for name, part in self.layers.items()}  # fmt: skip
        last = list(self.layers)[-1]  # not rectified
        self.estimators: dict[str, Estimator] = {
            name: "linear" if name == last and estimator == "two_component" else estimator for name in self.seen
        }
        self.patterns, self.off = (
            {name: patterns(seen, self.estimators[name], self.thresholds[name], on) for name, seen in self.seen.items()}
            for on in (True, False)
        )

    def inputs_of(self, data: Tensor) -> dict[str, Tensor]:
        """The input of every layer, in the order of the forward pass."""
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                found[name] = arguments[0].detach()

            return hook

        handles = [part.register_forward_pre_hook(keep(name)) for name, part in self.layers.items()]
        with evaluation_mode(self.module), torch.no_grad():
            self.module(data)
        for handle in handles:
            handle.remove()
        return found

    def explain(self, inputs: Tensor, method: Method, outputs: Tensor | None = None) -> Tensor:
        """What is projected back from an output to the input, `[N, *shape]`.

        Args:
            inputs: `[N, *shape]`.
            method: `gradient`; `deconvnet` and `guided` (which rectify on the way back); `lrp` (weights times inputs,
                z-rule, of input times gradient); `patternnet` (signal: patterns in place of weights) or
                `pattern_attribution` (weights times patterns).
            outputs: `[N]` output to explain, the largest if None.
        """
        x = inputs.detach().clone().requires_grad_()
        back = {name: self.backward_weight(name, method) for name in self.layers}
        rectifiers = [part for part in self.module.modules() if isinstance(part, nn.ReLU)]
        handles = [part.register_forward_hook(_substituted(back[name])) for name, part in self.layers.items()]
        if method in ("deconvnet", "guided"):
            handles += [part.register_forward_hook(_rectified(method == "guided")) for part in rectifiers]
        try:
            with evaluation_mode(self.module):
                y = self.module(x)
        finally:
            for handle in handles:
                handle.remove()
        rows = y.argmax(1) if outputs is None else outputs
        chosen = y.gather(1, rows[:, None])[:, 0]
        starts = chosen.detach() if method in ("patternnet", "pattern_attribution") else torch.ones_like(chosen)
        (found,) = torch.autograd.grad(chosen, x, starts)
        return found * inputs if method == "lrp" else found

    def backward_weight(self, name: str, method: Method) -> Tensor | None:
        """What stands for a layer's weight on the way back; None for the weight itself."""
        if method not in ("patternnet", "pattern_attribution"):
            return None
        weight = self.layers[name].weight
        pattern = self.patterns[name].view_as(weight).to(weight.dtype)
        return pattern if method == "patternnet" else pattern * weight.detach()


def _substituted(weight: Tensor | None) -> Any:
    """A hook that leaves a layer's output as it is and sends its gradient back through another weight."""

    def hook(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if weight is None:
            return None
        (x,) = arguments
        if isinstance(layer, nn.Conv2d):
            other = F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)
        else:
            other = F.linear(x, weight)
        return other + (output - other).detach()

    return hook


def _rectified(guided: bool) -> Any:
    """A hook on a ReLU: gradients below zero do not pass, and with `guided` the ReLU's own mask holds as well."""

    def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        passed = output if guided else arguments[0] + (output - arguments[0]).detach()
        marked = passed * 1
        if marked.requires_grad:
            marked.register_hook(lambda gradient: gradient.clamp_min(0))
        return marked

    return hook


def degradation(
    module: nn.Module, inputs: Tensor, scores: Tensor, steps: int = 10, fraction: float = 0.5
) -> NDArray[np.float64]:
    """Mean output of the first class as the pixels of highest score are set to their mean, in `steps` equal steps.

    Args:
        module: the network.
        inputs: `[N, *shape]`.
        scores: of every pixel, the same shape.
        steps: points of the curve after the first.
        fraction: of the pixels replaced at the end.

    Returns:
        `[steps + 1]` mean probability of the class predicted at first.
    """
    mean, count = inputs.mean(0, keepdim=True), int(fraction * inputs[0].numel())
    order = scores.flatten(1).argsort(1, descending=True)
    with evaluation_mode(module), torch.no_grad():
        first = module(inputs).argmax(1)
        found = []
        for step in range(steps + 1):
            mask = torch.zeros_like(inputs, dtype=torch.bool).flatten(1)
            mask.scatter_(1, order[:, : count * step // steps], True)
            changed = torch.where(mask.view_as(inputs), mean, inputs)
            found.append(float(module(changed).softmax(1).gather(1, first[:, None]).mean()))
    return np.array(found)


@dataclass(frozen=True)
class PatternQuality:
    """How well signal estimators do, by layer, and how fast explanations find what matters.

    Args:
        layers: their names.
        estimators: their names.
        quality: `[layer, estimator]` mean ρ over neurons.
        methods: explanation methods, `random` among them.
        degradation: `[method, step]` probability of the predicted class as pixels are removed.
        explainer: with the patterns.
    """

    layers: tuple[str, ...]
    estimators: tuple[str, ...]
    quality: NDArray[np.float64]
    methods: tuple[str, ...]
    degradation: NDArray[np.float64]
    explainer: Explainer = field(repr=False, compare=False)

    @property
    def areas(self) -> dict[str, float]:
        """Area under the degradation curve by method: less is better."""
        return {name: float(row.mean()) for name, row in zip(self.methods, self.degradation, strict=True)}

    @property
    def sentence(self) -> str:
        """Mean quality by estimator, and areas under the degradation curves."""
        means = ", ".join(f"{name} {value:.3f}" for name, value in zip(self.estimators, self.quality.mean(0), strict=True))  # fmt: skip
        return f"quality of the signal: {means}; area under degradation: " + ", ".join(f"{name} {value:.3f}" for name, value in self.areas.items())  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row a layer and estimator, then one a method."""
        rows = [
            {"layer": layer, "estimator": estimator, "quality": float(self.quality[i, j])}
            for i, layer in enumerate(self.layers) for j, estimator in enumerate(self.estimators)
        ]  # fmt: skip
        return pd.DataFrame([*rows, *({"method": name, "area": value} for name, value in self.areas.items())])

    def plot(self) -> go.Figure:
        """Quality by layer, one line an estimator."""
        chart = figure()
        for j, name in enumerate(self.estimators):
            chart.add_bar(x=self.layers, y=self.quality[:, j], name=name, marker_color=CATEGORICAL[j])
        return chart.update_layout(yaxis_title="quality ρ of the signal", yaxis_range=[0, 1])


def pattern_quality(module: nn.Module, train: Tensor, test: Tensor, neurons: int = 16, seed: int = 0) -> PatternQuality:
    """Estimators and explanations of a network, patterns from training inputs, measures on test inputs.

    Args:
        module: a network that `Explainer` takes.
        train, test: `[N, *shape]`.
        neurons: of every layer whose quality is measured.
        seed: of the random scores.
    """
    estimators: tuple[Estimator, ...] = ("filter", "linear", "two_component")
    explainers = {estimator: Explainer(module, train, estimator) for estimator in estimators}
    explainer = explainers["two_component"]
    seen = {name: patches(explainer.layers[name], x) for name, x in explainer.inputs_of(test).items()}
    values = np.array([
        [float(quality(patch, each.patterns[name], each.off[name], each.thresholds[name], neurons).nanmean()) for each in explainers.values()]
        for name, patch in seen.items()
    ])  # fmt: skip
    methods: tuple[Method, ...] = ("gradient", "lrp", "patternnet", "pattern_attribution")
    noise = torch.rand(test.shape, generator=torch.Generator().manual_seed(seed))
    curves = [degradation(module, test, noise)]
    for method in methods:
        found = explainer.explain(test, method)
        curves.append(degradation(module, test, found if method in ("lrp", "pattern_attribution") else found.abs()))
    return PatternQuality(tuple(seen), estimators, values, ("random", *methods), np.array(curves), explainer)


class PatternAttributionOptions(ModelOptions):
    """Which model, and how many training and test samples."""

    samples: int = Field(1000, ge=10)
    test: int = Field(200, ge=2)


@analysis(
    "pattern_attribution",
    of="population",
    options=PatternAttributionOptions,
    tiny={"samples": 100, "test": 20},
    example="small_cnn",
)
def pattern_attribution(population: Population, options: PatternAttributionOptions) -> PatternQuality:
    """Signal estimators of PatternNet by layer, and how fast attributions find the pixels that matter."""
    task = population.task
    if task.inputs.kind not in ("image", "vector") or task.targets.kind != "classes":
        raise UserError(f"attribution needs classified images or vectors, task {task.name!r} has {task.inputs}; choose another population.")  # fmt: skip
    row = options.row(population)
    data = task.data()
    return pattern_quality(population.module(row), data.train.inputs[0][: options.samples], data.test.inputs[0][: options.test])  # fmt: skip
