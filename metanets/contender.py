"""Contenders of a leaderboard: a baseline, or a metanet with some of its config fields, augmentations, and where it starts from.

Written `NAME[,field=value…][+AUGMENTATION[=strength]…][@FOLDER]`: `nfn,neurons=all`, `flat_mlp+permutation+noise=0.2`,
`nfn@runs/weight-tasks/cnn/masked_weights/nfn/seed-0` (see `metanets.training.start`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metanets.baseline import Baseline, baselines
from metanets.metanet import Metanet, metanets
from modelzoo.errors import UnknownNameError, UserError
from modelzoo.key_values import read_key_values

DEFAULTS = ("flat_mlp+permutation",)  # beside every metanet and every baseline


@dataclass(frozen=True)
class Contender:
    """What competes.

    Args:
        text: as it was written.
        subject: the metanet or the baseline.
        fields: config fields of the metanet.
        augment: augmentations with their strength, None for the augmentation's own.
        start_from: folder of the training whose metanet it starts from, None for random weights.
    """

    text: str
    subject: Metanet | Baseline
    fields: Mapping[str, Any] = field(default_factory=dict)
    augment: Mapping[str, float | None] = field(default_factory=dict)
    start_from: str | None = None

    @property
    def folder(self) -> str:
        """Its text as the name of a folder."""
        return folder_name(self.text)

    @classmethod
    def read(cls, text: str) -> "Contender":
        """The contender of a text; raises `UserError` for unknown names, fields and values."""
        before, _, start_from = text.partition("@")
        head, *moves = before.split("+")
        name, *pairs = head.split(",")
        known: dict[str, Metanet | Baseline] = {**baselines(), **metanets()}
        if name not in known:
            raise UnknownNameError("metanet or baseline", name, known)
        subject, fields = known[name], read_key_values(pairs, "a metanet")
        if isinstance(subject, Baseline):
            if fields or moves or start_from:
                raise UserError(f"baseline {name!r} has no fields and no augmentations and starts from nothing, got {text!r}.", 2)  # fmt: skip
            return cls(text, subject)
        subject.configure({**subject.tiny, **fields})
        return cls(text, subject, fields, dict(strength(part) for part in moves), start_from or None)


def folder_name(text: str) -> str:
    """`NAME[,field=value…]` as the name of a folder."""
    return text.replace(",", "-").replace("=", "_").replace("/", "_")


def strength(text: str) -> tuple[str, float | None]:
    """`NAME` or `NAME=number`; raises `UserError` for anything else."""
    name, separator, value = text.partition("=")
    try:
        return name, float(value) if separator else None
    except ValueError:
        raise UserError(f"the strength of augmentation {name!r} must be a number, got {value!r}.", 2) from None


def defaults() -> list[Contender]:
    """Every metanet, every baseline, and the flat baseline with augmentation."""
    return [Contender.read(name) for name in (*metanets(), *DEFAULTS, *baselines())]
