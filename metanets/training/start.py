"""Where a training starts from: a metanet that was trained before, by `metazoo weight-task` or as another run.

What the new metanet has in common with it is taken over, tensor by tensor, normalisation statistics as well: features then
mean what they meant. What predicts (`head`) is new.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file
from torch import Tensor

from metanets import runs
from metanets.metanet import MetanetModule
from modelzoo.errors import UserError

RECORDS = (runs.RECORD, "task.json")  # the latter of `metanets.weight_board`, which is built on this package
PREFIX, HEAD, READOUT = "metanet.", "head", "readout."


class Origin(BaseModel):
    """What the records of runs and of weight tasks have in common."""

    finished: str | None = None
    training: dict[str, Any] | None = None


@dataclass(frozen=True)
class Start:
    """Tensors of a trained metanet.

    Args:
        folder: where they come from.
        tensors: by their names in the metanet, without its head.
    """

    folder: str
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: str | Path, metanet: str) -> "Start":
        """The metanet of a finished run or weight task.

        Args:
            folder: of the run, or of one seed of a contender of a weight task.
            metanet: its name.

        Raises:
            UserError: there is none in the folder, it is not finished, or it is another metanet.
        """
        place = Path(folder)
        record = next((place / name for name in RECORDS if (place / name).is_file()), None)
        if record is None:
            raise UserError(f"{str(folder)!r} holds no training to start from (no {' or '.join(RECORDS)} in it); name a run, or a seed folder of metazoo weight-task.", 2)  # fmt: skip
        try:
            origin = Origin.model_validate_json(record.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError):
            raise UserError(f"{str(record)!r} is not the record of a training; name another folder to start from.", 2) from None  # fmt: skip
        if not origin.finished or origin.training is None or not (place / runs.WEIGHTS).is_file():
            raise UserError(f"{str(folder)!r} holds no finished training of a metanet to start from.", 2)
        if origin.training["metanet"] != metanet:
            raise UserError(f"{str(folder)!r} holds a {origin.training['metanet']}, which a {metanet} cannot start from; name the same metanet.", 2)  # fmt: skip
        tensors = load_file(place / runs.WEIGHTS)
        if any(name.startswith(PREFIX) for name in tensors):  # beside it are heads of a task, or ranks of a target
            tensors = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
        return cls(str(folder), {name: tensor for name, tensor in tensors.items() if not predicts(name)})

    @torch.no_grad()
    def take(self, network: MetanetModule) -> int:
        """Copy every tensor whose name and shape agree; how many these are.

        A readout of other features (probes here, none there) is new as a whole: its tensors are counted through, so equal
        names stand for different features. What only one of the two has is left as it is.

        Args:
            network: what starts; unchanged where something is raised.

        Raises:
            UserError: a tensor has another shape, or other places of weights, or none agrees.
        """
        own = {name: tensor for name, tensor in network.state_dict().items() if not predicts(name)}
        if shapes(own) != shapes(self.tensors):
            own = {name: tensor for name, tensor in own.items() if not name.startswith(READOUT)}
        shared = {name: (tensor, self.tensors[name]) for name, tensor in own.items() if name in self.tensors}
        for name, (mine, theirs) in shared.items():
            if mine.shape != theirs.shape:
                raise UserError(f"the metanet in {self.folder!r} has {name} of shape {list(theirs.shape)}, here it is {list(mine.shape)}; take the fields it was trained with (--set), and models of its architecture.", 2)  # fmt: skip
            if not mine.is_floating_point() and not torch.equal(mine, theirs):
                raise UserError(f"the metanet in {self.folder!r} reads weights at other places ({name}); take models of its architecture.", 2)  # fmt: skip
        if not any(mine.is_floating_point() for mine, _ in shared.values()):
            raise UserError(f"{self.folder!r} holds nothing that this metanet could start from.", 2)
        for mine, theirs in shared.values():
            mine.copy_(theirs)
        return len(shared)


def predicts(name: str) -> bool:
    """Whether a tensor is of what makes predictions of embeddings."""
    return HEAD in name.split(".")


def shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Shapes of the tensors of the readout."""
    return {name: tensor.shape for name, tensor in tensors.items() if name.startswith(READOUT)}
