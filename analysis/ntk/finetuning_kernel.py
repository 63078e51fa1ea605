"""Whether fine-tuning a language model is training by the tangent kernel of its pretrained weights.

"A Kernel-Based View of Language Model Fine-Tuning" (Malladi, Wettig, Yu, Chen and Arora, 2023; row S139). A two-class task
of few samples is given to one language model in two ways: by a *prompt head*, the difference of the logits of two label
words, and by a *fresh head*, a random linear map of the last hidden state. With kernel K(x, x') = ⟨∇f(x), ∇f(x')⟩ at
the pretrained weights θ₀, the logistic loss ℓ and χ = ∂ℓ/∂f,

    gradient descent    Δf(x) = −η/N Σ_n K(x, x_n) χ_n
    sign descent        Δf(x) = −η sign(χ_n) ⟨∇f(x), sign ∇f(x_n)⟩    (one sample a step; the "A-SignGD" kernel)

describe fine-tuning as far as f is linear in θ (linearization) and ∇f stays (fixed features). Low-rank adaptation of a
matrix W + B A by B alone has the kernel of the gradients G Aᵀ, which is that of G up to an error of the order r^(−1/2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.analysis import Options, analysis
from analysis.ntk.sign_kernel import gradients, sign_kernel_matrix
from analysis.theme import CATEGORICAL, styled
from modelzoo.families.attention.causal_lm import CausalLM
from modelzoo.family import family
from modelzoo.task import task
from modelzoo.tasks.topic_ngrams import OWN, SHARED, sentences

ROW = "S139"  # of the paper catalogue
COLUMNS = ("zero shot", "fine-tuned", "kernel", "sign descent", "sign kernel", "kernel change", "linearization error", "asymmetry")  # fmt: skip


class PromptHead(nn.Module):
    """f(x) = logit of one label word − logit of another, behind the last token.

    Args:
        model: tokens `[N, T]` to logits `[N, T, vocabulary]`.
        words: the label words of the two classes.
    """

    def __init__(self, model: nn.Module, words: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.words = model, words

    def forward(self, tokens: Tensor) -> Tensor:
        last = self.model(tokens)[:, -1]
        return (last[:, self.words[1]] - last[:, self.words[0]])[:, None]


class FreshHead(nn.Module):
    """f(x) = w · h(x), h the normalised hidden state behind the last token.

    Args:
        model: the language model.
        weight: w at the start, `[width]`.
    """

    def __init__(self, model: CausalLM, weight: Tensor) -> None:
        super().__init__()
        self.model, self.weight = model, nn.Parameter(weight)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.model.embed(tokens)
        if self.model.positions is not None:
            h = h + self.model.positions[: tokens.shape[1]]
        return (self.model.norm(self.model.layers(h))[:, -1] @ self.weight)[:, None]


def logistic_slope(f: Tensor, labels: Tensor) -> Tensor:
    """χ = ∂ℓ/∂f of the logistic loss for labels 0 and 1."""
    return torch.sigmoid(f) - labels


def kernel_descent(kernel: Tensor, start: Tensor, labels: Tensor, rate: float, steps: int) -> Tensor:
    """Outputs after gradient descent in function space.

    Args:
        kernel: between all samples and training samples, `[M, N]`, the training samples first.
        start: f₀ `[M]`.
        labels: `[N]`.
        rate: η.
        steps: of full batches.
    """
    f = start
    for _ in range(steps):
        f = f - rate / len(labels) * kernel @ logistic_slope(f[: len(labels)], labels)
    return f


def sign_kernel_descent(kernel: Tensor, start: Tensor, labels: Tensor, rate: float, order: Sequence[int]) -> Tensor:
    """The same for sign descent, one training sample a step in the given order; the kernel is ⟨∇f(x), sign ∇f(x_n)⟩."""
    f = start
    for n in order:
        f = f - rate * logistic_slope(f[n], labels[n]).sign() * kernel[:, n]
    return f


def low_rank_errors(module: nn.Module, rows: Tensor, ranks: Sequence[int], repeats: int = 4, seed: int = 0) -> Tensor:
    """‖K_r − K‖ / ‖K‖ between the kernel of low-rank adaptation and that of the matrices it adapts, `[rank]`.

    Args:
        module: whose linear layers are adapted.
        rows: gradients of all its parameters, `[N, P]`.
        ranks: r.
        repeats: draws of A ~ N(0, 1/r) `[r, in]`, averaged.
        seed: of them.
    """
    adapted = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    parameters = dict(module.named_parameters())
    parts = rows.split([p.numel() for p in parameters.values()], 1)
    matrices = [g.unflatten(1, parameters[n].shape) for n, g in zip(parameters, parts, strict=True) if n in adapted]
    kernel = sum((g.flatten(1) @ g.flatten(1).T for g in matrices), torch.zeros(len(rows), len(rows), dtype=rows.dtype))
    draw = torch.Generator().manual_seed(seed)
    found = []
    for rank in ranks:
        errors = []
        for _ in range(repeats):
            total = torch.zeros_like(kernel)
            for g in matrices:
                small = (g @ torch.randn(g.shape[2], rank, generator=draw, dtype=g.dtype) / rank**0.5).flatten(1)
                total += small @ small.T
            errors.append((total - kernel).norm() / kernel.norm())
        found.append(torch.stack(errors).mean())
    return torch.stack(found)


def outputs_of(module: nn.Module, tokens: Tensor) -> Tensor:
    """f `[N]`."""
    with torch.no_grad():
        return module(tokens)[:, 0]


def finetune(module: nn.Module, tokens: Tensor, labels: Tensor, rate: float, order: Sequence[int] | int) -> None:
    """Fine-tune all parameters in place: so many full-batch gradient steps, or sign steps on single samples in an order."""
    parameters = list(module.parameters())
    for step in range(order) if isinstance(order, int) else order:
        rows = slice(None) if isinstance(order, int) else slice(step, step + 1)
        loss = F.binary_cross_entropy_with_logits(module(tokens[rows])[:, 0], labels[rows])
        slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for p, slope in zip(parameters, slopes, strict=True):
                if slope is not None:
                    p.sub_(rate * (slope if isinstance(order, int) else slope.sign()))


def compare(
    module: nn.Module, train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, rate: float, steps: int,
    sign_rate: float, seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Fine-tune a model with its head and predict the outcome by its kernels at the start.

    Args:
        module: tokens `[N, T]` to f `[N, 1]`; its parameters are left as they are.
        train: `[N, T]`.
        labels: 0 or 1, `[N]`.
        test: `[M, T]`.
        truth: `[M]`.
        rate: η times the largest eigenvalue of K / N.
        steps: full batches; sign descent passes over the samples twice.
        sign_rate: η of sign descent.
        seed: of the order of samples.

    Returns:
        The accuracies and errors named in `COLUMNS`.
    """
    everything, count = torch.cat([train, test]), len(train)
    labels = labels.to(next(module.parameters()).dtype)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    rows, start = gradients(module, [everything]), outputs_of(module, everything)
    kernel, sign = rows @ rows[:count].T, sign_kernel_matrix(rows, rows[:count])
    step = rate * count / float(torch.linalg.matrix_norm(kernel[:count], 2))
    order = torch.cat([torch.randperm(count, generator=torch.Generator().manual_seed(seed + k)) for k in range(2)]).tolist()  # fmt: skip

    def accuracy(f: Tensor) -> float:
        return float(((f[count:] > 0) == (truth > 0)).double().mean())

    finetune(module, train, labels, step, steps)
    tuned, moved = outputs_of(module, everything), torch.cat([(p.detach() - before[n]).flatten() for n, p in module.named_parameters()])  # fmt: skip
    after = gradients(module, [train])
    module.load_state_dict(before, strict=False)
    finetune(module, train, labels, sign_rate, order)
    signed = outputs_of(module, everything)
    module.load_state_dict(before, strict=False)
    own = sign[:count]
    return dict(zip(COLUMNS, (
        accuracy(start), accuracy(tuned), accuracy(kernel_descent(kernel, start, labels, step, steps)),
        accuracy(signed), accuracy(sign_kernel_descent(sign, start, labels, sign_rate, order)),
        float((after @ after.T - kernel[:count]).norm() / kernel[:count].norm()),
        float((start + rows @ moved - tuned)[count:].norm() / (tuned - start)[count:].norm()),
        float((own - own.T).norm() / own.norm()),
    ), strict=True))  # fmt: skip


