"""Cached loaders: everything read from a zoo is keyed by its snapshot, so that it is read once and never stale."""

import json

import pandas as pd
import streamlit as st
import torch
from torch import Tensor, nn

from analysis.analysis import Result, find
from analysis.architecture import Architecture, architecture
from analysis.curves import TrainingCurves, training_curves
from analysis.embedding import EmbeddingMap, Method, embedding_map
from analysis.graph_drawing import GraphDrawing, layer_drawing, neuron_drawing
from analysis.maps import WeightMaps, weight_maps
from analysis.predictions import Predictions, predictions
from analysis.rendering import Reconstruction, reconstruct
from analysis.spectra import SingularSpectra, singular_spectra
from analysis.symmetry.orbit import OrbitPath, Walker
from analysis.symmetry.table import GroupTable, group_table
from analysis.weights import WeightHistograms, WeightStatistics, weight_histograms, weight_statistics
from graphs import GraphStructure, Program, SymmetryGroup, graph_structure, layer_graph, symmetry, trace, verify
from graphs.subjects import subject
from metanets.runs import Run, list_runs
from modelzoo.family import families, resolve
from modelzoo.store import Population, Version, Zoo
from modelzoo.task import Task, task

torch.set_num_threads(1)  # a page is many small computations, and the browser wants a core too


@st.cache_resource(show_spinner=False)
def opened(path: str) -> Zoo:
    """The zoo, following its newest snapshot."""
    return Zoo.open(path)


@st.cache_resource(max_entries=4, show_spinner=False)
def at(path: str, snapshot: str) -> Zoo:
    """The zoo as it was at a snapshot."""
    return Zoo.open(path, at=snapshot)


@st.cache_data(max_entries=4, show_spinner="Reading the model table")
def table(path: str, snapshot: str) -> pd.DataFrame:
    """The model table over all populations."""
    return at(path, snapshot).table()


@st.cache_data(max_entries=4, show_spinner=False)
def history(path: str, snapshot: str) -> list[Version]:
    """Every commit, newest first."""
    return at(path, snapshot).history()


@st.cache_resource(max_entries=16, show_spinner=False)
def population(path: str, snapshot: str, name: str) -> Population:
    """One population."""
    return at(path, snapshot)[name]


@st.cache_resource(max_entries=16, show_spinner=False)
def architecture_of(path: str, snapshot: str, name: str) -> Architecture:
    """The tree of the modules of a population."""
    return architecture(population(path, snapshot, name).template())


@st.cache_resource(max_entries=16, show_spinner="Tracing the architecture")
def program_of(path: str, snapshot: str, name: str) -> Program:
    """The traced architecture of a population."""
    chosen = population(path, snapshot, name)
    return trace(chosen.template(), chosen.example_inputs())


@st.cache_resource(max_entries=16, show_spinner="Building the parameter graph")
def structure_of(path: str, snapshot: str, name: str) -> GraphStructure:
    """The parameter graph of a population's architecture, without values."""
    return graph_structure(program_of(path, snapshot, name))


def state_of(path: str, snapshot: str, name: str, row: int, checkpoint: int) -> dict[str, Tensor]:
    """Parameters and buffers of a model."""
    state = population(path, snapshot, name).stacked(slice(row, row + 1), checkpoint, "state")
    return {key: value[0] for key, value in state.items()}


@st.cache_data(max_entries=16, show_spinner=False)
def layers_drawn(path: str, snapshot: str, name: str, row: int, checkpoint: int) -> GraphDrawing:
    """The parameter graph collapsed by layer."""
    state = state_of(path, snapshot, name, row, checkpoint)
    return layer_drawing(layer_graph(program_of(path, snapshot, name), state))


@st.cache_data(max_entries=16, show_spinner=False)
def neurons_drawn(path: str, snapshot: str, name: str, row: int, checkpoint: int) -> GraphDrawing:
    """The parameter graph neuron by neuron."""
    state = state_of(path, snapshot, name, row, checkpoint)
    return neuron_drawing(structure_of(path, snapshot, name).data(state))


Tensors = tuple[str, ...]


@st.cache_data(max_entries=64, show_spinner="Reading weights")
def maps(path: str, snapshot: str, name: str, row: int, checkpoint: int, tensors: Tensors) -> WeightMaps:
    """Heat maps of a model."""
    return weight_maps(population(path, snapshot, name), row, checkpoint, tensors)


@st.cache_data(max_entries=64, show_spinner="Comparing with the population")
def histograms(path: str, snapshot: str, name: str, row: int, checkpoint: int, tensors: Tensors) -> WeightHistograms:
    """Histograms of a model over those of its population."""
    return weight_histograms(population(path, snapshot, name), row, checkpoint, tensors)


