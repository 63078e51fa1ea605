"""Where probes begin, on which scale answers are read, and that predictions are partly linear in them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metanets.batching import Models
from metanets.metanet import metanet
from metanets.probes import Probes, ProbeStart, smooth
from metanets.readout import LINEAR, Readout, ReadoutConfig
from metanets.training import TrainingConfig, train
from metanets.training.run import predictor_of
from modelzoo.errors import UserError
from modelzoo.store import Zoo
from tests.metanets.subjects import models

IMAGE = (1, 8, 8)


def cnns(classes: bool = True) -> Models:
    """Tiny ones, whose outputs are said to be logits or not."""
    of = models("small_cnn")
    assert of.function is not None
    return replace(of, function=replace(of.function, classes=classes))


def begun(classes: bool = True, start: ProbeStart = "noise") -> tuple[Probes, Tensor]:
    """Probes that were prepared for these CNNs, and the inputs that they were trained on."""
    of, examples = cnns(classes), torch.rand(50, *IMAGE, dtype=torch.float64)
    assert of.function is not None
    probes = Probes(6, IMAGE, 10, start).double()
    probes.begin([replace(of, function=replace(of.function, examples=lambda: examples))])
    return probes, examples


def test_probes_begin_at_data_and_learn() -> None:
    probes, examples = begun(start="data")
    assert torch.equal(probes.inputs(), examples[torch.linspace(0, 49, 6).round().long()])
    probes(cnns()).square().sum().backward()
    assert probes.outer.weight.grad is not None
    assert probes.outer.weight.grad.ne(0).any()
    assert begun()[0].inputs().ne(0).all(), "noise is another start"


def test_data_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="take probe_start=noise"):
        Probes(6, IMAGE, 10, start="data").double().begin([models("small_cnn")])
    of = cnns()
    assert of.function is not None

    def missing() -> Tensor:
        raise UserError("digits are not there; put them there.", 3)

    with pytest.raises(UserError, match=r"put them there, or take probe_start=noise, which needs no data\.") as found:
        Probes(6, IMAGE, 10, start="data").double().begin(
            [replace(of, function=replace(of.function, examples=missing))]
        )
    assert found.value.exit_code == 3


@pytest.mark.parametrize("classes", [True, False])
def test_answers_are_standardised_over_the_training_models(classes: bool) -> None:
    probes, _ = begun(classes)
    read = probes(cnns(classes))
    torch.testing.assert_close(read.mean(0), torch.zeros_like(read[0]), atol=1e-9, rtol=0)
    torch.testing.assert_close(read.std(0, correction=0), torch.ones_like(read[0]))


@pytest.mark.parametrize("classes", [True, False])
def test_of_logits_the_probabilities_are_read(classes: bool) -> None:
    """A number added to all logits of a model changes nothing; of other answers it changes what is read."""
    probes, _ = begun(classes)
    of = cnns(classes)
    assert of.function is not None
    bias = of.function.tensors["head.bias"] + torch.arange(1.0, 1 + len(of), dtype=torch.float64)[:, None]
    moved = replace(of, function=replace(of.function, tensors={**of.function.tensors, "head.bias": bias}))
    away = float((probes(moved) - probes(of)).detach().abs().max())
    assert away < 1e-9 if classes else away > 1e-2


def test_noise_of_images_is_smooth_and_as_large() -> None:
    torch.manual_seed(0)
    noise = torch.randn(100, 28, 28)

    def roughness(images: Tensor) -> float:
        return float(images.diff(dim=-1).square().mean() / (2 * images.var()))

    assert float(smooth(noise).std()) == pytest.approx(float(noise.std()), rel=1e-5)
    assert roughness(noise) == pytest.approx(1, abs=0.02)
    assert roughness(smooth(noise)) < 0.1
    assert roughness(Probes(40, (1, 28, 28), 10).inputs().detach()) < 0.1
    assert float(Probes(40, (784,), 10).outer.weight.detach().std()) == pytest.approx(0.5 / 8, rel=0.05), (
        "vectors have no neighbours"
    )


def test_predictions_are_partly_linear_in_answers() -> None:
    """The direct map is zero at first; afterwards outputs move by it while embeddings stay."""
    of = models("small_cnn")
    config = ReadoutConfig(probes=6, probe_shape=IMAGE, probe_outputs=10, outputs=2)
    readout = Readout([], config).double().eval()
    before, direct = readout([], of), readout.head.direct
    assert direct is not None
    torch.testing.assert_close(before.outputs, readout.head.body(before.embeddings))
    torch.nn.init.normal_(direct.weight)
    after = readout([], of)
    assert readout.probes is not None
    torch.testing.assert_close(after.outputs - before.outputs, LINEAR * (readout.probes(of) @ direct.weight.T))
    assert torch.equal(after.embeddings, before.embeddings)
    assert Readout([3], ReadoutConfig()).head.direct is None


def test_the_default_begins_at_the_data_of_the_zoo(metanet_zoo: Path, tmp_path: Path) -> None:
    config = TrainingConfig.read(target="test_accuracy", epochs=1, batch_size=16, fields={**metanet("graph_metanet").tiny, "probes": 3})  # fmt: skip
    done = train(metanet_zoo, ["small_cnn"], tmp_path / "run", config, progress=False)
    assert done.record.config["probe_start"] == "data"
    probes = predictor_of(done).metanet.readout.parts[0].probes
    data = Zoo.open(metanet_zoo)["small_cnn"].task.data().train.inputs[0]
    assert torch.equal(probes.first, data[[0, round((len(data) - 1) / 2), len(data) - 1]])
