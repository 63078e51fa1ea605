"""The zoo store: populations of trained models on Zarr v3 and Icechunk."""

from modelzoo.store.population import Population
from modelzoo.store.records import ModelBatch, PopulationInfo, Problem, TensorInfo, Version, manifest
from modelzoo.store.zoo import Zoo

__all__ = ["ModelBatch", "Population", "PopulationInfo", "Problem", "TensorInfo", "Version", "Zoo", "manifest"]
