"""The C++ compiler that the compiled paths need. As a script: make sure that there is one, or say in one sentence what to do."""

import os
import shutil
import subprocess

from modelzoo.kernels.native import compiler

MISSING = (
    "there is no C++ compiler for the compiled paths and none could be installed; install one (apt-get install g++) and "
    "run the tests again."
)


def provide() -> str:
    """Path of a C++ compiler, installed by the system's package manager as root if need be; empty if there is none."""
    if not compiler() and os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (
            ["apt-get", "update"],
            ["apt-get", "install", "-y", "--no-install-recommends", "g++", "libc6-dev"],
        ):
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        compiler.cache_clear()
    return compiler()


if __name__ == "__main__":
    found = provide()
    print(f"compiled paths use {found}" if found else MISSING)  # the tests fail with the same sentence
