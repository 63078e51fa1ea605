"""The functional dimension of a module, with what it rests on: how it grew with the inputs, and the singular values.

"Functional dimension of feedforward ReLU neural networks" (Grigsby, Lindsey, Meyerhoff and Wu, 2022). The rank of the
Jacobian of (outputs on many inputs) with respect to all parameters, see `graphs.completeness`. A rank on finitely many
inputs can only be too small: the dimension is a lower bound, to be trusted where the rank stood still while inputs were
doubled, and where a wide gap parts the singular values that count from rounding errors.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from pydantic import Field

from analysis.analysis import Options, analysis
from analysis.theme import CATEGORICAL, MUTED, REFERENCE, styled
from graphs.completeness import MAX_PARAMETERS, FunctionalDimension
from graphs.completeness import functional_dimension as measure
from graphs.subjects import Subject


@dataclass(frozen=True)
class FunctionalDimensionReport:
    """A functional dimension and what it rests on.

    Args:
        name: of the module.
        found: the dimension.
    """

    name: str
    found: FunctionalDimension

    @property
    def sentence(self) -> str:
        """The bound in one sentence."""
        found = self.found
        return f"{self.name}: {found.parameters} parameters, functional dimension {found.rank} ({found.how}); up to {found.parameters - found.rank} directions do not change the function."

    def to_frame(self) -> pd.DataFrame:
        """One row a doubling of the inputs."""
        inputs, ranks = zip(*self.found.ranks, strict=True)
        return pd.DataFrame({"inputs": inputs, "rank": ranks, "missing": self.found.parameters - np.array(ranks)})

    def plot(self) -> go.Figure:
        """The rank against the inputs, and the singular values with the cut."""
        found, frame = self.found, self.to_frame()
        drawing = make_subplots(
            1, 2, subplot_titles=("rank against inputs", "singular values"), horizontal_spacing=0.12
        )
        drawing.add_scatter(
            x=frame["inputs"], y=frame["rank"], mode="lines+markers", marker_color=CATEGORICAL[0], row=1, col=1
        )
        drawing.add_hline(
            y=found.parameters, line={"color": REFERENCE, "dash": "dash"}, annotation_text="parameters",
            annotation_position="bottom right", row=1, col=1,
        )  # fmt: skip
        values = np.array(found.spectrum)
        places, floor = np.arange(1, len(values) + 1), np.finfo(float).tiny
        for name, colour, chosen in (("count", CATEGORICAL[0], places <= found.rank), ("rounding", MUTED, places > found.rank)):  # fmt: skip
            drawing.add_scatter(
                x=places[chosen], y=np.maximum(values[chosen], floor), mode="markers", name=name,
                marker={"color": colour, "size": 4}, row=1, col=2,
            )  # fmt: skip
        drawing.update_xaxes(title_text="inputs", type="log", tickvals=frame["inputs"], row=1, col=1)
        drawing.update_xaxes(title_text="number", row=1, col=2)
        drawing.update_yaxes(rangemode="tozero", row=1, col=1)
        drawing.update_yaxes(type="log", exponentformat="power", row=1, col=2)
        return styled(drawing, 340).update_layout(showlegend=False, margin_t=48)


class FunctionalDimensionOptions(Options):
    """`generic` perturbs the weights first; `max_inputs` stops doubling there; see `graphs.functional_dimension`."""

    generic: bool = True
    max_parameters: int = Field(MAX_PARAMETERS, ge=1)
    max_inputs: int | None = Field(None, ge=1)
    seed: int = 0


@analysis("functional_dimension", of="module", options=FunctionalDimensionOptions, tiny={"max_inputs": 8})
def functional_dimension(subject: Subject, options: FunctionalDimensionOptions) -> FunctionalDimensionReport:
    """How many directions in parameter space change the function: a rank, where it stood still, and the spectral gap."""
    return FunctionalDimensionReport(subject.name, measure(subject.module, subject.inputs, **options.model_dump()))
