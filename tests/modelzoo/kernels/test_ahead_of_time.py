"""Every kernel compiles for sm_80 and sm_90 without a GPU, and spills nothing."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from modelzoo.kernels.ahead_of_time import report
from modelzoo.kernels.registry import ops


def compiled(*arguments: str) -> list[dict[str, Any]]:
    """In a process of its own: in this one kernels are interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "modelzoo.kernels.ahead_of_time", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(rows: list[dict[str, Any]]) -> None:
    seen = {(row["op"], row["target"]) for row in rows}
    assert seen == {(name, t) for name, op in ops().items() if "triton" in op.backends for t in ("sm_80", "sm_90")}
    for row in rows:
        assert row["spilled"] == 0, row
        assert 0 < row["registers"] <= 255
        assert row["shared"] <= 163 * 1024, "of one program on an A100"


def test_the_first_configuration_of_every_operation_compiles() -> None:
    check(compiled("--first"))


@pytest.mark.slow
def test_every_configuration_compiles() -> None:
    check(compiled())


def test_interpreted_kernels_are_not_taken_for_compiled_ones() -> None:
    with pytest.raises(RuntimeError, match="unset TRITON_INTERPRET"):
        report()
