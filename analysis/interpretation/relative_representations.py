"""Relative representations: a sample by its cosines with anchors, the same for models that agree up to rotation.

r_i = (cos(e_i, e_{a_1}), …, cos(e_i, e_{a_m})): "Relative representations enable zero-shot latent space communication"
(Moschella, Maiorca, Fumero, Norelli, Locatello and Rodolà, 2023; row S160). A classifier trained on one model's relative
representations is put on top of another model without any training (*stitching*). The classifier must be regularised: relative
representations of two models agree in their leading directions only, and a free linear map reads the others too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.linear_model import RidgeClassifier
from torch import Tensor

from analysis.activations import latents_of, tensors_of
from analysis.analysis import Options, analysis
from analysis.theme import SEQUENTIAL, figure
from modelzoo.errors import UserError
from modelzoo.store import Population

ROW = "S160"


def relative(embeddings: Tensor, anchors: Tensor) -> Tensor:
    """Cosines of embeddings with the embeddings of the anchors.

    Args:
        embeddings: `[N, d]`.
        anchors: `[m, d]`, by the same encoder.

    Returns:
        `[N, m]`; unchanged when both are rotated, reflected or scaled alike.
    """
    return torch.nn.functional.normalize(embeddings, dim=1) @ torch.nn.functional.normalize(anchors, dim=1).T


def retrieval(first: Tensor, second: Tensor) -> float:
    """Mean reciprocal rank of a sample's own row in `second` among all, by cosine with its row in `first`.

    Args:
        first, second: `[N, m]`.
    """
    closeness = relative(first, second)
    ranks = (closeness > closeness.diagonal()[:, None]).sum(1) + 1
    return float((1 / ranks.double()).mean())


@dataclass(frozen=True)
class Stitching:
    """Encoders of some models under classifiers trained on others.

    Args:
        models: ids.
        relative: `[encoder, classifier]` accuracies with relative representations.
        absolute: likewise with the embeddings themselves.
        retrieval: `[encoder, encoder]` mean reciprocal ranks between relative spaces.
        absolute_retrieval: likewise between the embeddings.
        chance: accuracy of the most frequent class.
    """

    models: tuple[int, ...]
    relative: NDArray[np.float64]
    absolute: NDArray[np.float64]
    retrieval: NDArray[np.float64]
    absolute_retrieval: NDArray[np.float64]
    chance: float

    def stitched(self, values: NDArray[np.float64]) -> float:
        """Mean off the diagonal."""
        return float(values[~np.eye(len(values), dtype=bool)].mean())

    @property
    def sentence(self) -> str:
        """Stitched accuracies beside those of the models' own classifiers."""
        own = float(np.diag(self.absolute).mean())
        return (
            f"accuracy end to end {own:.3f}; stitched by relative representations {self.stitched(self.relative):.3f}, by "
            f"embeddings {self.stitched(self.absolute):.3f} (chance {self.chance:.3f}); reciprocal rank "
            f"{self.stitched(self.retrieval):.3f} and {self.stitched(self.absolute_retrieval):.3f}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a pair of models."""
        return pd.DataFrame([
            {"encoder": a, "classifier": b, "relative": float(self.relative[i, j]), "absolute": float(self.absolute[i, j]),
             "relative retrieval": float(self.retrieval[i, j]), "absolute retrieval": float(self.absolute_retrieval[i, j])}
            for i, a in enumerate(self.models) for j, b in enumerate(self.models)
        ])  # fmt: skip

    def plot(self) -> go.Figure:
        """Accuracies of all pairs: relative representations left, embeddings right."""
        chart = figure()
        names = [str(model) for model in self.models]
        for values, prefix in ((self.relative, "relative "), (self.absolute, "absolute ")):
            chart.add_heatmap(z=values, x=[prefix + name for name in names], y=names, colorscale=SEQUENTIAL, zmin=0, zmax=1, showscale=prefix == "relative ")  # fmt: skip
        return chart.update_layout(
            xaxis_title="classifier", yaxis_title="encoder", yaxis_autorange="reversed", yaxis_type="category"
        )


def stitch(
    train: Sequence[Tensor], labels: Tensor, test: Sequence[Tensor], test_labels: Tensor, anchors: Tensor, models: Sequence[int],
    ridge: float = 10.0,
) -> Stitching:  # fmt: skip
    """Every model's embeddings under every model's classifier.

    Args:
        train: embeddings of the training samples by every model, `[N, d]`.
        labels: `[N]`.
        test: embeddings of the test samples, `[M, d]`.
        test_labels: `[M]`.
        anchors: `[m]` rows of the training samples.
        models: ids.
        ridge: penalty of the linear classifiers.

    Raises:
        UserError: the embeddings have different sizes, so that a classifier of one cannot read another.
    """
    if len({each.shape[1] for each in train}) > 1:
        raise UserError("embeddings of different sizes cannot be swapped without relative representations; take models of one population.")  # fmt: skip
    own = [relative(each, each[anchors]) for each in train], [relative(b, a[anchors]) for a, b in zip(train, test, strict=True)]  # fmt: skip

    def accuracies(train: Sequence[Tensor], test: Sequence[Tensor]) -> NDArray[np.float64]:
        heads = [RidgeClassifier(alpha=ridge).fit(x.numpy(), labels.numpy()) for x in train]
        return np.array([[head.score(x.numpy(), test_labels.numpy()) for head in heads] for x in test])

    def ranks(test: Sequence[Tensor]) -> NDArray[np.float64]:
        return np.array([[retrieval(a, b) for b in test] for a in test])

    chance = float(test_labels.bincount().max() / len(test_labels))
    return Stitching(tuple(models), accuracies(*own), accuracies(train, test), ranks(own[1]), ranks(test), chance)


class RelativeRepresentationsOptions(Options):
    """How many models, anchors and training samples, and the penalty of the linear classifiers."""

    models: int = Field(5, ge=2)
    anchors: int = Field(100, ge=2)
    samples: int = Field(1000, ge=10)
    ridge: float = Field(10.0, gt=0)
    seed: int = Field(0, ge=0)


@analysis(
    "relative_representations", of="population", options=RelativeRepresentationsOptions,
    tiny={"models": 2, "anchors": 20, "samples": 200},
)  # fmt: skip
def relative_representations(population: Population, options: RelativeRepresentationsOptions) -> Stitching:
    """Zero-shot stitching of a population's encoders and classifiers, with and without relative representations."""
    task = population.task
    if task.targets.kind != "classes" or task.sampling == "full":
        raise UserError(f"stitching needs a task of classified samples, {task.name!r} asks for {task.targets}; choose another population.")  # fmt: skip
    if len(population) < 2:
        raise UserError(f"stitching needs two or more models, {population.name!r} has {len(population)}.")
    data, rows = task.data(), list(range(min(options.models, len(population))))
    x, y = tuple(t[: options.samples] for t in data.train.inputs), data.train.targets[: options.samples]
    if options.anchors > len(y):
        raise UserError(f"{options.anchors} anchors are more than {len(y)} training samples; take fewer.", 2)
    anchors = torch.randperm(len(y), generator=torch.Generator().manual_seed(options.seed))[: options.anchors]
    models = [tensors_of(population.module(row)) for row in rows]
    train, test = (latents_of(population.template(), models, inputs) for inputs in (x, data.test.inputs))
    ids = [int(i) for i in population.table.index[rows]]
    return stitch(train, y, test, data.test.targets, anchors, ids, options.ridge)
