"""Every metanet trains in mixed and in double precision; the loss is the same up to rounding."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from metanets.metanet import metanets
from metanets.runs import WEIGHTS, Run
from metanets.training import TrainingConfig, evaluate, train
from metanets.training.module import Predictor, WeightTraining, adamw
from modelzoo.errors import UserError
from tests.metanets.subjects import models, network

CLOSE = {"bf16-mixed": 2e-2, "64": 1e-4}  # of losses, relative


def losses(name: str, precision: str) -> tuple[float, float]:
    """Before and after one step of a tiny metanet on CNNs."""
    of = models("small_cnn").to(torch.float32)
    config = TrainingConfig.read(precision=precision, learning_rate=1e-4)
    predictor = Predictor(network(name, of), "classification").to(config.dtype).eval()
    training, batch = (
        WeightTraining(predictor, config, "classification", 1),
        predictor.cast([(of, torch.arange(4) % 3)]),
    )
    optimizer, found = adamw(predictor, config), []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = training.loss(predictor.raw(batch).outputs, batch[0][1])
        assert loss.dtype == config.dtype
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found[0], found[1]


@pytest.mark.parametrize("name", metanets())
def test_every_metanet_trains_in_every_precision(name: str) -> None:
    before, after = losses(name, "32")
    assert after < before
    for precision, close in CLOSE.items():
        first, second = losses(name, precision)
        assert first != before, "nothing was computed in another precision"
        assert first == pytest.approx(before, rel=close)
        assert second < first


def run(zoo: Path, out: Path, precision: str, **fields: object) -> Run:
    config = TrainingConfig.read(
        metanet="flat_mlp", fields={"width": 16}, target="test_accuracy", epochs=1, precision=precision, **fields
    )
    return train(zoo, ["mlp"], out, config, progress=False)


def test_a_run_knows_its_precision(metanet_zoo: Path, tmp_path: Path) -> None:
    single, mixed, double = (
        run(metanet_zoo, tmp_path / name, name, average=0.5) for name in ("32", "bf16-mixed", "64")
    )
    for done, dtype in ((single, torch.float32), (mixed, torch.float32), (double, torch.float64)):
        assert done.record.training["precision"] == done.path.name
        assert {tensor.dtype for tensor in load_file(done.path / WEIGHTS).values()} == {dtype}
        assert torch.from_numpy(done.embeddings).dtype == dtype
        again = {row["split"]: row["r2"] for row in evaluate(done, populations=["mlp"])}
        assert again == pytest.approx({split: values["r2"] for split, values in done.record.metrics.items()}, abs=1e-5)
    older = {key: value for key, value in single.record.training.items() if key not in ("precision", "data")}
    Run(single.path, single.record.model_copy(update={"training": older})).write()  # as one of before there were any
    assert run(metanet_zoo, single.path, "32", average=0.5).record.finished == single.record.finished
    with pytest.raises(UserError, match="holds a run with precision = '32', now it is '64'"):
        run(metanet_zoo, single.path, "64", average=0.5)
    losses = [done.curves["train_loss"].iloc[0] for done in (single, mixed, double)]
    assert len(set(losses)) == 3
    assert losses == pytest.approx(losses[:1] * 3, rel=CLOSE["bf16-mixed"])


def test_precisions_that_there_are_not() -> None:
    with pytest.raises(
        UserError, match=r"^precision 16-mixed needs a GPU, and metanets train on the CPU; take bf16-mixed\.$"
    ):
        TrainingConfig.read(precision="16-mixed")
    with pytest.raises(UserError, match=r"^precision: input should be '32', 'bf16-mixed' or '64', got '8'\.$"):
        TrainingConfig.read(precision="8")


def test_the_optimizer_is_one_call_and_goes_on_from_a_state() -> None:
    """Fused steps after a checkpoint are those without one; plain AdamW agrees up to rounding."""

    def steps(fused: bool, interrupted: bool) -> torch.Tensor:
        layer = torch.nn.Linear(3, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.arange(6.0).reshape(2, 3) / 6)
            layer.bias.fill_(1)
        config = TrainingConfig.read(precision="32" if fused else "bf16-mixed")
        optimizer = adamw(layer, config)
        assert {group["fused"] for group in optimizer.param_groups} == {fused}
        for number in range(4):
            if interrupted and number == 2:
                state = optimizer.state_dict()
                optimizer = adamw(layer, config)
                optimizer.load_state_dict(state)
            layer(torch.ones(1, 3) * number).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.cat([p.detach().flatten() for p in layer.parameters()])

    assert torch.equal(steps(True, False), steps(True, True))
    torch.testing.assert_close(steps(True, False), steps(False, False), rtol=1e-6, atol=1e-7)
