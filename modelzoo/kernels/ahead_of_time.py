"""Compiling every kernel for GPUs that are not there, and what the compiler says about it.

    python -m modelzoo.kernels.ahead_of_time [--json] [--first] [OPERATION ...]

`--first` takes the first configuration of every operation only.
One row a configuration and target: registers and spilled bytes of a thread, shared memory of a program.
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
    registers, spilled = _resources(done.asm["cubin"], done.asm["ptx"], capability)
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


def _resources(cubin: bytes, ptx: str, capability: int) -> tuple[int, int]:
    """Registers and spilled bytes of a thread."""
    import triton.backends.nvidia
    from triton.backends.nvidia.compiler import get_ptxas

    tools = Path(triton.backends.nvidia.__file__).parent / "bin"
    with tempfile.TemporaryDirectory() as folder:
        binary, source = Path(folder) / "kernel.cubin", Path(folder) / "kernel.ptx"
        binary.write_bytes(cubin)
        text = _printed(tools / "cuobjdump", "-res-usage", binary)
        registers, stack, local = _numbers(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)", text)
        if stack + local == 0:
            return registers, 0
        # Local memory also holds arrays, as the reduction of large arguments of a sine does: ask the assembler.
        source.write_text(ptx)
        architecture = re.search(r"\.target (\w+)", ptx)
        if architecture is None:
            raise RuntimeError("the assembler's input names no target")
        text = _printed(get_ptxas(capability).path, "-v", f"--gpu-name={architecture[1]}", source, "-o", binary)
        return registers, _numbers(r"(\d+) bytes spill stores", text)[0]


def _printed(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr}")
    return done.stdout + done.stderr


def _numbers(pattern: str, text: str) -> tuple[int, ...]:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"the compiler's tools did not print {pattern!r}: {text!r}")
    return tuple(map(int, found.groups()))


def report(names: Sequence[str] = (), first: bool = False) -> list[dict[str, Any]]:
    """Rows of every target and configuration (or the first of every operation), of the named operations or of all."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("kernels are interpreted in this process; unset TRITON_INTERPRET to compile them")
    found = [(op, configuration) for op, configuration in configurations() if not names or op.name in names]
    if first:
        found = list({op.name: (op, configuration) for op, configuration in reversed(found)}.values())
    return [compiled(op, configuration, target) for op, configuration in found for target in TARGETS]


if __name__ == "__main__":
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    for row in report(names, "--first" in sys.argv):
        print(json.dumps(row) if "--json" in sys.argv else row)
