"""Finding a symmetry group against exporting the module at all; and applying an element to a population at once.

python benchmarks/symmetry.py [--json] [--small]

The encoder has the shape of MiniLM: 22.7 million parameters, 6 post-norm layers of width 384 with 12 heads.
"""

import sys
from collections.abc import Callable

import torch
from harness import Case, alive_megabytes, close, run, small
from torch import Tensor, nn

import graphs
from modelzoo.family import family
from modelzoo.task import task


class Encoder(nn.Module):
    """Token and position embeddings, transformer layers, and a pooler.

    Args:
        layers: how many.
        width: of the stream.
        heads: of every attention.
        tokens: rows of the embedding.
    """

    def __init__(self, layers: int, width: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(tokens, width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True) for _ in range(layers)
        )
        self.pooler = nn.Linear(width, width)

    def forward(self, words: Tensor) -> Tensor:  # [B, T] -> [B, width]
        x = self.norm(self.tokens(words) + self.positions(torch.arange(words.shape[1])))
        for layer in self.layers:
            x = layer(x)
        return torch.tanh(self.pooler(x[:, 0]))


def group_of(module: nn.Module, inputs: tuple[Tensor, ...]) -> graphs.SymmetryGroup:
    return graphs.infer(graphs.trace(module, inputs))


def against_export(name: str, *sizes: int) -> Case:
    """Trace and group of an encoder against its export; they agree on the parameters there are."""
    module, inputs = Encoder(*sizes), (torch.randint(0, 50, (2, 6)),)

    def ours() -> set[str]:
        return set(group_of(module, inputs).program.parameters)

    def exported() -> set[str]:
        program = torch.export.export(module, inputs, strict=False).run_decompositions()
        return set(program.graph_signature.parameters)

    def megabytes() -> tuple[float, float]:
        """What is alive at the peak while the group is found (tensors, arrays, objects), and the weights."""
        program = graphs.trace(module, inputs)
        alive = alive_megabytes(lambda: graphs.infer(program))
        weights = sum(parameter.nbytes for parameter in module.parameters())
        return alive, weights / 2**20

    return Case(
        name, ours, exported, lambda a, b: a == b,
        ours_name="trace + group", baseline_name="torch.export", megabytes=megabytes,
    )  # fmt: skip


def by_depth(few: int, many: int, width: int) -> Case:
    """Operators a second of a deep encoder against a shallow one: 1 when time is linear in their number."""
    inputs = (torch.randint(0, 50, (2, 6)),)
    shallow, deep = (Encoder(layers, width, 4, 100) for layers in (few, many))
    counts = [len(graphs.trace(module, inputs).ops) for module in (shallow, deep)]

    def finding(module: nn.Module) -> Callable[[], tuple[int, int]]:
        def call() -> tuple[int, int]:
            group = group_of(module, inputs)
            return len(group.factors), len(group.unknown_ops)

        return call

    return Case(
        f"{many} layers of width {width}", finding(deep), finding(shallow),
        lambda a, b: a[0] > b[0] and a[1] == b[1] == 0, counts[1], counts[0], "operators/s",
        ours_name=f"{many} layers", baseline_name=f"{few} layers",
    )  # fmt: skip


def on_population(models: int) -> Case:
    """One element applied to stacked SIRENs against one model after the other."""
    siren = family("siren")
    module = siren.build(siren.configure(task(siren.task), {}), 0)
    group = graphs.symmetry(module, (torch.randn(4, 2),), verify=False)
    element = group.sample(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    stacked = {n: torch.randn(models, *p.shape, generator=generator) for n, p in module.named_parameters()}

    def one_by_one() -> dict[str, Tensor]:
        moved = [element.apply({n: t[i] for n, t in stacked.items()}) for i in range(models)]
        return {name: torch.stack([one[name] for one in moved]) for name in stacked}

    return Case(
        f"one element on {models:,} SIRENs", lambda: {n: element.apply(stacked)[n] for n in stacked}, one_by_one,
        close(1e-6, 1e-7), models, None, "models/s", ours_name="stacked", baseline_name="one by one",
    )  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(0)
    if small():
        cases = [against_export("encoder, 1 layer", 1, 8, 2, 50), by_depth(1, 2, 8), on_population(10)]
    else:
        cases = [
            against_export("encoder of 22.7 M parameters", 6, 384, 12, 30_522),
            by_depth(2, 6, 96),
            on_population(1_000),
        ]
    note = "Against torch.export the ratio is how much of our time the export alone would take; by depth it is 1 when time is linear."
    memory = "Peak MB: what is alive while the group is found (an upper bound: peaks of tensors and of arrays added), and the weights."
    sys.exit(run("symmetry", cases, repeats=3, notes=[note, memory]))
