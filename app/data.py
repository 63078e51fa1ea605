"""Cached loaders: everything read from a zoo is keyed by its snapshot, so that it is read once and never stale."""

import pandas as pd
import streamlit as st
import torch

from analysis.curves import TrainingCurves, training_curves
from analysis.maps import WeightMaps, weight_maps
from analysis.rendering import Reconstruction, reconstruct
from analysis.spectra import SingularSpectra, singular_spectra
from analysis.weights import WeightHistograms, WeightStatistics, weight_histograms, weight_statistics
from modelzoo.store import Population, Version, Zoo

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
