"""What a population is: family, task, number of models, and the distribution of their hyper-parameters."""

import re
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from modelzoo.configured import configured
from modelzoo.errors import UserError
from modelzoo.family import Family, FamilyConfig, Recipe, resolve
from modelzoo.task import Task, task

SPLITS = ("train", "validation", "test")


class PopulationConfig(BaseModel):
    """A population, as the command line states it; everything else follows from it.

    Args:
        family: `family` or `family.variant`.
        family_config: config fields set by hand.
        task: name of the task, None for the family's default.
        models: how many.
        seed: of the whole population; model i depends on (seed, i) alone.
        steps, batch_size, optimizer, gradient_clip: override the family's recipe.
        learning_rate, weight_decay, init_scale: a number, or a range `"1e-4:1e-1"` drawn log-uniformly per model.
        data_fraction: share of the training samples a model sees; a range is drawn uniformly.
        splits: shares of the train, validation and test split, `"55:5:10"`; every model is drawn into one of them.
        checkpoint_every: optimizer steps between checkpoints; None stores the first and the last state.
        metric_every: optimizer steps between entries of the loss curve; None for about fifty entries.
        block: models trained in lock-step; None chooses by size.
        tiny: start from the family's tiny test config and recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    family_config: dict[str, Any] = {}
    task: str | None = None
    models: int
    seed: int = Field(0, ge=0)
    steps: int | None = Field(None, gt=0)
    batch_size: int | None = Field(None, gt=0)
    optimizer: str | None = None
    learning_rate: float | str | None = None
    weight_decay: float | str | None = None
    gradient_clip: float | None = Field(None, gt=0)
    data_fraction: float | str = 1.0
    init_scale: float | str = 1.0
    splits: str = "80:10:10"
    checkpoint_every: int | None = Field(None, gt=0)
    metric_every: int | None = Field(None, gt=0)
    block: int | None = Field(None, gt=0)
    tiny: bool = False

    @field_validator("learning_rate", "weight_decay", "data_fraction", "init_scale", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        """`"0.1"` from the command line is the number, so that both are the same population."""
        try:
            return float(value) if isinstance(value, str) else value
        except ValueError:
            return value

    @classmethod
    def read(cls, **fields: Any) -> "PopulationConfig":
        """The config from loose fields; raises `UserError` in one sentence where pydantic would list errors."""
        return configured(cls, fields, "population key")


class Plan(BaseModel):
    """A checked population config with everything resolved; raises `UserError` when built from one that cannot run."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    source: PopulationConfig
    family: Family
    config: FamilyConfig
    task: Task
    recipe: Recipe

    @classmethod
    def of(cls, source: PopulationConfig) -> "Plan":
        """Resolve and check."""
        if source.models < 1:
            raise UserError(f"a population needs at least one model, got {source.models}; set --models.", 2)
        family, variant = resolve(source.family)
        chosen = task(source.task or family.task)
        tiny = dict(family.tiny) if source.tiny else {}
        config = family.configure(chosen, {**tiny, **variant, **source.family_config})
        base = family.tiny_recipe if source.tiny else family.recipe
        numbers = {
            name: low
            for name in ("learning_rate", "weight_decay")
            if (low := _range(name, getattr(source, name))[0]) is not None
        }
        overrides = {
            name: value
            for name in ("steps", "batch_size", "optimizer", "gradient_clip")
            if (value := getattr(source, name)) is not None
        }
        recipe = configured(Recipe, {**base.model_dump(), **numbers, **overrides}, "recipe key")
        low, high = _range("data_fraction", source.data_fraction)
        if not (low is not None and high is not None and 0 < low <= high <= 1):
            raise UserError(f"data-fraction must lie in (0, 1], got {source.data_fraction!r}.", 2)
        _range("init_scale", source.init_scale)
        _split_ends(source.splits)
        plan = cls(source=source, family=family, config=config, task=chosen, recipe=recipe)
        if chosen.sampling == "minibatch" and family.fit is None:
            samples = int(len(chosen.data().train.targets) * low)
            if samples < recipe.batch_size:
                raise UserError(
                    f"batch-size {recipe.batch_size} is larger than the {samples} training samples a model may see; "
                    "choose a smaller --batch-size or a larger --data-fraction.", 2)  # fmt: skip
        return plan

    def hyperparameters(self, ids: range | list[int]) -> pd.DataFrame:
        """One row a model: seed, split, instance and label, learning rate, weight decay, data fraction, init scale."""
        rows = []
        labels = self.task.data().instance_labels if self.task.instances else None
        ends = _split_ends(self.source.splits)
        for i in ids:
            state = np.random.SeedSequence(self.source.seed, spawn_key=(i,))
            draw = np.random.default_rng(state)
            uniform = draw.random()
            instance = i % self.task.instances if self.task.instances else -1
            if i > instance >= 0:  # a second model of the same instance belongs to the same split
                own = np.random.SeedSequence(self.source.seed, spawn_key=(instance,))
                uniform = np.random.default_rng(own).random()
            row = {
                "id": i,
                "seed": int(state.generate_state(1)[0]) % 2**31,
                "split": next(name for name, end in zip(SPLITS, ends, strict=True) if uniform < end),
                "instance": instance,
                "label": int(labels[instance]) if labels is not None else -1,
            }
            for name, logarithmic in (("learning_rate", True), ("weight_decay", True), ("init_scale", True), ("data_fraction", False)):  # fmt: skip
                value = getattr(self.source, name)
                low, high = _range(name, value if value is not None else getattr(self.recipe, name))
                assert low is not None
                assert high is not None
                share = draw.random()
                if low == high:
                    row[name] = low
                elif logarithmic:
                    row[name] = float(np.exp(np.log(low) + share * (np.log(high) - np.log(low))))
                else:
                    row[name] = float(low + share * (high - low))
            rows.append(row)
        return pd.DataFrame(rows)


def _range(name: str, value: float | str | None) -> tuple[float | None, float | None]:
    """Both ends of `0.1` or `"1e-4:1e-1"`."""
    if value is None:
        return None, None
    try:
        ends = [float(part) for part in str(value).split(":")]
    except ValueError:
        ends = []
    words = re.sub("_", "-", name)
    if len(ends) not in (1, 2) or not all(np.isfinite(ends)):
        raise UserError(f"{words} must be a number or a range such as 1e-4:1e-1, got {value!r}.", 2)
    low, high = ends[0], ends[-1]
    if low > high or low < 0 or (len(ends) == 2 and low == 0 and name != "data_fraction"):
        raise UserError(f"{words} must be a positive, rising range, got {value!r}.", 2)
    return low, high


def _split_ends(shares: str) -> tuple[float, ...]:
    """Upper ends in [0, 1] of the splits, for a uniform draw a model: `"80:10:10"` to (0.8, 0.9, 1)."""
    try:
        parts = [float(part) for part in shares.split(":")]
    except ValueError:
        parts = []
    if len(parts) != len(SPLITS) or not all(np.isfinite(parts)) or min(parts) < 0 or sum(parts) <= 0:
        raise UserError(f"splits must be shares of train, validation and test such as 80:10:10, got {shares!r}.", 2)
    return tuple(float(end) for end in np.cumsum(parts) / sum(parts))
