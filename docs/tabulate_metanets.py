"""The table of measured equivariance in docs/metanets.md: `python -m docs.tabulate_metanets`, from the project's folder.

It measures what tests/metanets/test_equivariance_sweep.py asserts, with the same models.
"""

import sys
import time

import torch

from metanets.metanet import Metanet, metanets
from modelzoo.errors import UserError
from tests.metanets.subjects import embeddings, error, models, moved, network, stack
from tests.metanets.test_equivariance_sweep import FAMILIES


def cell(found: Metanet, family: str) -> str:
    """The error under random elements of what is claimed (of permutations, where nothing is)."""
    before = models(family)
    try:
        net = network(found.name, before)
    except UserError:
        return "refused"
    claimed = "permutation" if found.equivariance == "none" else found.equivariance
    return f"{error(embeddings(net, before), embeddings(net, models(family, moved(family, claimed, 1)))):.0e}"


def control(found: Metanet) -> str:
    """The change under a permutation of one layer's neurons that the next layer does not follow."""
    before, stacked = models("siren"), stack("siren")
    net, order = network(found.name, before), torch.randperm(16, generator=torch.Generator().manual_seed(0))
    broken = {**stacked, "layers.1.weight": stacked["layers.1.weight"][:, :, order]}
    return f"{error(embeddings(net, before), embeddings(net, models('siren', broken))):.0e}"


def main() -> None:
    """Print the table."""
    print(f"| metanet | claims | {' | '.join(FAMILIES)} | control |")
    print(f"|---|---|{'---:|' * (len(FAMILIES) + 1)}")
    for name, found in metanets().items():
        start = time.monotonic()
        cells = [cell(found, family) for family in FAMILIES]
        print(f"| `{name}` | {found.equivariance} | {' | '.join(cells)} | {control(found)} |", flush=True)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
