"""One training step of every metanet on SIRENs 2-32-32-1: a batch on one shared graph against one model after another.

    python benchmarks/metanet_step.py [--json] [--small]

Zero gradients, forward, backward, in the network's default configuration. Both sides are the same network, so outputs and
gradients must agree.
"""

import sys
from dataclasses import replace

import torch
from harness import Case, close, run, small
from torch import Tensor

import graphs
from metanets.batching import ModelFunction, Models, Topology
from metanets.metanet import MetanetModule, metanets
from modelzoo.family import family
from modelzoo.task import task

MODELS, FEW = (3, 2) if small() else (64, 4)


def sirens() -> Models:
    siren = family("siren")
    inputs = task(siren.task).example_inputs()
    config = siren.configure(task(siren.task), siren.tiny if small() else {})
    made = [siren.build(config, seed) for seed in range(MODELS)]
    group = graphs.infer(graphs.trace(made[0], inputs))
    structure = graphs.graph_structure(group)
    tensors = {name: torch.stack([dict(m.named_parameters())[name].detach() for m in made]) for name, _ in made[0].named_parameters()}  # fmt: skip
    function = ModelFunction(made[0], tensors, tuple(inputs[0].shape[1:]))
    return Models(Topology.of_group(group, structure), structure.values(tensors).T.contiguous(), function)


def part(models: Models, which: slice) -> Models:
    function = models.function
    assert function is not None
    tensors = {name: tensor[which] for name, tensor in function.tensors.items()}
    return replace(models, values=models.values[:, which], function=replace(function, tensors=tensors))


def step(network: MetanetModule, batches: list[Models]) -> list[Tensor]:
    """Outputs; the gradients of their mean square are left in the network."""
    network.zero_grad()
    outputs = []
    for models in batches:
        found = network.embed(models)
        found.learned.square().sum().backward()
        outputs.append(found.outputs.detach())
    return outputs


def case(name: str, models: Models) -> Case:
    found = metanets()[name]
    network = found.build(found.configure({"outputs": 10, **found.adapt([models], {})}), 0).eval()
    network.calibrate([models])
    few, singles = part(models, slice(FEW)), [part(models, slice(index, index + 1)) for index in range(FEW)]

    def agree(ours: list[Tensor], theirs: list[Tensor]) -> bool:
        gradients = []
        for batches in ([few], singles):
            step(network, batches)
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        size = float(gradients[1].norm())
        return close(1e-3, 1e-4)(ours[0][:FEW], torch.cat(theirs)) and close(0.0, 1e-3 * size)(*gradients)

    size = sum(p.numel() for p in network.parameters())
    return Case(
        f"{name}, {size:,} parameters", lambda: step(network, [models]), lambda: step(network, singles), agree, work=MODELS,
        baseline_work=FEW, unit="models/s", ours_name=f"batch of {MODELS}", baseline_name="one by one",
    )  # fmt: skip


if __name__ == "__main__":
    models = sirens()
    sys.exit(run("metanet_step", [case(name, models) for name in metanets()], repeats=3))
