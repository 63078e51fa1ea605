"""The empirical tangent kernel against the contraction of Jacobians made by torch.func and against neural-tangents, float32.

python benchmarks/ntk.py [--neural-tangents-python PATH] [--core CORE] [--json] [--write] [--small]
python benchmarks/ntk.py --threads COUNT [--json] [--write] [--small]

A perceptron 784-512-512-10 and a network of three convolutions with 32 channels on 8 × 8 pixels, full kernel and trace.
The Jacobians of 256 samples of the perceptron would take 7 GB, and twice that while they are multiplied, so against
torch.func both sides get 32 samples. neural-tangents is compared in its best mode (structured derivatives, vmap_axes=0,
jit), with all 256, where an interpreter that has it is named: jax and torch do not load into one process. 0.6.5 runs on
jax 0.4.23. With --core both sides are pinned to one core and use one thread. With --threads that many threads are
compared with one, in turns, and nothing else (kept in results/ntk_threads.csv): what counts is wall time on a machine
that is otherwise idle; --clock processor under OMP_WAIT_POLICY=passive shows what a second thread costs, on any.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Case, close, run, small
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from analysis.ntk.empirical import Form, empirical_kernel

SAMPLES = 6 if small() else 256
WIDTH, CHANNELS = (12, 4) if small() else (512, 32)
FEATURES, PIXELS, OUTPUTS = 20 if small() else 784, 8, 10
FEWER = 32  # samples of the perceptron, against torch.func
TOLERANCE = 3e-5  # of the largest entry: float32 sums over 400,000 parameters
EXACT = 1e-6  # where both sides multiply the same small matrices
SCRIPT = Path(__file__).parent / "peers" / "neural_tangents_kernel.py"
KINDS: dict[type[nn.Module], str] = {nn.Linear: "linear", nn.Conv2d: "convolution", nn.ReLU: "relu", nn.Flatten: "flatten"}  # fmt: skip


def perceptron() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    layers = (nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, OUTPUTS))
    return nn.Sequential(*layers), torch.randn(SAMPLES, FEATURES)


def convolutional() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for fan_in in (1, CHANNELS, CHANNELS):
        layers += [nn.Conv2d(fan_in, CHANNELS, 3, padding=1), nn.ReLU()]
    head = nn.Linear(CHANNELS * PIXELS**2, OUTPUTS)
    return nn.Sequential(*layers, nn.Flatten(), head), torch.randn(SAMPLES, 1, PIXELS, PIXELS)


def contraction(module: nn.Module, x: Tensor, form: Form) -> Tensor:
    """Whole Jacobians, one parameter at a time, contracted."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    jacobians = vmap(jacrev(lambda own, x: functional_call(module, own, (x[None],))[0]), (None, 0))(parameters, x)
    flat = [part.flatten(2) for part in jacobians.values()]  # [N, O, size]
    equation = "nop,mqp->nmoq" if form == "full" else "nop,mop->nm"
    return sum((torch.einsum(equation, part, part) for part in flat[1:]), torch.einsum(equation, flat[0], flat[0]))


