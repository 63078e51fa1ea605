"""The contract of an analysis on every registered one, the registry's refusals, and `metazoo analyze`."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from typer.testing import CliRunner

from analysis.analysis import Analysis, Options, analyses, analysis, find
from analysis.papers import implemented_papers
from graphs.subjects import subject
from modelzoo.cli import assemble
from modelzoo.errors import UserError
from modelzoo.key_values import read_key_values
from modelzoo.papers import catalogue
from modelzoo.store import Population, Zoo
from modelzoo.training import PopulationConfig, populate


@pytest.fixture(scope="session")
def example_populations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Population]:
    """Four tiny models of every family that an analysis names as its example."""
    path = tmp_path_factory.mktemp("analyses") / "zoo"
    names = {each.example for each in analyses().values() if each.of == "population"}
    for name in sorted(names):
        populate(path, PopulationConfig.read(family=name, models=4, tiny=True, steps=30), name, progress=False)
    return {name: Zoo.open(path)[name] for name in sorted(names)}


@pytest.mark.parametrize("name", list(analyses()))
def test_an_analysis_keeps_the_contract(name: str, example_populations: dict[str, Population]) -> None:
    found = find(name)
    assert found.summary.endswith("."), "the summary is a sentence"
    assert found.options().model_dump() is not None, "every option has a default"
    of = {
        "nothing": lambda: None,
        "module": lambda: subject(found.example, tiny=True),
        "population": lambda: example_populations[found.example],
    }
    result = found.run(of[found.of](), found.tiny)
    frame, drawing = result.to_frame(), result.plot()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame)
    assert isinstance(drawing, go.Figure)
    assert drawing.data, "the figure shows something"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, dataclasses.fields(result)[0].name, None)  # type: ignore[arg-type]
    again = found.run(of[found.of](), found.tiny).to_frame()
    pd.testing.assert_frame_equal(frame, again, obj=f"{name} is deterministic")


def test_rows_named_are_in_the_catalogue() -> None:
    assert set(implemented_papers()) <= {row["id"] for row in catalogue()}


@dataclass
class Thawed:
    """Not frozen."""

    value: float = 1.0

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"value": [self.value]})

    def plot(self) -> go.Figure:
        return go.Figure()


def test_the_contract_is_enforced() -> None:
    """Controls: a result that can be changed, a taken name, a wrong file, no docstring, a wrong option."""

    def thawed(options: Options) -> Thawed:
        """A result that can be changed."""
        return Thawed()

    with pytest.raises(TypeError, match="frozen"):
        Analysis("thawed", "nothing", thawed, Options, {}).run()
    with pytest.raises(ValueError, match="registered twice"):
        analysis("orbit", of="nothing")(thawed)
    with pytest.raises(ValueError, match="file of its own name"):
        analysis("thawed", of="nothing")(thawed)
    thawed.__doc__ = None
    with pytest.raises(ValueError, match="no docstring"):
        analysis("test_analysis", of="nothing")(thawed)
    with pytest.raises(UserError, match="did you mean 'networks'"):
        find("hidden_relu").configure({"network": 3})
    with pytest.raises(UserError, match=r"'networks' of analysis 'hidden_relu'.*got 'many'"):
        find("hidden_relu").configure({"networks": "many"})
    with pytest.raises(UserError, match="--set takes key=value"):
        read_key_values(["networks"])
    assert read_key_values(["a=3", "b=[1, 2]", "c=text", "d=true"]) == {"a": 3, "b": [1, 2], "c": "text", "d": True}


def run(*arguments: str) -> str:
    done = CliRunner().invoke(assemble(), ["analyze", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_lists_and_runs(tmp_path: Path) -> None:
    listed = json.loads(run("--json"))
    assert [row["analysis"] for row in listed] == list(analyses())
    plot, table = tmp_path / "orbit.html", tmp_path / "orbit.csv"
    printed = json.loads(run("orbit", "mlp", "--tiny", "--set", "times=3", "--json", "--plot", str(plot), "--csv", str(table)))  # fmt: skip
    assert len(printed["rows"]) == len(pd.read_csv(table)) == 3
    assert "plotly" in plot.read_text()
    assert "hidden_relu" in run()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("orbits",), "did you mean 'orbit'"),
        (("orbit",), "looks at a module"),
        (("hidden_relu", "mlp"), "takes no subject"),
        (("orbit", "mlp", "--set", "tims=3"), "did you mean 'times'"),
        (("orbit", "mlp", "--plot", "nowhere/x.html"), "folder 'nowhere' is not there"),
        (("orbit", "mlp", "--plot", "x.doc"), "ends in .html"),
        (("orbit", "dense_hebbian", "--tiny"), "is discrete"),
    ],
)
def test_the_command_refuses_with_a_sentence(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(assemble(), ["analyze", *arguments], catch_exceptions=False)
