"""What the tangent kernels of a population's models predict by regression, at the start and after training.

If training were lazy, regression with the kernel at the start would predict as the trained network does; how much better
the kernel at the end, and the network itself, are, is what feature learning adds.
"""

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
import torch
from pydantic import Field

from analysis.analysis import Options, analysis
from analysis.ntk.kernel_evolution import data_of, trace_kernel
from analysis.ntk.regression import regress
from analysis.theme import CATEGORICAL, figure
from modelzoo.errors import UserError
from modelzoo.store import Population


@dataclass(frozen=True)
class KernelRegression:
    """Test scores of regressions and networks.

    Args:
        rows: one row a model and predictor (`kernel at step …`, `network`), with its `score`.
        metric: what the score is.
    """

    rows: pd.DataFrame
    metric: str

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        means = self.rows.groupby("predictor", sort=False)["score"].mean()
        return f"mean test {self.metric}: " + ", ".join(f"{name} {value:.3f}" for name, value in means.items()) + "."

    def to_frame(self) -> pd.DataFrame:
        """One row a model and predictor."""
        return self.rows

    def plot(self) -> go.Figure:
        """Scores by predictor."""
        chart = figure()
        for place, (name, part) in enumerate(self.rows.groupby("predictor", sort=False)):
            chart.add_box(y=part["score"], name=str(name), marker_color=CATEGORICAL[place], boxpoints="all")
        return chart.update_layout(yaxis_title=f"test {self.metric}", showlegend=False)


def regressions(population: Population, models: int, train: int, test: int, ridge: float = 1e-4) -> KernelRegression:
    """Kernel regression of the task's targets with the kernels of models, the trace form being shared by all outputs.

    Args:
        population: the population.
        models: how many, the first.
        train: training samples.
        test: test samples.
        ridge: relative to the mean eigenvalue.

    Raises:
        UserError: the targets are neither one class nor one vector a sample.
    """
    task = population.task
    if task.targets.kind not in ("classes", "vector"):
        raise UserError(f"task {task.name!r} asks for {task.targets}; kernel regression here is for one class or vector a sample.")  # fmt: skip
    (inputs, rows), (others, _) = data_of(population, train, "train"), data_of(population, test)
    raw = task.data()
    offset = task.data().train.targets[:train].double().flatten(1).mean(0) if task.targets.kind == "vector" else 0.0
    truth = raw.test.targets[:test]
    found = []
    for row in range(min(models, len(population))):
        number = int(population.table.index[row])
        for place in (0, -1):
            module = population.module(row, place)
            theta, cross = trace_kernel(module, inputs), trace_kernel(module, others, inputs)
            predicted = regress(theta, cross, rows, ridge=ridge) + offset
            step = population.info.checkpoint_steps[place]
            score = float(task.score(predicted.view(len(truth), *task.targets.shape) if task.targets.kind == "vector" else predicted, truth))  # fmt: skip
            found.append({"model": number, "predictor": f"kernel at step {step}", "score": score})
        with torch.no_grad():
            own = float(task.score(population.module(row)(*others), truth))
        found.append({"model": number, "predictor": "network", "score": own})
    return KernelRegression(pd.DataFrame(found), task.metric)


class KernelRegressionOptions(Options):
    """How many models, training and test samples; the ridge relative to the mean eigenvalue."""

    models: int = Field(4, ge=1)
    train: int = Field(256, ge=2)
    test: int = Field(256, ge=2)
    ridge: float = Field(1e-4, ge=0)


@analysis("kernel_regression", of="population", options=KernelRegressionOptions, tiny={"models": 2, "train": 40, "test": 40})  # fmt: skip
def kernel_regression(population: Population, options: KernelRegressionOptions) -> KernelRegression:
    """Regression with the tangent kernels of models at the start and after training, beside the networks themselves."""
    return regressions(population, options.models, options.train, options.test, options.ridge)
