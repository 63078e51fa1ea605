"""C++ of our own, compiled for the processor at hand on first use and kept in the user's cache folder."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from modelzoo.errors import UserError
from modelzoo.user_cache import cache_folder

# No -ffast-math: NaN must stay NaN. Contraction to fused multiply-add is most of the speed.
HEADERS = Path(__file__).parent
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fno-math-errno",
    "-ffp-contract=fast",
    "-pthread",
    f"-I{HEADERS}",
)


@cache
def compiler() -> str:
    """The C++ compiler's path (the environment variable CXX first), empty if there is none."""
    found = (shutil.which(name) for name in (os.environ.get("CXX") or "c++", "g++", "clang++"))
    return next((path for path in found if path), "")


@cache
def library(source: Path) -> ctypes.CDLL:
    """The shared library of one source file.

    It is compiled once for a source with the headers beside this module, compiler and processor: its name in the cache is the hash of them.

    Raises:
        UserError: there is no compiler, or it fails.
    """
    if not compiler():
        raise UserError("there is no C++ compiler; install g++, or set METAZOO_BACKEND=reference.")
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    sources = [file.read_text() for file in (source, *sorted(HEADERS.glob("*.hpp")))]
    key = hashlib.sha256("\0".join([*sources, *FLAGS, compiler(), version, processor()]).encode())
    file = cache_folder("native") / f"{source.parent.name}-{key.hexdigest()[:32]}.so"
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _compile(source, file)
        except OSError:  # no room or no permission to keep it: for this process alone
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / file.name
                _compile(source, file)
                return ctypes.CDLL(str(file))
    return ctypes.CDLL(str(file))


def structure(*fields: Tensor | int | None) -> "ctypes.Array[ctypes.c_int64]":
    """A struct of whole numbers and of pointers to tensors, to nothing for None or a tensor without entries."""
    values = (field.data_ptr() if isinstance(field, Tensor) else field or 0 for field in fields)
    return (ctypes.c_int64 * len(fields))(*values)


def single_precision(part: str, x: Tensor, *rest: object) -> str:
    """Why a path of float32 alone, as zoos are trained, does not take these arguments; empty if it does."""
    return "" if x.dtype == torch.float32 else "it is for float32"


def _compile(source: Path, file: Path) -> None:
    """Compile beside the target and rename, so that no other process loads half a library."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
    os.close(handle)
    try:
        done = subprocess.run(
            [compiler(), *FLAGS, "-o", temporary, source], capture_output=True, text=True, check=False
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
            raise UserError(f"{compiler()} cannot compile {source.name} ({first}); set METAZOO_BACKEND=reference.")
        os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)


@cache
def processor() -> str:
    """What -march=native depends on; a cache folder may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    model = next((line for line in lines if line.startswith("model name")), platform.processor())
    return f"{platform.machine()} {model} {features}"
