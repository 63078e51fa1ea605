"""The benchmark for GPUs without one: it refuses, its agreement check tells right from wrong, its sizes are what the tables say."""

import importlib
import os
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from benchmarks.harness import RESULTS
from metanets.kernels.axis_pool import axis_pool
from modelzoo.kernels.registry import VARIABLE, Op, Work, ops
from modelzoo.kernels.roofline import GPUS, roofline

SCRIPT = RESULTS.parent / "gpu.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """As it runs: beside the driver, with the path of operations forced by the environment."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.setenv(VARIABLE, "reference")
    return importlib.import_module("gpu")


TIMED = [op for op in ops().values() if "triton" in op.backends]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([]) == 1
    assert (
        capsys.readouterr().err
        == "There is no GPU that torch can use here: run this where torch.cuda.is_available().\n"
    )


def test_sides_are_compared_before_they_are_timed(script: ModuleType) -> None:
    op = ops()["axis_pool"]
    assert script.agree(op, torch.device("cpu"), "triton")

    def broken(weights: Tensor) -> tuple[Tensor, ...]:
        rows, columns, everywhere = axis_pool(weights)
        return rows, columns * (1.01 if os.environ[VARIABLE] == "triton" else 1), everywhere

    assert not script.agree(replace(op, function=broken), torch.device("cpu"), "triton")


@pytest.mark.parametrize("op", TIMED, ids=lambda op: op.name)
def test_typical_arguments_have_the_size_of_the_roofline(op: Op) -> None:
    """Everything that goes in and out, forward and backward, is counted; and not much more."""

    def size(tree: Any) -> int:
        tensors = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors if t.is_floating_point())

    assert op.work.arguments is not None
    with FakeTensorMode():
        arguments = op.work.arguments()
        moved = size(arguments) + size(op.function(*arguments))
    if op.differentiable:
        moved *= 2
    passed_on = size(arguments[0]) if op.name == "axis_broadcast" else 0  # its gradient is the output's
    assert moved - passed_on <= op.work.bytes <= 2 * moved


def test_the_roof_has_two_sides() -> None:
    bandwidth, speed = GPUS["A100"]
    assert roofline(Work("", bytes=bandwidth, flops=speed / 2), "A100") == (1.0, "memory")
    assert roofline(Work("", bytes=bandwidth / 2, flops=2 * speed), "A100") == (2.0, "arithmetic")
