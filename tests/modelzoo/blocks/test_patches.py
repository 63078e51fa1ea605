"""Patches: torch's unfold as oracle, and the size that a task's images get."""

import pytest
import torch
from torch.nn import functional as F

from modelzoo.blocks.patches import patches
from modelzoo.errors import UserError
from modelzoo.family import family
from modelzoo.task import task


@pytest.mark.parametrize("size", [1, 2, 3])
def test_they_are_those_of_unfold(size: int) -> None:
    x = torch.randn(2, 3, 6, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(patches(x, size), F.unfold(x, size, stride=size).mT, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vit", "mlp_mixer"])
def test_images_become_sixteen_patches_and_a_patch_that_does_not_divide_is_refused(name: str) -> None:
    found = family(name)
    for data, size in (("digits", 2), ("mnist", 7)):
        config = found.configure(task(data))
        assert (config.patch, config.tokens) == (size, 16)  # type: ignore[attr-defined]
        outputs = found.build(config, seed=0)(torch.zeros(3, 1, *config.image))  # type: ignore[attr-defined]
        assert outputs.shape == (3, 10)
    assert found.configure(task("mnist"), {"patch": 4}).tokens == 49  # type: ignore[attr-defined]
    with pytest.raises(
        UserError, match="patch 5 does not divide an image of 28 × 28, choose one of 1, 2, 4, 7, 14, 28"
    ):
        found.configure(task("mnist"), {"patch": 5})
