"""Embeddings of a run in two dimensions, as a table and as a picture."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from metanets.runs import Run
from modelzoo.errors import UnknownNameError, UserError

METHODS = ("pca", "tsne")
FEWEST = 3


def project(embeddings: NDArray[np.floating], method: str = "pca") -> NDArray[np.floating]:
    """Two coordinates a model, `[model, 2]`: principal components, or t-SNE started from them.

    Args:
        embeddings: `[model, width]`.
        method: `pca` or `tsne`.
    """
    if method not in METHODS:
        raise UnknownNameError("projection", method, METHODS)
    if len(embeddings) < FEWEST:
        raise UserError(f"a projection needs at least {FEWEST} models, there are {len(embeddings)}.")
    values = embeddings.astype(np.float64)
    values = (values - values.mean(0)) / np.maximum(values.std(0), 1e-12)
    if method == "pca":
        return PCA(2, svd_solver="full").fit_transform(values)
    perplexity = min(30.0, (len(values) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(values)


def write(run: Run, out: Path | None = None, method: str = "pca", split: str | None = None) -> tuple[Path, Path]:
    """Write the picture and, beside it, a CSV of the run's table with the coordinates `x` and `y`.

    Args:
        run: a finished run.
        out: the PNG, None for `embedding.png` in the run's folder.
        method: `pca` or `tsne`.
        split: only the models of this split.

    Returns:
        Paths of the picture and of the table.
    """
    keep = np.ones(len(run.table), bool)
    if split is not None:
        known = run.table["split"].unique()
        if split not in known:
            raise UnknownNameError("split", split, known)
        keep = (run.table["split"] == split).to_numpy()
    places = project(run.embeddings[keep], method)
    table = run.table[keep].assign(x=places[:, 0], y=places[:, 1])
    picture = out or run.path / "embedding.png"
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(run, table, method, picture)
        table[["population", "id", "split", "target", "prediction", "x", "y"]].to_csv(picture.with_suffix(".csv"), index=False)  # fmt: skip
    except OSError as error:
        raise UserError(f"cannot write {str(picture)!r}: {error.strerror}; choose another --out.") from None
    return picture, picture.with_suffix(".csv")


def draw(run: Run, table: pd.DataFrame, method: str, file: Path) -> None:
    """A scatter of the models, coloured by the target."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    record = run.record
    if record.kind == "classification":
        colours = matplotlib.colormaps["tab10" if len(record.classes) <= 10 else "turbo"]
        for number, name in enumerate(record.classes):
            rows = table[table["target"] == name]
            colour = colours(number if len(record.classes) <= 10 else number / (len(record.classes) - 1))
            axes.scatter(rows["x"], rows["y"], s=14, color=colour, label=str(name), alpha=0.8, linewidths=0)
        if len(record.classes) <= 20:
            axes.legend(title=record.target, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    else:
        drawn = axes.scatter(table["x"], table["y"], s=16, c=table["target"], cmap="viridis", alpha=0.85, linewidths=0)
        figure.colorbar(drawn, label=record.target)
    axes.set_title(f"{', '.join(record.populations)}: {len(table):,} models as {record.metanet} sees them", fontsize=11)
    label = {"pca": "principal component", "tsne": "t-SNE"}[method]
    axes.set(xlabel=f"{label} 1", ylabel=f"{label} 2", xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)
