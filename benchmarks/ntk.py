"""The empirical tangent kernel against the contraction of Jacobians made by torch.func, float32.

python benchmarks/ntk.py [--json] [--small]

A perceptron 784-512-512-10 and a network of three convolutions with 32 channels on 8 × 8 pixels, full kernel and trace.
The Jacobians of 256 samples of the perceptron would take 7 GB, and twice that while they are multiplied, so there both
sides get 32 samples. Where jax and neural-tangents are installed (0.6.5 runs on jax 0.4.23) its structured derivatives
with vmap_axes=0 under jit are the baseline of four more cases, with all 256.
"""

import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

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


def agree(ours: Any, theirs: Any) -> bool:
    """Equal up to rounding, relative to the largest entry."""
    return close(0.0, TOLERANCE * float(torch.as_tensor(theirs).abs().max()))(ours, theirs)


def against_torch(name: str, module: nn.Module, x: Tensor, form: Form) -> Case:
    return Case(
        f"{name}, {form}, N {len(x)}",
        lambda: empirical_kernel(module, x, form=form).values,
        lambda: contraction(module, x, form),
        agree,
        baseline_name="torch.func",
    )


def against_neural_tangents(name: str, module: nn.Sequential, x: Tensor, form: Form) -> Case:
    return Case(
        f"{name}, {form}, N {len(x)}",
        lambda: empirical_kernel(module, x, form=form).values,
        structured_derivatives(module, x, form),
        agree,
        baseline_name="neural-tangents",
    )


def structured_derivatives(module: nn.Sequential, x: Tensor, form: Form) -> Callable[[], Tensor]:
    """neural-tangents in its best mode, on the same weights."""
    import jax
    import jax.numpy as jnp
    import neural_tangents as nt
    import numpy as np

    # matrices as [in, out]: its rules do not see through a transpose, which costs it gigabytes
    layers = [
        {name: jnp.asarray((value.detach().T if isinstance(part, nn.Linear) and value.ndim == 2 else value.detach()).numpy())
         for name, value in part.named_parameters()}
        for part in module
    ]  # fmt: skip

    def apply(parameters: list[dict[str, Any]], x: Any) -> Any:
        for part, own in zip(module, parameters, strict=True):
            if isinstance(part, nn.Linear):
                x = x @ own["weight"] + own["bias"]
            elif isinstance(part, nn.Conv2d):
                x = jax.lax.conv_general_dilated(x, own["weight"], (1, 1), "SAME") + own["bias"][:, None, None]
            elif isinstance(part, nn.ReLU):
                x = jax.nn.relu(x)
            else:
                x = x.reshape(len(x), -1)
        return x

    kernel = nt.empirical_ntk_fn(
        apply, trace_axes=() if form == "full" else (-1,), vmap_axes=0,
        implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
    )  # fmt: skip
    jitted, data = jax.jit(kernel), jnp.asarray(x.numpy())
    scale = 1 if form == "full" else OUTPUTS  # neural-tangents means over the trace axes

    def call() -> Tensor:
        return torch.from_numpy(np.array(jitted(data, None, layers).block_until_ready())) * scale

    return call


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


def main() -> int:
    cases, notes = [], []
    jax = find_spec("jax") is not None and find_spec("neural_tangents") is not None
    for name, build in NETWORKS.items():
        for form in FORMS:
            module, x = build()
            cases.append(against_torch(name, module, x[:FEWER] if name == "MLP" else x, form))
            if jax:
                cases.append(against_neural_tangents(name, *build(), form))
            if not small():
                notes.append(f"added memory, {name} {form}: {peak_megabytes(name, form):.0f} MB")
    if not jax:
        notes.append("neural-tangents is not installed: no comparison with it")
    return run("ntk", cases, repeats=3, notes=notes)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        _peak(sys.argv[2], sys.argv[3])  # type: ignore[arg-type]
    else:
        sys.exit(main())
