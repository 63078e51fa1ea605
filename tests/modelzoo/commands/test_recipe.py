"""Recipes: a file of populations makes the zoo that its commands would make, and nothing where it is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modelzoo.commands.recipe import read_recipe
from modelzoo.errors import UserError
from modelzoo.family import resolve
from modelzoo.store import Zoo
from modelzoo.task import task
from modelzoo.training import PopulationConfig, populate
from tests.conftest import Command

Metazoo = Callable[..., Command]
RECIPES = sorted((Path(__file__).parents[3] / "docs" / "recipes").glob("*.toml"))
TWO = """
models = 2
steps = 3
tiny = true

[narrow]
family = "mlp"
family_config = { hidden = [4] }
learning_rate = "1e-3:1e-1"

[wide]
family = "mlp"
models = 3
"""


def test_a_recipe_makes_the_populations_that_commands_make(metazoo: Metazoo, tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text(TWO)
    rows = metazoo("recipe", tmp_path / "zoo", file, "--json").json
    assert [(row["population"], row["models"], row["diverged"]) for row in rows] == [("narrow", 2, 0), ("wide", 3, 0)]
    alone = PopulationConfig.read(family="mlp", family_config={"hidden": [4]}, models=2, steps=3, tiny=True, learning_rate="1e-3:1e-1")  # fmt: skip
    expected = populate(tmp_path / "by-hand", alone, "narrow", progress=False).stacked()
    found = Zoo.open(tmp_path / "zoo")["narrow"].stacked()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    assert "two.toml" in metazoo("recipe", tmp_path / "zoo", file).out  # what is there is kept


@pytest.mark.parametrize(
    ("text", "said"),
    [("models = 3", "names no population"), ("[a", "is no TOML"), (TWO + "colour = 1", "colour"), (TWO + "steps = 0", "steps")],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_before_anything_is_trained(
    metazoo: Metazoo, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    result = metazoo("recipe", tmp_path / "zoo", file)
    assert result.code != 0
    assert said in result.out + result.error
    assert not (tmp_path / "zoo").exists()


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read recipe"):
        read_recipe(tmp_path / "nothing.toml")


@pytest.mark.parametrize("file", RECIPES, ids=[file.stem for file in RECIPES])
def test_standing_recipes_name_families_tasks_and_fields_that_there_are(file: Path) -> None:
    for keys in read_recipe(file).values():
        config = PopulationConfig.read(**keys)
        family, variant = resolve(config.family)
        assert config.task is not None
        family.configure(task(config.task), {**variant, **config.family_config})


def test_there_are_standing_recipes() -> None:
    assert len(RECIPES) >= 5
