"""Metrics of a run on every split, on populations it has not seen, and beside the baselines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metanets import runs
from metanets.baseline import baselines as registered_baselines
from metanets.metanet import metanet
from metanets.runs import Run
from metanets.scores import split_scores
from metanets.training.config import TrainingConfig
from metanets.training.data import WeightData
from metanets.training.run import config_of, predictions, predictor_of, train
from modelzoo.errors import UserError
from modelzoo.store import Zoo

BASELINES = "baselines"  # folder in a run
FLAT = TrainingConfig.read(
    metanet="flat_mlp", epochs=60, learning_rate=2e-3, weight_decay=0.05, patience=15
)  # what a flat MLP needs to reach its best validation loss


def _rows(name: str, scores: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    return [{"model": name, "split": split, **values} for split, values in scores.items()]


def evaluate(run: Run, zoo: str | Path | None = None, populations: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """One row a split: number of models and metrics.

    Args:
        run: a finished run.
        zoo: another zoo to evaluate on, None for the run's own.
        populations: other populations, None for the run's own.

    Raises:
        UserError: the metanet cannot read those models.
    """
    if zoo is None and populations is None:
        return _rows(run.record.metanet, split_scores(run.table, run.record.kind))
    names = tuple(populations or run.record.populations)
    data = WeightData(
        Zoo.open(zoo or run.record.zoo),
        names,
        run.record.target,
        run.record.kind,
        check=False,
        mode=config_of(run).data,
    )
    if not len(data.table):
        raise UserError(f"{', '.join(names)} has no model with a value in column {run.record.target!r}.")
    data.classes = run.record.classes
    predictor = predictor_of(run)
    if metanet(run.record.metanet).one_architecture:
        entries = {block.topology.edges for block in data.blocks}
        if entries != {run.record.config["entries"]}:
            raise UserError(f"the run's metanet {run.record.metanet!r} reads {run.record.config['entries']} weights, those models have {max(entries)}.")  # fmt: skip
    table, _ = predictions(predictor, data)
    return _rows(run.record.metanet, split_scores(table, run.record.kind))


def baselines(run: Run, progress: bool = True) -> list[dict[str, Any]]:
    """The same split, target and models for the baselines: the flat perceptron, and every registered `Baseline`.

    The perceptron's run is kept in the run's folder, so it is trained once.

    Args:
        run: a finished run.
        progress: draw progress bars.

    Returns:
        One row a baseline and split, as `evaluate` does; a baseline that cannot read these models is left out.
    """
    record, rows = run.record, []
    store = Zoo.open(record.zoo, at=record.snapshot)
    trained = config_of(run)
    data = WeightData(store, record.populations, record.target, record.kind, mode=trained.data, models=trained.models)
    same = len({block.topology.edges for block in data.blocks}) == 1 and len(data.blocks) == 1
    if same and record.metanet != FLAT.metanet:
        config = FLAT.model_copy(
            update={"target": record.target, "kind": record.kind, "seed": record.seed, "data": trained.data, "models": trained.models}
        )  # fmt: skip
        done = train(record.zoo, record.populations, run.path / BASELINES / FLAT.metanet, config, progress)
        rows += evaluate(runs.load(done.path))
    for fitted in registered_baselines().values():
        if same or not fitted.one_architecture:
            try:
                predicted = fitted.fit(data, record.seed)
            except UserError:  # models that cannot be probed
                continue
            table = data.table[["split"]].assign(target=data.table[record.target], prediction=predicted)
            rows += _rows(fitted.name, split_scores(table, record.kind))
    return rows
