"""A run's embeddings of models as points in the plane."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from analysis.crossfilter import cloud
from modelzoo.errors import UserError

Method = Literal["PCA", "t-SNE"]
METHODS: tuple[Method, ...] = get_args(Method)
MOST_POINTS = 5_000  # t-SNE takes seconds to this size, and the browser stays quick


@dataclass(frozen=True)
class EmbeddingMap:
    """Embeddings of models in two dimensions.

    Args:
        frame: coordinates in the columns named `axes`, then every column of the model's record; indexed by model.
        axes: names of the two axes.
        method: how they were found.
        of: models before sampling.
    """

    frame: pd.DataFrame
    axes: tuple[str, str]
    method: str
    of: int

    def to_frame(self) -> pd.DataFrame:
        """The points that are drawn, with their records."""
        return self.frame

    def plot(self, colour: str | None = None, selected: pd.Index | None = None, height: int = 520) -> go.Figure:
        """Points coloured by a column; those outside `selected` are grey."""
        part = self.frame if selected is None else self.frame[self.frame.index.isin(selected)]
        drawing = cloud(self.frame, part, *self.axes, colour).plot(height)
        drawing.update_xaxes(showticklabels=False, ticks="", type="linear", dtick=None)
        drawing.update_yaxes(showticklabels=False, ticks="", type="linear", dtick=None)
        return drawing


def embedding_map(
    embeddings: NDArray[np.floating], records: pd.DataFrame, method: Method = "PCA", most: int = MOST_POINTS, seed: int = 0
) -> EmbeddingMap:  # fmt: skip
    """Project embeddings on two dimensions.

    Args:
        embeddings: `[model, width]`.
        records: one row a model, in the same order.
        method: `PCA`, the two directions of largest variance (axes say how much of it), or `t-SNE`, which keeps
            neighbours together (van der Maaten and Hinton, Visualizing Data using t-SNE, 2008).
        most: points at most; a random sample with a fixed seed beyond that.
        seed: of the sample and of t-SNE.

    Raises:
        UserError: fewer than three models, or embeddings that are not finite.
    """
    if len(embeddings) < 3:
        raise UserError(f"a map needs at least three embeddings, this run has {len(embeddings)}; train on more models.")
    if not np.isfinite(embeddings).all():
        raise UserError("the embeddings of this run are not finite, so they have no map; train again with a smaller learning rate.")  # fmt: skip
    rows = np.arange(len(embeddings))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    wide = embeddings[rows].astype(np.float64)
    if wide.shape[1] == 1:
        wide = np.concatenate([wide, np.zeros_like(wide)], 1)
    axes: tuple[str, str] = ("t-SNE 1", "t-SNE 2")
    if method == "PCA":
        found = PCA(2, random_state=seed).fit(wide)
        points = found.transform(wide)
        shares = np.nan_to_num(found.explained_variance_ratio_)
        axes = (f"first component, {shares[0]:.0%} of variance", f"second component, {shares[1]:.0%} of variance")
    else:
        reduced = PCA(min(30, *wide.shape), random_state=seed).fit_transform(wide)
        perplexity = min(30.0, (len(rows) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    frame = records.iloc[rows].copy()
    frame.insert(0, axes[0], points[:, 0])
    frame.insert(1, axes[1], points[:, 1])
    return EmbeddingMap(frame, axes, method, len(embeddings))