@dataclass(frozen=True)
class FinetuningKernel:
    """Fine-tuning beside its kernels.

    Args:
        rows: one row a head and draw of training samples: `head`, `draw` and the columns of `COLUMNS` (accuracies on
            test samples, ‖K_FT − K₀‖ / ‖K₀‖, ‖f_FT − f₀ − ∇f·Δθ‖ / ‖f_FT − f₀‖, ‖K_sign − K_signᵀ‖ / ‖K_sign‖).
        low_rank: one row a rank: `rank`, `error` of the kernel of low-rank adaptation (prompt head).
    """

    rows: pd.DataFrame
    low_rank: pd.DataFrame

    @property
    def means(self) -> pd.DataFrame:
        """Means over draws, by head."""
        return self.rows.groupby("head", sort=False)[list(COLUMNS)].mean()

    @property
    def exponent(self) -> float:
        """Slope of the logarithm of the low-rank kernel's error against that of the rank."""
        return float(np.polyfit(np.log(self.low_rank["rank"]), np.log(self.low_rank["error"]), 1)[0])

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        parts = [
            f"{head} head: accuracy {row['fine-tuned']:.3f} fine-tuned, {row['kernel']:.3f} by the kernel, which changes by "
            f"{row['kernel change']:.0%}, linearization error {row['linearization error']:.0%}"
            for head, row in self.means.iterrows()
        ]  # fmt: skip
        return "; ".join(parts) + f"; low-rank adaptation keeps the kernel up to r^{self.exponent:.2f}."

    def to_frame(self) -> pd.DataFrame:
        """One row a head and draw."""
        return self.rows

    def plot(self) -> go.Figure:
        """Accuracies, errors, and the kernel of low-rank adaptation."""
        drawing = make_subplots(1, 3, subplot_titles=("test accuracy", "distance from a kernel", "error of low-rank adaptation"), horizontal_spacing=0.08, column_widths=(0.42, 0.28, 0.3))  # fmt: skip
        for (head, row), colour in zip(self.means.iterrows(), CATEGORICAL, strict=False):
            for column, names in enumerate((COLUMNS[:5], COLUMNS[5:7]), start=1):
                drawing.add_trace(
                    go.Bar(x=list(names), y=row[list(names)], name=f"{head} head", marker_color=colour, showlegend=column == 1),
                    row=1, col=column,
                )  # fmt: skip
        drawing.add_trace(
            go.Scatter(x=self.low_rank["rank"], y=self.low_rank["error"], mode="lines+markers", line_color=CATEGORICAL[2], showlegend=False),
            row=1, col=3,
        )  # fmt: skip
        drawing.update_xaxes(type="log", title_text="rank", tickvals=self.low_rank["rank"], row=1, col=3)
        drawing.update_yaxes(type="log", row=1, col=3)
        drawing.update_yaxes(range=[0, 1], row=1, col=1)
        return styled(drawing, height=380).update_layout(legend_y=1.12, margin_t=84)


