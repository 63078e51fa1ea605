"""Values, batches, dtypes, size guard, networkx and the layer graph."""

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch_geometric.data import Batch

import graphs
from graphs import EDGE_KINDS, EDGE_OPS, NODE_KINDS, GraphStructure
from graphs.rules import rules
from graphs.symmetry import permutation_group
from modelzoo.errors import UserError
from tests.graphs import architectures as a
from tests.graphs.parameter_graph.checks import check_element, check_isomorphism, fingerprint, permutation, state_of

torch.manual_seed(0)
INPUTS = torch.randn(2, 3)
MODULE = a.mlp(3, 4, 4, 2)
GROUP = graphs.symmetry(MODULE, (INPUTS,))
STRUCTURE = graphs.graph_structure(GROUP)


def two_four_one() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(1)
    return a.mlp(2, 4, 1), (torch.randn(2, 2),)


@settings(max_examples=20, deadline=None)
@given(models=st.integers(0, 3), seed=st.integers(0, 2**31), double=st.booleans())
def test_values_and_scatter_are_inverse(models: int, seed: int, double: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    lead = (models,) if models else ()
    stacked = {
        name: torch.randn(*lead, *tensor.shape, generator=generator, dtype=dtype) for name, tensor in state_of(MODULE).items()
    }  # fmt: skip
    values = STRUCTURE.values(stacked)
    assert values.shape == (*lead, STRUCTURE.num_edges)
    back = STRUCTURE.scatter(values)
    assert all(torch.equal(back[name], tensor) and back[name].dtype == dtype for name, tensor in stacked.items())
    edited = torch.randn(values.shape, generator=generator, dtype=dtype)
    assert torch.equal(STRUCTURE.values(STRUCTURE.scatter(edited)), edited)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_node_maps_compose_as_the_elements_do(seed: int) -> None:
    first, second = permutation(GROUP, seed), permutation(GROUP, seed + 1)
    check_element(STRUCTURE, first, state_of(MODULE))
    together = STRUCTURE.node_map(second @ first)
    assert torch.equal(together, STRUCTURE.node_map(second)[STRUCTURE.node_map(first)])
    assert torch.equal(
        STRUCTURE.node_map(first.inverse())[STRUCTURE.node_map(first)], torch.arange(STRUCTURE.num_nodes)
    )


def test_permutations_outside_the_group_give_another_graph() -> None:
    state = state_of(MODULE)
    before = fingerprint(STRUCTURE.data(state))
    assert fingerprint(STRUCTURE.data(permutation(GROUP, 3).apply(state))) == before
    rows_alone = {**state, "0.weight": state["0.weight"].roll(1, 0)}
    assert fingerprint(STRUCTURE.data(rows_alone)) != before
    inputs = {**state, "0.weight": state["0.weight"].roll(1, 1)}
    assert fingerprint(STRUCTURE.data(inputs)) != before
    outputs = {**state, "4.weight": state["4.weight"].roll(1, 0), "4.bias": state["4.bias"].roll(1, 0)}
    assert fingerprint(STRUCTURE.data(outputs)) != before


def test_parallel_tensors_are_told_apart() -> None:
    """Exchanging two rows between the factors of a product changes the function, and so the graph."""
    torch.manual_seed(0)
    module = a.Bilinear()
    structure, state = graphs.graph_structure(graphs.trace(module, (INPUTS,))), state_of(module)
    mixed = {name: tensor.clone() for name, tensor in state.items()}
    mixed["a.weight"][0, 0], mixed["b.weight"][0, 0] = state["b.weight"][0, 0], state["a.weight"][0, 0]
    assert fingerprint(structure.data(mixed)) != fingerprint(structure.data(state))


def test_queries_and_keys_are_told_apart() -> None:
    torch.manual_seed(0)
    module = a.Decoder(heads=2, keys=2)
    structure = graphs.graph_structure(graphs.trace(module, (torch.randint(0, 11, (2, 3)),)))
    state = state_of(module)
    swapped = {**state, "query.weight": state["key.weight"], "key.weight": state["query.weight"]}
    assert fingerprint(structure.data(swapped)) != fingerprint(structure.data(state))


def test_a_broken_rule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a product forgets where its input comes from, the group permutes rows alone: its elements change the graph."""
    whole = rules()["aten.addmm"]

    def untied(walk, op):
        walk.values[op.arguments[1].value] = walk.algebra.all_positions(walk.shape(op.arguments[1]), "broken")
        return whole(walk, op)

    program = graphs.trace(MODULE, (INPUTS,))
    monkeypatch.setitem(rules(), "aten.addmm", untied)
    broken = permutation_group(program)
    state, element = state_of(MODULE), permutation(broken, 5)
    monkeypatch.undo()
    assert broken.factors
    before, after = STRUCTURE.data(state), STRUCTURE.data(element.apply(state))
    assert fingerprint(before) != fingerprint(after)
    with pytest.raises(AssertionError):
        check_isomorphism(before, after, STRUCTURE.node_map(element), STRUCTURE.edge_map(element))


def test_the_checks_notice_what_they_check() -> None:
    state, element = state_of(MODULE), permutation(GROUP, 1)
    before, after = STRUCTURE.data(state), STRUCTURE.data(element.apply(state))
    nodes, edges = STRUCTURE.node_map(element), STRUCTURE.edge_map(element)
    check_isomorphism(before, after, nodes, edges)
    with pytest.raises(AssertionError, match="ends"):
        check_isomorphism(before, after, torch.arange(before.num_nodes), edges)
    with pytest.raises(AssertionError):
        check_isomorphism(before, after, nodes, torch.arange(before.num_edges))
    changed = after.clone()
    changed.edge_value = after.edge_value.clone()
    changed.edge_value[0] += 1
    with pytest.raises(AssertionError, match="edge_value"):
        check_isomorphism(before, changed, nodes, edges)
    with pytest.raises(AssertionError, match="bijection"):
        check_isomorphism(before, after, torch.zeros_like(nodes), edges)


def test_node_maps_refuse_other_factors() -> None:
    scale = next(factor for factor in GROUP.factors if factor.dimension)
    with pytest.raises(UserError, match="moves no node"):
        STRUCTURE.node_map(GROUP.element({scale.name: scale.sample(torch.Generator())}))


def test_features_of_interchangeable_neurons_are_equal() -> None:
    data = STRUCTURE.data(state_of(MODULE))
    hidden = data.node_kind == NODE_KINDS.index("hidden")
    assert int(hidden.sum()) == 8
    assert (data.node_position[hidden] == -1).all()
    for depth in data.node_depth[hidden].unique():
        assert int((data.node_depth[hidden] == depth).sum()) == 4
    assert sorted(data.node_position[data.node_kind == NODE_KINDS.index("input")].tolist()) == [0, 1, 2]
    assert sorted(data.node_position[data.node_kind == NODE_KINDS.index("output")].tolist()) == [0, 1]


def test_edges_run_from_input_side_to_output_side() -> None:
    data = STRUCTURE.data(state_of(MODULE))
    source, target = data.node_depth[data.edge_index]
    linear = data.edge_kind == EDGE_KINDS.index("linear")
    assert (source[linear] < target[linear]).all()
    assert (data.edge_op == EDGE_OPS.index("matmul")).all()


def test_different_architectures_batch_together() -> None:
    torch.manual_seed(0)
    modules = [(MODULE, (INPUTS,)), (a.cnn(), (torch.randn(2, 1, 8, 8),)), (nn.LSTM(3, 4), (torch.randn(3, 2, 3),))]
    data = [graphs.parameter_graph(module, inputs) for module, inputs in modules]
    batch = Batch.from_data_list(data)
    assert batch.num_nodes == sum(graph.num_nodes for graph in data)
    assert batch.edge_position.shape == (batch.num_edges, 3)
    assert [len(names) for names in batch.tensor_names] == [len(graph.tensor_names) for graph in data]
    assert int(batch.edge_index.max()) < batch.num_nodes
    crossing = batch.batch[batch.edge_index]
    assert torch.equal(crossing[0], crossing[1])
    batch.edge_value = batch.edge_value * 2
    for (module, _), tensors in zip(modules, graphs.scatter_parameters(batch), strict=True):
        state = state_of(module)
        assert all(torch.equal(tensor, 2 * state[name]) for name, tensor in tensors.items())


def test_double_precision_and_tied_names_survive() -> None:
    module = a.Decoder().double()
    module.readout = nn.Linear(8, 11, bias=False)
    module.readout.weight = module.embedding.weight
    data = graphs.parameter_graph(module, (torch.randint(0, 11, (2, 3)),))
    assert data.edge_value.dtype == torch.float64
    back = graphs.scatter_parameters(data)
    assert torch.equal(back["readout.weight"], module.embedding.weight)
    assert back["readout.weight"] is back["embedding.weight"]
    assert "readout.weight" not in data.tensor_names


def test_complex_entries_are_two_edges() -> None:
    structure = graphs.graph_structure(graphs.trace(a.FourierOperator(), (torch.randn(2, 2, 16),)))
    weight = next(k for k, record in enumerate(structure.records) if record.dtype.is_complex)
    chosen = structure.edge["edge_tensor"] == weight
    assert int(chosen.sum()) == 2 * 4 * 5 * 3
    assert structure.edge["edge_position"][chosen].amax(0).tolist() == [2, 1, -1]  # mode, real or imaginary part


def test_networkx_draws_a_two_four_one_network() -> None:
    module, inputs = two_four_one()
    data = graphs.parameter_graph(module, inputs)
    drawn = graphs.to_networkx(data)
    kinds = sorted(nx.get_node_attributes(drawn, "kind").values())
    assert kinds == sorted(["input"] * 2 + ["hidden"] * 4 + ["output"] + ["constant"] * 2)
    assert drawn.number_of_edges() == 2 * 4 + 4 + 4 * 1 + 1
    weight = module[0].weight
    found = {(s, t): e["value"] for s, t, e in drawn.edges(data=True) if e["tensor"] == "0.weight"}
    assert sorted(found.values()) == sorted(weight.flatten().tolist())
    output = next(node for node, kind in drawn.nodes(data="kind") if kind == "output")
    assert {e["tensor"] for *_, e in drawn.in_edges(output, data=True)} == {"2.weight", "2.bias"}


def test_large_modules_are_refused_and_drawn_by_layers() -> None:
    module = a.mlp(100, 200, 100)
    inputs = (torch.randn(2, 100),)
    with pytest.raises(UserError, match=r"40,300 edges, more than max_edges=1,000.*graphs\.layer_graph"):
        graphs.parameter_graph(module, inputs, max_edges=1000)
    with pytest.raises(UserError, match="max_edges"):
        graphs.graph_structure(graphs.trace(module, inputs), max_edges=1000)
    layers = graphs.layer_graph(graphs.trace(module, inputs), state_of(module))
    named = {data["name"]: data for _, data in layers.nodes(data=True)}
    assert {name: data["size"] for name, data in named.items()} == {
        "input": 100,
        "0": 200,
        "output": 100,
        "constant": 1,
    }
    assert named["0"]["movable"] == 200
    norms = {data["tensor"]: data["norm"] for *_, data in layers.edges(data=True)}
    assert norms["0.weight"] == pytest.approx(float(module[0].weight.detach().double().norm()))
    assert set(norms) == set(state_of(module))


def test_wrong_tensors_are_refused_in_one_sentence() -> None:
    state = state_of(MODULE)
    with pytest.raises(UserError, match=r"'2\.bias' .* is missing"):
        STRUCTURE.values({name: tensor for name, tensor in state.items() if name != "2.bias"})
    with pytest.raises(UserError, match=r"has shape \[3\], expected \[4\]"):
        STRUCTURE.values({**state, "2.bias": torch.zeros(3)})
    with pytest.raises(UserError, match="keep edges in their order"):
        STRUCTURE.scatter(torch.zeros(7))


def test_program_and_group_give_the_same_graph() -> None:
    again: GraphStructure = graphs.graph_structure(graphs.trace(MODULE, (INPUTS,)))
    state = state_of(MODULE)
    first, second = again.data(state), STRUCTURE.data(state)
    assert all(torch.equal(first[key], second[key]) for key in first.keys() if isinstance(first[key], Tensor))  # noqa: SIM118


def test_smallest_modules() -> None:
    one = nn.Linear(1, 1)
    data = graphs.parameter_graph(one, (torch.randn(1, 1),))
    kinds = sorted(NODE_KINDS[kind] for kind in data.node_kind.tolist())
    assert kinds == ["constant", "input", "output"]
    assert data.edge_value.tolist() == [one.weight.item(), one.bias.item()]
    empty = graphs.parameter_graph(nn.ReLU(), (torch.randn(2, 3),))
    assert (empty.num_nodes, empty.num_edges) == (0, 0)
    assert graphs.scatter_parameters(empty) == {}
    assert graphs.layer_graph(graphs.trace(nn.ReLU(), (torch.randn(2, 3),))).number_of_nodes() == 0
