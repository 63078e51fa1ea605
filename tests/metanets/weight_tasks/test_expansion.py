"""Expansion keeps the function, counts what it learns, and edits move as the neurons that were there before do."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metanets.editing import Editor, Gallery, build_editor
from metanets.expansion import Expansion, changed
from metanets.training import TrainingConfig
from metanets.weight_task import read_block, weight_task
from modelzoo.errors import UserError
from modelzoo.families.feedforward.mlp import MLP
from modelzoo.families.fields.siren import SirenConfig
from modelzoo.family import family
from modelzoo.store import Zoo
from modelzoo.training import PopulationConfig, populate

EXACT = 1e-9  # of the largest change, in double precision
OLD, NEW = 16, 5  # neurons of a layer
ROWS = torch.arange(4)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """24 SIRENs of digits, hardly trained."""
    path = tmp_path_factory.mktemp("expansion") / "zoo"
    config = PopulationConfig.read(family="siren", task="digits_inr", models=24, tiny=True, steps=20)
    populate(path, config, "digits", progress=False)
    return Gallery.of(read_block(Zoo.open(path), "digits"))


def editor(gallery: Gallery, metanet: str, rendered: float = 0.3) -> Editor:
    """A random editor with expansion in double precision; large changes, another size for every cell.

    Args:
        gallery: what is edited.
        metanet: that changes weights.
        rendered: size of what the rendered image adds, which moves as the neurons whatever the metanet.
    """
    fields = {"width": 8, "dropout": 0.0} if metanet == "graph_metanet" else {}
    torch.manual_seed(0)
    made = build_editor(gallery, TrainingConfig.read(metanet=metanet, fields=fields), NEW).double().eval()
    assert made.rendered is not None
    for weights, size in ((made.update.factor, 0.3), (made.rendered.outer.weight, rendered)):
        torch.nn.init.normal_(weights, std=size, generator=torch.Generator().manual_seed(0))
    return made


def permuted(tensors: dict[str, Tensor], first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """SIRENs with their hidden neurons in another order, by hand."""
    order = {"0.weight": (first, None), "0.bias": (first, None), "1.weight": (second, first), "1.bias": (second, None), "2.weight": (None, second), "2.bias": (None, None)}  # fmt: skip
    moved = dict(tensors)
    for name, (rows, columns) in order.items():
        tensor = tensors[f"layers.{name}"]
        tensor = tensor if rows is None else tensor[:, rows]
        moved[f"layers.{name}"] = tensor if columns is None else tensor[:, :, columns]
    return moved


def off(gallery: Gallery, metanet: str, rendered: float = 0.3) -> float:
    """The largest |edit(g x) − (g ⊕ 1) edit(x)| over the largest change that the edit makes."""
    block = gallery.block
    edit, models = editor(gallery, metanet, rendered), block.models(ROWS).to(torch.float64)
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randperm(OLD, generator=generator) for _ in range(2))
    assert models.function is not None
    before = permuted(dict(models.function.tensors), first, second)
    moved = changed(models, block.structure.values(before).T - models.values)
    stay = torch.arange(OLD, OLD + NEW)
    with torch.no_grad():
        plain, after = edit(models), edit(moved)
        assert plain.function is not None
        assert edit.expansion is not None
        wanted = permuted(dict(plain.function.tensors), torch.cat([first, stay]), torch.cat([second, stay]))
        change = plain.values - edit.expansion(models).values
        values = plain.topology.symmetry[1].values(wanted).T
        assert (values - plain.values).abs().max() > 1e-2, "the permutation does nothing"
        return float((after.values - values).abs().max() / change.abs().max())


@pytest.mark.parametrize("metanet", ["graph_metanet", "nfn", "scalegmn"])
def test_an_edit_moves_as_the_old_neurons(gallery: Gallery, metanet: str) -> None:
    assert off(gallery, metanet) <= EXACT


def test_the_control_does_not(gallery: Gallery) -> None:
    """The flat perceptron changes weights by their number, whatever neuron they belong to; what the image adds would dilute it."""
    assert off(gallery, "flat_mlp", rendered=0.0) > 1e-1


@torch.no_grad()
def test_the_function_is_kept_until_the_edit(gallery: Gallery) -> None:
    """The control: as soon as old neurons hear of new ones it is another."""
    expansion, models = Expansion(gallery.block, NEW, seed=0).double(), gallery.block.models(ROWS).to(torch.float64)
    wide = expansion(models)
    assert wide.function is not None
    weight = wide.function.tensors["layers.1.weight"]
    assert weight.shape == (4, OLD + NEW, OLD + NEW)
    assert weight[:, :OLD, OLD:].eq(0).all()
    assert weight[:, OLD:].ne(0).all()
    grid = dataclasses.replace(gallery, grid=gallery.grid.double())
    before = grid.render(models)
    torch.testing.assert_close(grid.render(wide), before, rtol=0, atol=1e-13)
    assert (expansion.spread(torch.ones(1, expansion.keys))[:, 0] == 0).sum() == gallery.block.structure.num_edges
    heard = changed(wide, 0.1 * (wide.values == 0))
    assert (grid.render(heard) - before).abs().max() > 1e-2


def test_new_weights_begin_as_the_family_begins_and_differ(gallery: Gallery) -> None:
    expansion = Expansion(gallery.block, NEW, seed=0)
    wide = expansion(gallery.block.models(ROWS)).function
    assert wide is not None
    larger = SirenConfig(hidden=(OLD + NEW, OLD + NEW))
    begun = family("siren").build(larger, seed=0).state_dict()["layers.0.weight"][OLD:]
    torch.testing.assert_close(wide.tensors["layers.0.weight"][:, OLD:], begun.expand(4, -1, -1))
    assert torch.pdist(begun).min() > 1e-3, "no two new neurons are alike"


def test_what_is_learned_is_what_new_neurons_receive(gallery: Gallery, metanet_zoo: Path) -> None:
    """Two inputs and a bias; a number for all old neurons, one for every new one, and a bias; gradients reach all of it through the edit, none without."""
    edit = build_editor(gallery, TrainingConfig.read(fields={"width": 8, "dropout": 0.0}), NEW)
    assert edit.expansion is not None
    assert edit.expansion.weights.numel() == NEW * (2 + 1) + NEW * (1 + NEW + 1)
    models = gallery.block.models(ROWS)
    (gradient,) = torch.autograd.grad(gallery.render(edit.expansion(models)).square().sum(), edit.expansion.weights)
    assert gradient.eq(0).all()
    (gradient,) = torch.autograd.grad(gallery.render(edit(models)).square().sum(), edit.expansion.weights)
    assert gradient.ne(0).all()
    perceptrons = Expansion(read_block(Zoo.open(metanet_zoo), "mlp"), 3, seed=0)
    assert perceptrons.weights.numel() == 3 * (64 + 1)


def test_what_cannot_be_expanded_is_refused(metanet_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = Zoo.open(metanet_zoo)
    with pytest.raises(UserError, match="'small_cnn' have no hidden sizes to expand; leave expansion at 0"):
        Expansion(read_block(zoo, "small_cnn"), NEW, seed=0)

    class Averaged(MLP):
        """A perceptron that divides by its width."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / len(self.layers[0].bias)

    monkeypatch.setattr("modelzoo.store.population.family", lambda name: dataclasses.replace(family(name), module=Averaged))  # fmt: skip
    with pytest.raises(UserError, match="'mlp' compute something else with more neurons"):
        Expansion(read_block(zoo, "mlp"), NEW, seed=0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dilate,expansion=-1", "'expansion' of weight task 'dilate': input should be greater than or equal to 0, got -1"),
        ("dilate,expanson=8", "did you mean 'expansion'?"),
        ("lineage,expansion=8", "weight task 'lineage' has no fields, got 'expansion'"),
        ("dilate,expansion", "takes key=value"),
    ],
)  # fmt: skip
def test_fields_that_do_not_fit_are_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        weight_task(text)


def test_a_task_is_named_by_what_is_not_default() -> None:
    assert weight_task("dilate,expansion=0").text == "dilate"
    assert weight_task("dilate,expansion=8").text == "dilate,expansion=8"
