"""The graph metanet: what it must not see, what it must see, and that it can be the network it reads."""

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

import graphs
from graphs import GraphStructure, Program, SymmetryGroup
from graphs.symmetry import permutation_group
from metanets.batching import ModelFunction, Models, Topology
from metanets.metanet import MetanetModule, metanet
from metanets.networks.graph_metanet import KERNELS, LATTICE, OUTPUTS, PRINCIPAL, PROBES, GraphMetanet
from metanets.probes import Lattice
from metanets.signals import HIDDEN
from metanets.training import TrainingConfig
from metanets.weight_task import build
from modelzoo.errors import UserError
from modelzoo.family import Family, families, family
from modelzoo.task import task
from tests.metanets.subjects import models

MODELS = 4
LARGEST = 20_000  # edges of a tiny member; larger graphs are not embedded here
NAMES = list(families())


def built(name: str, seed: int) -> nn.Module:
    found: Family = family(name)
    config = found.configure(task(found.task), found.tiny)
    module = found.build(config, seed).double().eval()
    for parameter in module.parameters():
        if parameter.is_complex():
            parameter.data = parameter.data.to(torch.complex128)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # zero biases and equal gains would hide what is mixed up
        for tensor in module.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype))
    return module


def double(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.double() if x.is_floating_point() else x for x in inputs)


@cache
def architecture(name: str) -> tuple[Program, SymmetryGroup, GraphStructure]:
    program = graphs.trace(built(name, 0), double(task(family(name).task).example_inputs()))
    group = permutation_group(program)
    return program, group, graphs.graph_structure(group)


def tensors(module: nn.Module, structure: GraphStructure) -> dict[str, Tensor]:
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: state[name].detach() for record in structure.records for name in record.names if name in state}


def topology(structure: GraphStructure) -> Topology:
    return Topology.of(SimpleNamespace(**structure.node, **structure.edge))


def stack(name: str) -> dict[str, Tensor]:
    """Tensors of a few random members, `{name: [model, *shape]}`."""
    structure = architecture(name)[2]
    each = [tensors(built(name, seed), structure) for seed in range(MODELS)]
    return {key: torch.stack([one[key] for one in each]) for key in each[0]}


def network(**fields: Any) -> MetanetModule:
    found = metanet("graph_metanet")
    return found.build(found.configure({**found.tiny, "outputs": 3, **fields}), seed=0).double().eval()


@torch.no_grad()
def embed(net: MetanetModule, name: str, stacked: dict[str, Tensor]) -> Tensor:
    structure = architecture(name)[2]
    return net(Models(topology(structure), structure.values(stacked).T)).embeddings


def spread(embeddings: Tensor) -> float:
    """Root mean square distance of models from their mean."""
    return float((embeddings - embeddings.mean(0)).square().sum(1).mean().sqrt())


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm(dim=1).max())


@pytest.mark.parametrize("name", NAMES)
def test_embedding_is_invariant_under_the_permutation_group(name: str) -> None:
    for limit in ("symmetry", "graph", "embedding"):
        if reason := family(name).limits.get(limit):
            pytest.skip(f"{name}: {reason}")
    _, group, structure = architecture(name)
    if structure.num_edges > LARGEST:
        pytest.skip(f"{name}: {structure.num_edges} edges")
    net, stacked = network(), stack(name)
    net.calibrate([Models(topology(structure), structure.values(stacked).T)])
    moved = group.sample(torch.Generator().manual_seed(1), models=MODELS).apply_stacked(stacked)
    before, after = embed(net, name, stacked), embed(net, name, {**stacked, **moved})
    assert spread(before) > 1e-4 * float(before.norm(dim=1).mean()), "embeddings collapse at initialisation"
    assert distance(before, after) <= 1e-10 * spread(before)


SWITCHES: dict[str, dict[str, Any]] = {
    "no signals": {"signals": 0},
    "no edge updates": {"edge_updates": False},
    "no statistics": {"statistics": False},
    "principal": {"principal": 2},
    "no spectra": {"spectra": False},
    "no messages": {"layers": 0},
    "probes": {"probes": 3, "probe_shape": (2,)},
    "lattice": {"lattice": 4, "probe_shape": (2,)},
}


