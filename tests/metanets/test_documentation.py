"""docs/metanets.md names everything that is registered, with what it claims, and commands of the docs exist."""

import shlex
from pathlib import Path

import pytest

from metanets.baseline import baselines
from metanets.contender import Contender
from metanets.metanet import metanets
from metanets.training.augmentation import augmentations
from metanets.weight_task import weight_tasks

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "metanets.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("name", [*metanets(), *baselines(), *augmentations()])
def test_everything_registered_has_its_row(name: str) -> None:
    assert f"`{name}`" in {row[0] for row in ROWS}


def test_what_is_claimed_is_what_is_registered() -> None:
    claims = {row[0].strip("`"): row[2] for row in ROWS if len(row) == 3}
    assert claims == {name: each.equivariance for name, each in metanets().items()}
    keeps = {row[0].strip("`"): row[1] for row in ROWS if len(row) == 4 and row[0].strip("`") in augmentations()}
    assert keeps == {name: each.keeps for name, each in augmentations().items()}


def test_contenders_in_commands_are_read() -> None:
    lines = [line for name in ("metanets.md", "leaderboards.md") for line in (DOCS / name).read_text().splitlines()]
    shown = [shlex.split(line) for line in lines if line.startswith("metazoo leaderboard")]
    texts = [words[k + 1] for words in shown for k, word in enumerate(words) if word == "--metanet"]
    assert len(texts) >= 3
    for text in texts:
        Contender.read(text)


def test_every_weight_task_has_its_command_in_the_docs() -> None:
    text = "".join((DOCS / name).read_text() for name in ("editing.md", "pretraining.md"))
    for name, each in weight_tasks().items():
        assert f"metazoo weight-task {name} " in text
        assert each.summary.endswith(".")
