"""Compiling every kernel for GPUs that are not there, and what the compiler says about it.

    python -m modelzoo.kernels.ahead_of_time [--json] [--first] [OPERATION ...]

`--first` takes the first configuration of every kernel only. One row a configuration and target: registers of a thread, spilled bytes of a thread, shared memory of a program.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelzoo.kernels.registry import Configuration, Op, configurations

TARGETS = (80, 90)  # A100, H100


def compiled(op: Op, configuration: Configuration, capability: int) -> dict[str, Any]:
    """The row of one configuration for one target; raises what the compiler raises."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    absent = {name: None for name, dtype in configuration.pointers.items() if dtype is None}
    constants = {**configuration.constants, **absent}
    types = {name: f"*{dtype}" for name, dtype in configuration.pointers.items() if dtype is not None}
    types |= configuration.scalars
    signature = {name: types.get(name, "constexpr") for name in configuration.kernel.arg_names}
    source = ASTSource(configuration.kernel, signature=signature, constexprs=constants)
    options = {"num_warps": configuration.warps, "num_stages": configuration.stages, "enable_fp_fusion": True}
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, spilled = _resources(done.asm["cubin"])
    pointers = "/".join(dict.fromkeys(dtype for dtype in configuration.pointers.values() if dtype))
    return {
        "op": op.name,
        "kernel": configuration.kernel.fn.__name__,
        "configuration": " ".join([pointers, *(f"{name}={value}" for name, value in configuration.constants.items())]),
        "warps": configuration.warps,
        "target": f"sm_{capability}",
        "registers": registers,
        "spilled": spilled,
        "shared": done.metadata.shared,
    }


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory (where a compiler spills) of a thread."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump said nothing about registers: {text!r}")
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def report(names: Sequence[str] = (), first: bool = False) -> list[dict[str, Any]]:
    """Rows of every target and configuration (or of the first one of every kernel), of the named operations or of all."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("kernels are interpreted in this process; unset TRITON_INTERPRET to compile them")
    found = [(op, configuration) for op, configuration in configurations() if not names or op.name in names]
    if first:
        found = list({configuration.kernel.fn: (op, configuration) for op, configuration in reversed(found)}.values())
    return [compiled(op, configuration, target) for op, configuration in found for target in TARGETS]


if __name__ == "__main__":
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    for row in report(names, "--first" in sys.argv):
        print(json.dumps(row) if "--json" in sys.argv else row)