@pytest.mark.parametrize("fields", SWITCHES.values(), ids=list(SWITCHES))
def test_every_optional_part_is_a_switch_and_keeps_invariance(fields: dict[str, Any]) -> None:
    _, group, structure = architecture("siren")
    stacked, net, full = stack("siren"), network(**fields), network()
    moved = {**stacked, **group.sample(torch.Generator().manual_seed(1), models=MODELS).apply_stacked(stacked)}
    with torch.no_grad():
        before, after = (
            net(
                Models(topology(structure), structure.values(t).T, ModelFunction(built("siren", 0), t, (2,)))
            ).embeddings
            for t in (stacked, moved)
        )
    assert distance(before, after) <= 1e-10 * spread(before)
    names = [{name for name, _ in each.named_parameters()} for each in (net, full)]
    assert names[0] != names[1], "the switch changes nothing"


def test_a_lattice_is_read_where_models_have_coordinates_and_left_out_by_hand() -> None:
    found, function = metanet("graph_metanet"), ModelFunction(built("siren", 0), stack("siren"), (2,))
    graph = topology(architecture("siren")[2])
    values = torch.zeros(graph.edges, MODELS)
    with_function, without = Models(graph, values, function), Models(graph, values)
    shapes = {"signals": 0, "spectra": False, "probe_start": "noise", "probe_shape": (2,), "probe_outputs": 1}
    assert found.adapt([with_function], {}) == {"lattice": LATTICE[2], **shapes}
    assert found.adapt([with_function], {"lattice": 0}) == {"probes": PROBES, "lattice": 0, **shapes}
    assert found.adapt([with_function], {"signals": 8}) == {"lattice": LATTICE[2], **shapes, "signals": 8}
    statistics = {"feature_machine": True}
    assert found.adapt([with_function], {"probes": 0}) == {**statistics, "probes": 0}
    assert found.adapt([with_function, without], {}) == statistics
    for fields in ({"probes": 5}, {"lattice": 4}):
        with pytest.raises(UserError, match="models must take one real tensor"):
            found.adapt([with_function, without], fields)


def test_kernels_have_sizes_of_their_own_and_signals_do_not_imitate_them() -> None:
    found, graph = metanet("graph_metanet"), topology(architecture("small_cnn")[2])
    cnns = Models(graph, torch.zeros(graph.edges, MODELS))
    sizes = {**KERNELS, "principal": PRINCIPAL, "feature_machine": True}
    assert found.adapt([cnns], {}) == {"signals": 0, **sizes}
    by_hand = {"signals": 8, "probes": 0, "layers": 1}
    assert found.adapt([cnns], by_hand) == {**sizes, **by_hand}


def test_messages_are_of_two_kinds_where_there_are_kernels_and_nothing_is_evaluated() -> None:
    found = metanet("graph_metanet")
    cnns, perceptrons = (models(name) for name in ("small_cnn", "mlp"))
    for training in ([cnns], [cnns, perceptrons]):
        assert found.adapt(training, {"probes": 0})["principal"] == PRINCIPAL
        assert found.adapt(training, {"probes": 0, "principal": 0})["principal"] == 0
        assert "principal" not in found.adapt(training, {"probes": 4})
    assert "principal" not in found.adapt([perceptrons, models("siren")], {"probes": 0})


def test_a_kernel_regression_reads_statistics_where_nothing_is_evaluated() -> None:
    found = metanet("graph_metanet")
    for training in ([models("small_cnn")], [models("mlp"), models("siren")]):
        assert found.adapt(training, {"probes": 0})["feature_machine"] is True
        assert found.adapt(training, {"probes": 0, "feature_machine": False})["feature_machine"] is False
        assert "feature_machine" not in found.adapt(training[:1], {"probes": 4})


