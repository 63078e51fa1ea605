"""Training metanets on populations of a zoo under Lightning."""

from metanets.training.config import TrainingConfig
from metanets.training.data import WeightData
from metanets.training.evaluation import baselines, evaluate
from metanets.training.run import predictor_of, train

__all__ = ["TrainingConfig", "WeightData", "baselines", "evaluate", "predictor_of", "train"]
