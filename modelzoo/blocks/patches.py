"""Images cut into square patches, the tokens of vision transformers and mixers."""

from math import gcd
from typing import Any

from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor

from modelzoo.family import FamilyConfig
from modelzoo.task import Task


class PatchConfig(FamilyConfig):
    """Base of the configs of families that read an image `image` = (H, W) as patches of `patch` × `patch` pixels."""

    in_channels: int = Field(1, gt=0)
    image: tuple[int, int] = (8, 8)
    patch: int = Field(2, gt=0)

    @model_validator(mode="after")
    def _tiles(self) -> "PatchConfig":
        height, width = self.image
        if height % self.patch or width % self.patch:
            sizes = ", ".join(map(str, divisors(gcd(height, width))))
            raise ValueError(
                f"patch {self.patch} does not divide an image of {height} × {width}, choose one of {sizes}"
            )
        return self

    @property
    def tokens(self) -> int:
        """Number of patches T = HW/p²."""
        return self.image[0] * self.image[1] // self.patch**2

    @property
    def patch_features(self) -> int:
        """Numbers in a patch, C p²."""
        return self.in_channels * self.patch**2


def divisors(number: int) -> list[int]:
    """The divisors of a number, smallest first."""
    return [d for d in range(1, number + 1) if number % d == 0]


def patch_fields(task: Task) -> dict[str, Any]:
    """The fields of `PatchConfig` for a task of images: of the patches that tile them, those nearest to 4 × 4 patches."""
    channels, height, width = task.inputs.shape
    patch = min(divisors(gcd(height, width)), key=lambda size: abs(size - (height * width) ** 0.5 / 4))
    return {"in_channels": channels, "image": (height, width), "patch": patch}


def patches(x: Tensor, size: int) -> Tensor:
    """Cut images into patches, row by row.

    Args:
        x: `[B, C, H, W]`.
        size: side p of a patch; it divides H and W.

    Returns:
        `[B, HW/p², C p²]`.
    """
    return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=size, q=size)
