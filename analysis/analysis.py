"""The contract of an analysis: from a module, a population or nothing to a result with numbers, a table and a plot.

An analysis is one file anywhere under `analysis/` whose last name is the analysis's own, and one function in it:

    class WidthsOptions(Options):
        count: int = 3

    @dataclass(frozen=True)
    class Widths:                                # the numbers, as plain fields
        values: NDArray[np.float64]

        def to_frame(self) -> pd.DataFrame: ...  # one row a finding
        def plot(self) -> go.Figure: ...         # in the look of analysis.theme

    @analysis("widths", of="module", options=WidthsOptions, tiny={"count": 1})
    def widths(subject: Subject, options: WidthsOptions) -> Widths:
        '''What it computes, in one line.'''

The registered function is a thin shell: it reads its subject and calls the function that a Python user calls with
tensors and modules. The registry walks the folder, `metazoo analyze` lists what is there, and the tests run every
registered analysis at its `tiny` options on `example`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

import pandas as pd
import plotly.graph_objects as go
from pydantic import BaseModel, ConfigDict

from modelzoo.configured import configured
from modelzoo.registry import Registry

if TYPE_CHECKING:
    from modelzoo.store import Population

SubjectKind = Literal["nothing", "module", "population"]


@runtime_checkable
class Result(Protocol):
    """What every analysis returns: a frozen dataclass that holds the numbers."""

    def to_frame(self) -> pd.DataFrame:
        """The numbers as a table."""

    def plot(self) -> go.Figure:
        """The picture of them."""


class Options(BaseModel):
    """Base of the options of an analysis: frozen, unknown keys refused; every field has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelOptions(Options):
    """Base of the options of an analysis of one model of a population, by id; without one it is the first."""

    model: int | None = None

    def row(self, population: "Population") -> int:
        """The row of the model in the population; raises `UserError` for an id that is not there."""
        return 0 if self.model is None else int(population.positions([self.model])[0])


@dataclass(frozen=True)
class Analysis:
    """A registered analysis.

    Args:
        name: unique, snake_case; the file has the same name.
        of: what it looks at: `nothing`, a `module` (`graphs.subjects.Subject`) or a `population`
            (`modelzoo.store.Population`).
        function: `(subject, options) -> Result`, `(options) -> Result` where it looks at nothing.
        options: its options class.
        tiny: options of a run that takes a second or two, for tests.
        example: for a module the family, for a population the family it holds, that tests take.
    """

    name: str
    of: SubjectKind
    function: Callable[..., Result]
    options: type[Options]
    tiny: Mapping[str, Any]
    example: str = "mlp"

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def configure(self, fields: Mapping[str, Any]) -> Options:
        """The options with these fields; raises `UserError` for an unknown key or a value that does not fit."""
        return configured(self.options, fields, "option", ("analysis", self.name))

    def run(self, subject: Any = None, fields: Mapping[str, Any] | None = None) -> Result:
        """The result for a subject (None for an analysis of nothing); raises `TypeError` if it breaks the contract."""
        options = self.configure(fields or {})
        found = self.function(options) if self.of == "nothing" else self.function(subject, options)
        frozen = is_dataclass(found) and found.__dataclass_params__.frozen
        if not (frozen and isinstance(found, Result)):
            raise TypeError(f"analysis {self.name!r} returned {type(found).__name__}, no frozen dataclass with to_frame and plot")  # fmt: skip
        return found


_REGISTRY = Registry[Analysis]("analysis", "analysis", "metazoo analyze")
Function = TypeVar("Function", bound=Callable[..., Any])


def analysis(
    name: str, of: SubjectKind, options: type[Options] = Options, tiny: Mapping[str, Any] | None = None,
    example: str = "mlp",
) -> Callable[[Function], Function]:  # fmt: skip
    """Register a function as an analysis; see `Analysis` for the arguments.

    Raises:
        ValueError: the name is taken, is not the file's, or the function has no docstring.
    """

    def register(function: Function) -> Function:
        if not function.__doc__:
            raise ValueError(f"analysis {name!r} has no docstring")
        _REGISTRY.add(name, Analysis(name, of, function, options, tiny or {}, example), function.__module__)
        return function

    return register


def analyses() -> dict[str, Analysis]:
    """Every registered analysis by name, sorted."""
    return _REGISTRY.all()


def find(name: str) -> Analysis:
    """The analysis of that name; raises `UserError` with the nearest name when there is none."""
    return _REGISTRY.find(name)
