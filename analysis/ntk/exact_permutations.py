"""Learning a permutation of bits exactly from the k unit vectors alone.

"Exact Learning of Permutations for Nonzero Binary Inputs with Logarithmic Training Size and Quadratic Ensemble
Complexity" (2025; row S055). An infinitely wide two-layer ReLU network is trained on the pairs (e_i, π(e_i)). On the unit
vectors the tangent kernel is (d − c) I + c 11ᵀ, so for every nonzero x ∈ {0, 1}^k the mean prediction is in closed
form: positive at the bits of π(x) and at most 0 elsewhere, and the average of enough networks, rounded, is exact.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from pydantic import Field
from scipy.stats import norm
from torch import Tensor

from analysis.analysis import Options, analysis
from analysis.ntk.duals import relu
from analysis.ntk.recursions import perceptron_kernels
from analysis.ntk.regression import gaussian_limit
from analysis.theme import CATEGORICAL, figure

ROW = "S055"  # of the paper catalogue
SUCCESS = 0.95


def binary_inputs(bits: int) -> Tensor:
    """The 2^k − 1 nonzero binary vectors."""
    return torch.tensor(list(product((0.0, 1.0), repeat=bits))[1:], dtype=torch.float64)


def predictions(bits: int, permutation: Tensor) -> tuple[Tensor, Tensor]:
    """Means `[2^k − 1, k]` and variances `[2^k − 1]` of trained networks on all nonzero inputs.

    Args:
        bits: k.
        permutation: bit i of the output is bit `permutation[i]` of the input.
    """
    units = torch.eye(bits, dtype=torch.float64)
    found = perceptron_kernels(torch.cat([units, binary_inputs(bits)]), relu, 1)
    return gaussian_limit(found.ntk, found.nngp, bits, units[:, permutation])


def ensemble_size(mean: Tensor, variance: Tensor, truth: Tensor) -> tuple[float, float]:
    """Networks whose average, cut halfway between the least 1 and the largest 0, is right with 95%.

    Args:
        mean: `[inputs, k]`.
        variance: `[inputs]`.
        truth: `[inputs, k]` of 0 and 1.

    Returns:
        For the worst single input, and for all inputs at once (a union bound).
    """
    cut = (mean[truth > 0].min() + mean[truth == 0].max()) / 2
    gaps = ((mean - cut).abs() / variance.sqrt()[:, None]).numpy()  # in standard deviations of one network
    sizes = []
    for chosen in (gaps[np.argmin(gaps.min(1))][None], gaps):
        low, high = 0.0, 30.0  # of log m
        for _ in range(60):
            middle = (low + high) / 2
            failure = norm.sf(chosen * np.exp(middle / 2)).sum()
            low, high = (middle, high) if failure > 1 - SUCCESS else (low, middle)
        sizes.append(float(np.exp(high)))
    return sizes[0], sizes[1]


@dataclass(frozen=True)
class ExactPermutations:
    """What is learnt, by number of bits.

    Args:
        rows: columns `bits`, `exact` (share of inputs decoded right from the mean), `least one`, `largest zero` (over
            inputs with more than one bit), `ensemble, one input` and `ensemble, all inputs`.
    """

    rows: pd.DataFrame

    @property
    def exponents(self) -> tuple[float, float]:
        """Growth of the two ensemble sizes as powers of k."""
        k = np.log(self.rows["bits"])
        one, every = (float(np.polyfit(k, np.log(self.rows[c]), 1)[0]) for c in self.rows.columns[-2:])
        return one, every

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        one, every = self.exponents if len(self.rows) > 1 else (float("nan"),) * 2
        return f"{self.rows['exact'].min():.0%} of all inputs are decoded exactly; the ensemble grows like k^{one:.2f} for one input and k^{every:.2f} for all."

    def to_frame(self) -> pd.DataFrame:
        """One row a number of bits."""
        return self.rows

    def plot(self) -> go.Figure:
        """Margins by number of bits."""
        chart = figure()
        for column, colour in (("least one", CATEGORICAL[0]), ("largest zero", CATEGORICAL[1])):
            chart.add_scatter(x=self.rows["bits"], y=self.rows[column], name=column, mode="lines+markers", line_color=colour)  # fmt: skip
        return chart.update_layout(xaxis_title="bits", yaxis_title="mean prediction")


class ExactPermutationsOptions(Options):
    """Smallest and largest number of bits, and the seed of the permutations."""

    least: int = Field(4, ge=2)
    most: int = Field(10, ge=2, le=12)
    seed: int = 0


@analysis("exact_permutations", of="nothing", options=ExactPermutationsOptions, tiny={"most": 6})
def exact_permutations(options: ExactPermutationsOptions) -> ExactPermutations:
    """Permutations of bits learnt from unit vectors by infinitely wide networks: margins and ensemble sizes."""
    rows = []
    for bits in range(options.least, options.most + 1):
        permutation = torch.randperm(bits, generator=torch.Generator().manual_seed(options.seed + bits))
        mean, variance = predictions(bits, permutation)
        x = binary_inputs(bits)
        truth = x[:, permutation]
        several = x.sum(1) > 1
        one, every = ensemble_size(mean, variance, truth)
        rows.append({
            "bits": bits, "exact": float(((mean > 1e-9) == (truth > 0)).all(1).double().mean()),
            "least one": float(mean[truth > 0].min()),
            "largest zero": float(mean[several][truth[several] == 0].max()),
            "ensemble, one input": one, "ensemble, all inputs": every,
        })  # fmt: skip
    return ExactPermutations(pd.DataFrame(rows))
