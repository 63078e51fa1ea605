"""How a metanet is trained: everything the command line states."""

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from metanets.runs import Kind
from metanets.training.augmentation import strengths
from metanets.training.reading import DataMode
from modelzoo.configured import configured
from modelzoo.errors import UserError

Precision = Literal["32", "bf16-mixed", "64"]


class TrainingConfig(BaseModel):
    """A training, as the command line states it.

    Args:
        metanet: name of the metanet.
        fields: config fields of the metanet set by hand.
        target: column of the model table to predict.
        kind: classification or regression; None takes classification for `label` and for text, else regression.
        epochs: passes over the training models, at most.
        batch_size: models a step.
        learning_rate: peak of a cosine schedule with a warm-up of a tenth of the steps.
        weight_decay: decoupled, on matrices.
        gradient_clip: largest gradient norm.
        patience: epochs without a better validation loss before training stops, None never stops early.
        average: decay of an exponential moving average of the weights that is validated and kept, 0 for none.
        data: whether the zoo's weights are in memory, memory-mapped, or streamed chunk by chunk.
        precision: of the arithmetic, in Lightning's words.
        models: how many of the training models are learned from, at even distances; None for all.
        start_from: folder of a finished weight task or run whose metanet this one starts from, see `metanets.training.start`.
        augment: augmentations of every step by name with their strengths, in the order in which they are applied.
        seed: of initialisation and batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metanet: str = "graph_metanet"
    fields: dict[str, Any] = {}
    target: str = "label"
    kind: Kind | None = None
    epochs: int = Field(40, gt=0)
    batch_size: int = Field(64, gt=0)
    learning_rate: float = Field(4e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    gradient_clip: float = Field(1.0, gt=0)
    patience: int | None = Field(None, gt=0)
    average: float = Field(0.0, ge=0, lt=1)
    data: DataMode = "memory"
    precision: Precision = "32"
    models: int | None = Field(None, gt=0)
    start_from: str | None = None
    augment: dict[str, float] = {}
    seed: int = Field(0, ge=0)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; mixed precision keeps them in float32."""
        return torch.float64 if self.precision == "64" else torch.float32

    @classmethod
    def read(cls, **fields: Any) -> "TrainingConfig":
        """The config from loose fields, None left out (a strength of None is the augmentation's own); raises `UserError` in one sentence."""
        given = {key: value for key, value in fields.items() if value is not None}
        given["augment"] = strengths(given.get("augment", {}))
        if given.get("precision") == "16-mixed":
            raise UserError("precision 16-mixed needs a GPU, and metanets train on the CPU; take bf16-mixed.", 2)
        return configured(cls, given, "training key")