def test_weight_tasks_leave_out_what_enters_no_outputs_of_edges() -> None:
    cnns = models("small_cnn")
    left_out, by_hand = (build(TrainingConfig.read(fields=fields), cnns) for fields in ({}, {"principal": 1}))
    assert isinstance(left_out, GraphMetanet)
    assert isinstance(by_hand, GraphMetanet)
    assert left_out.principal is None
    assert by_hand.principal is not None


def test_a_lattice_is_refused_where_inputs_are_no_coordinates() -> None:
    graph = topology(architecture("mlp")[2])
    function = ModelFunction(built("mlp", 0), stack("mlp"), tuple(task(family("mlp").task).inputs.shape))
    of = Models(graph, torch.zeros(graph.edges, MODELS), function)
    assert metanet("graph_metanet").adapt([of], {})["probes"] == PROBES
    with pytest.raises(UserError, match="one to three coordinates"):
        metanet("graph_metanet").adapt([of], {"lattice": 4})


@pytest.mark.parametrize("coordinates", [1, 2, 3])
def test_a_lattice_holds_what_models_answer_at_its_points(coordinates: int) -> None:
    lattice = Lattice(8, coordinates, 1).double()
    model = nn.Linear(coordinates, 1, bias=False).double()
    weights = torch.randn(3, 1, coordinates, dtype=torch.float64)
    graph = topology(architecture("siren")[2])
    of = Models(graph, torch.zeros(graph.edges, 3), ModelFunction(model, {"weight": weights}, (coordinates,)))
    read: list[torch.Tensor] = []
    lattice.convolutions.register_forward_hook(lambda module, inputs, outputs: read.append(inputs[0]))
    assert lattice(of).shape == (3, lattice.size)
    corner = read[0][(slice(None), 0, *(coordinates * (-1,)))]  # t = (1, …, 1)
    torch.testing.assert_close(corner, weights.sum(2)[:, 0])


def test_a_permutation_outside_the_group_changes_the_embedding() -> None:
    name = "mlp"
    net, stacked = network(), stack(name)
    before = embed(net, name, stacked)
    order = torch.randperm(stacked["layers.0.weight"].shape[1], generator=torch.Generator().manual_seed(0))
    hidden = {**stacked, "layers.0.weight": stacked["layers.0.weight"][:, order]}  # but not the next layer's columns
    assert distance(before, embed(net, name, hidden)) > 1e-3 * spread(before)


def test_exchanging_outputs_or_inputs_changes_the_embedding() -> None:
    name = "mlp"
    net, stacked = network(), stack(name)
    before = embed(net, name, stacked)
    last = max(key for key in stacked if key.endswith("weight"))
    for key, dim in (("layers.0.weight", 2), (last, 1)):
        flipped = {**stacked, key: stacked[key].flip(dim)}
        if dim == 1:
            bias = last.replace("weight", "bias")
            flipped[bias] = stacked[bias].flip(1)
        assert distance(before, embed(net, name, flipped)) > 1e-3 * spread(before)