def pretrained(steps: int, width: int, layers: int, seed: int) -> CausalLM:
    """A causal transformer with learned positions after some steps of AdamW on `topic_ngrams`."""
    chosen, found = task("topic_ngrams"), family("causal_lm")
    fields = {"width": width, "heads": 4, "key_value_heads": 4, "hidden": 2 * width, "layers": layers, "positions": "learned"}  # fmt: skip
    module = found.build(found.configure(chosen, fields), seed)
    assert isinstance(module, CausalLM)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=max(steps, 1))
    data, generator = chosen.data().train, torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(data.targets), (32,), generator=generator)
        optimizer.zero_grad()
        chosen.loss(module(data.inputs[0][rows]), data.targets[rows]).backward()
        optimizer.step()
        schedule.step()
    return module.eval()


def two_topics(count: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """The first words of sentences of the first two topics, `[2 · count, length]`, and their topics."""
    text, topics = sentences(4 * count, torch.Generator().manual_seed(1000 + seed))
    chosen = topics < 2
    return text[chosen, :length], topics[chosen]


def label_words() -> tuple[int, int]:
    """The commonest word of its own of either topic, in the pretraining text."""
    counts = torch.bincount(task("topic_ngrams").data().train.inputs[0].flatten(), minlength=SHARED + 2 * OWN)
    first, second = (int(counts[SHARED + OWN * k : SHARED + OWN * (k + 1)].argmax()) for k in range(2))
    return SHARED + first, SHARED + OWN + second


class FinetuningKernelOptions(Options):
    """The language model, the samples a class, their length, how many draws, learning rates and ranks."""

    pretraining: int = Field(300, ge=1)
    width: int = Field(32, ge=4, multiple_of=4)
    layers: int = Field(2, ge=1)
    samples: int = Field(16, ge=1)
    test: int = Field(64, ge=1)
    length: int = Field(6, ge=2)
    draws: int = Field(3, ge=1)
    rate: float = Field(1.0, gt=0)
    steps: int = Field(60, ge=1)
    sign_rate: float = Field(1e-4, gt=0)
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16)
    seed: int = 0


@analysis(
    "finetuning_kernel", of="nothing", options=FinetuningKernelOptions,
    tiny={"pretraining": 2, "width": 8, "layers": 1, "samples": 2, "test": 4, "draws": 1, "steps": 2, "ranks": (1, 4)},
)  # fmt: skip
def finetuning_kernel(options: FinetuningKernelOptions) -> FinetuningKernel:
    """Fine-tuning a small language model to tell topics apart, beside the kernels of its pretrained weights."""
    model = pretrained(options.pretraining, options.width, options.layers, options.seed)
    test, truth = two_topics(options.test, options.length, options.seed)
    rows, errors = [], torch.zeros(len(options.ranks))
    for draw in range(options.draws):
        train, labels = two_topics(options.samples, options.length, options.seed + 1 + draw)
        generator = torch.Generator().manual_seed(options.seed + draw)
        heads: dict[str, nn.Module] = {
            "prompt": PromptHead(model, label_words()),
            "fresh": FreshHead(model, torch.randn(options.width, generator=generator) / options.width**0.5),
        }
        for name, module in heads.items():
            found = compare(module, train, labels, test, truth, options.rate, options.steps, options.sign_rate, draw)
            rows.append({"head": name, "draw": draw, **found})
        if draw == 0:
            errors = low_rank_errors(heads["prompt"], gradients(heads["prompt"], [train]), options.ranks)
    low_rank = pd.DataFrame({"rank": list(options.ranks), "error": errors.tolist()})
    return FinetuningKernel(pd.DataFrame(rows), low_rank)