@st.cache_data(max_entries=64, show_spinner="Comparing with the population")
def statistics(path: str, snapshot: str, name: str, row: int, checkpoint: int, tensors: Tensors) -> WeightStatistics:
    """Statistics of a model and their place in its population."""
    return weight_statistics(population(path, snapshot, name), row, checkpoint, tensors)


@st.cache_data(max_entries=64, show_spinner="Decomposing the population's matrices")
def spectra(path: str, snapshot: str, name: str, row: int, checkpoint: int, tensors: Tensors) -> SingularSpectra:
    """Singular values of a model over those of its population."""
    return singular_spectra(population(path, snapshot, name), row, checkpoint, tensors)


@st.cache_data(max_entries=64, show_spinner=False)
def curves(path: str, snapshot: str, name: str, row: int, checkpoint: int) -> TrainingCurves:
    """Training curves of a model over those of its population."""
    return training_curves(population(path, snapshot, name), row, checkpoint)


@st.cache_data(max_entries=64, show_spinner="Evaluating the model")
def reconstruction(path: str, snapshot: str, name: str, row: int, checkpoint: int) -> Reconstruction:
    """The image that a model represents."""
    return reconstruct(population(path, snapshot, name), row, checkpoint)


def family_names() -> list[str]:
    """Every family and variant, `family.variant`."""
    return [name for head, found in families().items() for name in (head, *(f"{head}.{v}" for v in found.variants))]


@st.cache_resource(max_entries=16, show_spinner="Tracing the module and inferring its group")
def family_group(name: str, tiny: bool) -> tuple[SymmetryGroup, Walker]:
    """The group of a family's freshly initialised member, unchecked."""
    found, variant = resolve(name)
    chosen = task(found.task)
    config = found.configure(chosen, {**(found.tiny if tiny else {}), **variant})
    return inferred(found.build(config, seed=0), chosen)


@st.cache_resource(max_entries=16, show_spinner="Tracing the module and inferring its group")
def model_group(path: str, snapshot: str, name: str, model: int) -> tuple[SymmetryGroup, Walker]:
    """The group of a model of the zoo, unchecked."""
    chosen = population(path, snapshot, name)
    return inferred(chosen.module(int(chosen.positions([model])[0])), chosen.task)


def inferred(module: nn.Module, chosen: Task) -> tuple[SymmetryGroup, Walker]:
    """The group of a module that takes a task's inputs."""
    inputs = chosen.example_inputs(8)
    group = symmetry(module, inputs, verify=False)
    return group, Walker(group, module, inputs)


@st.cache_data(max_entries=16, show_spinner="Checking random elements", hash_funcs={SymmetryGroup: id, Walker: id})
def group_table_of(group: SymmetryGroup, walker: Walker, seed: int) -> GroupTable:
    """The table of a group, with the verdict of a check of its own."""
    return group_table(group, verify(group, walker.module, walker.inputs, seed=seed))


@st.cache_data(max_entries=32, show_spinner="Walking along the orbit", hash_funcs={Walker: id})
def orbit(walker: Walker, factor: str, times: tuple[float, ...]) -> OrbitPath:
    """The errors along a one-parameter subgroup."""
    return walker.path(factor, times)


@st.cache_resource(max_entries=16, show_spinner="Running the analysis")
def analysis_result(
    name: str, path: str | None, snapshot: str, family: str, tiny: bool, chosen: str, model: int, fields: str
) -> Result:
    """An analysis of a family, of a model or of a whole population; `fields` are its options as JSON."""
    found, options = find(name), json.loads(fields)
    if found.of == "nothing":
        return found.run(None, options)
    if found.of == "population":
        return found.run(population(str(path), snapshot, chosen), options)
    return found.run(subject(str(path), f"{chosen}/{model}") if chosen else subject(family, tiny=tiny), options)


@st.cache_data(ttl=5, show_spinner="Looking for runs")
def runs(folder: str) -> list[Run]:
    """The finished runs of metanets in a folder."""
    return list_runs(folder)


def _identity(run: Run) -> tuple[str, str | None]:
    return str(run.path), run.record.finished


@st.cache_data(max_entries=16, show_spinner="Mapping the embeddings", hash_funcs={Run: _identity})
def embedding(run: Run, records: pd.DataFrame, method: Method) -> EmbeddingMap:
    """The embeddings of a run in the plane."""
    return embedding_map(run.embeddings, records, method)


@st.cache_data(max_entries=16, show_spinner=False, hash_funcs={Run: _identity})
def predictions_of(run: Run, split: str) -> Predictions:
    """Predicted and true values of a split."""
    return predictions(run, split)