def agree(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> bool:
    """Equal up to rounding, relative to the largest entry."""
    return close(0.0, tolerance * float(torch.as_tensor(theirs).abs().max()))(ours, theirs)


def against_torch(name: str, module: nn.Module, x: Tensor, form: Form) -> Case:
    return Case(
        f"{name}, {form}, N {len(x)}",
        lambda: empirical_kernel(module, x, form=form).values,
        lambda: contraction(module, x, form),
        agree,
        baseline_name="torch.func",
    )


def against_neural_tangents(name: str, module: nn.Sequential, x: Tensor, form: Form, peer: "NeuralTangents") -> Case:
    return Case(
        f"{name}, {form}, N {len(x)}",
        lambda: empirical_kernel(module, x, form=form).values,
        peer.kernel,
        partial(agree, tolerance=EXACT),
        baseline_name="neural-tangents",
        baseline_seconds=peer.seconds,
    )


class NeuralTangents:
    """neural-tangents on the same weights, in a process of its own."""

    def __init__(self, python: str, module: nn.Sequential, x: Tensor, form: Form, folder: Path) -> None:
        self.command = [python, str(SCRIPT), str(folder / "network.npz"), str(folder / "kernel.npy"), form]
        self.folder, self.process, self.last = folder, None, {}  # type: ignore[var-annotated]
        layers = {f"{place}.{name}": value.detach() for place, part in enumerate(module) for name, value in part.named_parameters()}  # fmt: skip
        arrays = {key: (value.T if key.endswith("weight") and value.ndim == 2 else value).numpy() for key, value in layers.items()}  # fmt: skip
        folder.mkdir()
        np.savez(folder / "network.npz", kinds=np.array([KINDS[type(part)] for part in module]), x=x.numpy(), **arrays)

    def kernel(self) -> Tensor:
        """Start the process, which compiles and computes the kernel once."""
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
        self.seconds("wall")
        return torch.from_numpy(np.load(self.folder / "kernel.npy"))

    def seconds(self, clock: str) -> float:
        """Of one more call."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{' '.join(self.command)} ended with code {self.process.wait()}; does that interpreter have jax and neural-tangents?")  # fmt: skip
        self.last = json.loads(answer)
        return float(self.last[clock])

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()


def peak_megabytes(network: str, form: str) -> float:
    """How far one kernel raises the peak memory of a fresh process."""
    command = [sys.executable, __file__, "--peak", network, form]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


NETWORKS = {"MLP": perceptron, "CNN": convolutional}
FORMS: tuple[Form, ...] = ("full", "trace")


def _peak(network: str, form: Form) -> None:
    module, x = NETWORKS[network]()
    empirical_kernel(module, x[:2], form=form)  # what loads on first use does not count
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    empirical_kernel(module, x, form=form)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def by_threads(network: str, form: Form, threads: int) -> Case:
    """The same kernel with several threads and with one."""
    module, x = NETWORKS[network]()

    def kernel(count: int) -> Tensor:
        torch.set_num_threads(count)
        return empirical_kernel(module, x, form=form).values

    return Case(
        f"{network}, {form}, N {len(x)}",
        partial(kernel, threads),
        partial(kernel, 1),
        agree,
        ours_name=f"{threads} threads",
        baseline_name="one thread",
    )


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--neural-tangents-python")
    parser.add_argument("--core", type=int)
    parser.add_argument("--threads", type=int)
    options, others = parser.parse_known_args()
    sys.argv[1:] = others
    if options.neural_tangents_python and not os.access(options.neural_tangents_python, os.X_OK):
        parser.error(f"{options.neural_tangents_python} is no program; name the interpreter that has neural-tangents")
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})  # the other process inherits it
        torch.set_num_threads(1)
    if options.threads is not None:
        if not 1 < options.threads <= len(os.sched_getaffinity(0)):
            parser.error(f"--threads {options.threads}: this process may use 2 to {len(os.sched_getaffinity(0))} cores")
        pairs = [by_threads(name, form, options.threads) for name in NETWORKS for form in FORMS]
        return run("ntk_threads", pairs, repeats=3)
    cases, notes, peers = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, build in NETWORKS.items():
            for form in FORMS:
                module, x = build()
                cases.append(against_torch(name, module, x[:FEWER] if name == "MLP" else x, form))
                if options.neural_tangents_python:
                    peer = NeuralTangents(options.neural_tangents_python, module, x, form, Path(folder) / f"{name} {form}")  # fmt: skip
                    peers.append(peer)
                    cases.append(against_neural_tangents(name, module, x, form, peer))
                if not small():
                    notes.append(f"added memory, {name} {form}: {peak_megabytes(name, form):.0f} MB")
        if not peers:
            notes.append("no comparison with neural-tangents: --neural-tangents-python names no interpreter")
        try:
            return run("ntk", cases, repeats=3, notes=notes)
        finally:
            for peer in peers:
                peer.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        _peak(sys.argv[2], sys.argv[3])  # type: ignore[arg-type]
    else:
        sys.exit(main())
