"""Tangent kernels by neural-tangents in its best mode, for `benchmarks/ntk.py`; runs in an interpreter that has jax.

    python neural_tangents_kernel.py NETWORK.npz KERNEL.npy FORM

The archive holds the layers' `kinds`, their weights `0.weight`, `0.bias`, …, and the samples `x`. The kernel of one call is
written to the file; then every line on the standard input asks for one more call, answered by a line of JSON: its
seconds by both clocks, and how far calls have raised the peak memory, compilation included.
"""

import json
import os
import resource
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np


def main(network, file, form):
    archive = np.load(network)
    kinds = [str(kind) for kind in archive["kinds"]]
    layers = [
        {name: jnp.asarray(archive[key]) for name in ("weight", "bias") if (key := f"{place}.{name}") in archive}
        for place in range(len(kinds))
    ]
    x = jnp.asarray(archive["x"])

    def apply(parameters, x):
        for kind, own in zip(kinds, parameters, strict=True):
            if kind == "linear":  # [in, out]: the rules do not see through a transpose, which would cost gigabytes
                x = x @ own["weight"] + own["bias"]
            elif kind == "convolution":
                x = jax.lax.conv_general_dilated(x, own["weight"], (1, 1), "SAME") + own["bias"][:, None, None]
            elif kind == "relu":
                x = jax.nn.relu(x)
            else:
                x = x.reshape(len(x), -1)
        return x

    kernel = nt.empirical_ntk_fn(
        apply,
        trace_axes=() if form == "full" else (-1,),
        vmap_axes=0,
        implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
    )
    jitted = jax.jit(kernel)
    before = peak()
    values = np.asarray(jitted(x, None, layers).block_until_ready())
    np.save(file, values if form == "full" else values * apply(layers, x[:1]).shape[-1])  # it means over the trace
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        jitted(x, None, layers).block_until_ready()
        seconds = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        print(json.dumps({**seconds, "megabytes": peak() - before, "version": nt.__version__}), flush=True)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