class Attention(nn.Module):
    """One attention block between two linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, 8), nn.Linear(8, 2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x)
        return self.out(self.attention(h, h, h, need_weights=False)[0])


def test_exchanging_dimensions_across_heads_changes_function_and_embedding() -> None:
    modules = []
    for seed in range(MODELS):
        torch.manual_seed(seed)
        modules.append(Attention().double().eval())
        nn.init.normal_(modules[-1].attention.in_proj_bias)
    x = torch.randn(1, 5, 3, dtype=torch.float64)
    structure = graphs.graph_structure(permutation_group(graphs.trace(modules[0], (x,))))
    net = network()

    def exchanged(module: nn.Module, order: list[int]) -> nn.Module:
        """The same module with the value and output dimensions of attention in another order."""
        copy = Attention().double().eval()
        copy.load_state_dict(module.state_dict())
        with torch.no_grad():
            for tensor in (copy.attention.in_proj_weight, copy.attention.in_proj_bias):
                tensor[16:] = tensor[16:][order].clone()
            copy.attention.out_proj.weight[:] = copy.attention.out_proj.weight[:, order].clone()
        return copy

    def embedded(some: Sequence[nn.Module]) -> Tensor:
        values = torch.stack([structure.values(tensors(module, structure)) for module in some], 1)
        with torch.no_grad():
            return net(Models(topology(structure), values)).embeddings

    before = embedded(modules)
    within, across = [1, 0, 2, 3, 4, 5, 7, 6], [4, 1, 2, 3, 0, 5, 6, 7]
    inside, outside = ([exchanged(module, order) for module in modules] for order in (within, across))
    with torch.no_grad():
        assert all(torch.allclose(a(x), b(x), rtol=1e-10) for a, b in zip(modules, inside, strict=True))
        assert all(float((a(x) - b(x)).abs().max()) > 1e-3 for a, b in zip(modules, outside, strict=True))
    assert distance(before, embedded(inside)) <= 1e-10 * spread(before)
    assert distance(before, embedded(outside)) > 1e-4 * spread(before)


def test_a_heterogeneous_batch_equals_its_parts_and_the_fast_way() -> None:
    net = network()
    names = [name for name in ("mlp", "small_cnn", "lstm", "transformer", "siren") if name in NAMES]
    assert len(names) >= 3
    graphs_, expected = [], []
    for seed in range(2):
        for name in names:
            structure = architecture(name)[2]
            graphs_.append(structure.data(tensors(built(name, seed), structure)))
    for name in names:
        stacked = stack(name)
        expected.append(embed(net, name, {key: value[:2] for key, value in stacked.items()}))
    with torch.no_grad():
        together = net(Batch.from_data_list(graphs_)).embeddings
        alone = torch.cat([net(Batch.from_data_list([data])).embeddings for data in graphs_])
    fast = torch.stack(expected, 1).flatten(0, 1)  # [seed, name] as in the batch
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(together, fast, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["siren", "small_cnn", "lstm"])
def test_every_weight_has_an_influence(name: str) -> None:
    structure = architecture(name)[2]
    values = structure.values(stack(name)).T.requires_grad_()
    net = network()
    net(Models(topology(structure), values)).embeddings.square().sum().backward()
    assert values.grad is not None
    kept = torch.tensor([kind != "structure" for kind in graphs.EDGE_KINDS])[structure.edge["edge_kind"]]
    assert (values.grad[kept].abs() > 0).all()


def test_embeddings_do_not_collapse_in_single_precision() -> None:
    name, net = "siren", network().float()
    structure = architecture(name)[2]
    values = structure.values(stack(name)).T.float()
    with torch.no_grad():
        first = net(Models(topology(structure), values)).embeddings
        again = net(Models(topology(structure), values.double())).embeddings
    assert spread(first) > 1e-3 * float(first.norm(dim=1).mean())
    assert distance(first, again) < 1e-4 * spread(first)


@pytest.mark.parametrize("name", ["siren", "mlp"])
def test_signals_are_the_forward_pass_of_the_network(name: str) -> None:
    """With the network's own activation, signals at outputs are its outputs at the inputs that the metanet holds."""
    net = network(signals=64, layers=0)
    assert isinstance(net, GraphMetanet)
    signals, structure = net.signals, architecture(name)[2]
    module: Any = built(name, 1)
    if name == "siren":
        with torch.no_grad():
            signals.log_frequency.fill_(torch.tensor(float(module.omega), dtype=torch.float64).log())
        channels = slice(0, signals.SINES * signals.width)
    else:  # the default activation is ReLU
        channels = slice(signals.SINES * signals.width, (signals.SINES + signals.RELUS) * signals.width)
    values = structure.values(tensors(module, structure))[:, None]
    graph = topology(structure)
    with torch.no_grad():
        u = signals(graph, values)[0, :, channels]
        inputs = torch.stack([signals.inputs[p, channels] for p in range(int(graph.node_position[graph.node_kind == 0].max()) + 1)], 1)  # fmt: skip
        outputs = module(inputs)
    at = OUTPUTS[graph.node_kind]
    expected = outputs.T[graph.node_position[at]]
    torch.testing.assert_close(u[at], expected, rtol=1e-9, atol=1e-10)
    assert (graph.node_kind == HIDDEN).any()
