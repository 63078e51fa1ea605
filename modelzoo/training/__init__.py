"""Training populations of models in lock-step."""

from modelzoo.training.config import Plan, PopulationConfig
from modelzoo.training.lockstep import train_population
from modelzoo.training.populate import populate

__all__ = ["Plan", "PopulationConfig", "populate", "train_population"]
