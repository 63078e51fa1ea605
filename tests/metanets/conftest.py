"""A zoo that metanets learn from in seconds."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import lightning.pytorch as lightning
import pytest

from metanets.metanet import metanet
from metanets.training import TrainingConfig
from metanets.training.run import Curves
from modelzoo.training import PopulationConfig, populate


@pytest.fixture(scope="session")
def metanet_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 tiny CNNs from chance to good, and 40 perceptrons of varied learning rate; tests do not change it."""
    path = tmp_path_factory.mktemp("metanets") / "zoo"
    for family, models, steps in (("small_cnn", 96, 60), ("mlp", 40, 30)):
        config = PopulationConfig.read(family=family, task="digits", models=models, tiny=True, steps=steps, learning_rate="1e-4:1e-1")  # fmt: skip
        populate(path, config, family, progress=False)
    return path


@pytest.fixture(scope="session")
def short() -> TrainingConfig:
    """Three epochs of a tiny metanet towards the test accuracy of CNNs."""
    fields = dict(metanet("graph_metanet").tiny)
    return TrainingConfig.read(target="test_accuracy", epochs=3, batch_size=16, learning_rate=1e-2, fields=fields)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """Trainings within it are interrupted after their first epoch."""
    written = Curves.on_train_epoch_end

    def stop(self: Curves, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        written(self, trainer, pl_module)
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    @contextmanager
    def within() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(Curves, "on_train_epoch_end", stop)
            yield

    return within
