"""Model soups: the average of many models, with and without bringing them into one frame first.

"Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time"
(Wortsman et al., 2022): the uniform soup averages all, the greedy soup adds models from the best on, each only if the
soup does not get worse for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from torch import Tensor

from analysis.analysis import analysis
from analysis.symmetry.merging import Evaluation, average, evaluation_of
from analysis.symmetry.universe import UniverseOptions, match_population, several
from analysis.symmetry.weight_matching import state
from analysis.theme import CATEGORICAL, figure
from graphs.symmetry import symmetry
from modelzoo.store import Population


@dataclass(frozen=True)
class Soups:
    """Losses and scores of single models and of their averages.

    Args:
        names: what was evaluated.
        losses: `[name]`.
        scores: `[name]` the task's metric.
        members: how many models went in.
        metric: name of the metric.
    """

    names: tuple[str, ...]
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    members: tuple[int, ...]
    metric: str

    def to_frame(self) -> pd.DataFrame:
        """One row a soup."""
        return pd.DataFrame({"soup": self.names, "models": self.members, "loss": self.losses, self.metric: self.scores})

    def plot(self) -> go.Figure:
        """The metric of every soup."""
        chart = figure(height=90 + 30 * len(self.names))
        chart.add_bar(y=self.names, x=self.scores, orientation="h", marker_color=CATEGORICAL[0])
        return chart.update_layout(xaxis_title=self.metric, yaxis_autorange="reversed")


def greedy(evaluation: Evaluation, models: Sequence[Mapping[str, Tensor]]) -> list[int]:
    """Which models the greedy soup holds, chosen by the evaluation's loss."""
    losses = [evaluation(model)[0] for model in models]
    order = np.argsort(losses).tolist()
    chosen, best = [order[0]], losses[order[0]]
    for k in order[1:]:
        loss = evaluation(average([models[j] for j in (*chosen, k)]))[0]
        if loss <= best:
            chosen, best = [*chosen, k], loss
    return chosen


def soups(
    training: Evaluation, test: Evaluation, models: Sequence[Mapping[str, Tensor]],
    aligned: Sequence[Mapping[str, Tensor]],
) -> Soups:  # fmt: skip
    """The best single model, and uniform and greedy soups of the models as they are and aligned.

    Args:
        training: what chooses the members of greedy soups, and the best model.
        test: what is reported.
        models: parameters and buffers by name.
        aligned: the same models in one frame.
    """
    best = int(np.argmin([training(model)[0] for model in models]))
    found: list[tuple[str, Mapping[str, Tensor], int]] = [("best single model", models[best], 1)]
    for words, group in (("as trained", models), ("aligned", aligned)):
        found.append((f"uniform soup, {words}", average(group), len(group)))
        chosen = greedy(training, group)
        found.append((f"greedy soup, {words}", average([group[k] for k in chosen]), len(chosen)))
    values = [test(tensors) for _, tensors, _ in found]
    return Soups(
        tuple(name for name, _, _ in found), tuple(loss for loss, _ in values), tuple(score for _, score in values),
        tuple(count for _, _, count in found), test.task.metric,
    )  # fmt: skip


@analysis("model_soup", of="population", options=UniverseOptions, tiny={"most": 3}, example="small_cnn")
def model_soup(population: Population, options: UniverseOptions) -> Soups:
    """Averages of many models, with and without bringing them into one frame first."""
    rows, names = several(population, options.models, options.most)
    training, test = evaluation_of(population, "train"), evaluation_of(population)
    models = [state(population, row) for row in rows]
    group = symmetry(population.template(), population.example_inputs(), verify=False)
    return soups(training, test, models, match_population(group, models, names, seed=options.seed).tensors)
