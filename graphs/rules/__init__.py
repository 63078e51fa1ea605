"""One small rule per ATen op: the labels of its outputs from those of its inputs.

A rule is `(walk, op) -> Labels`, or a list of them for ops with several outputs; it ties, pins and splits labels
through `walk.algebra`. Rules are found by the operator's full name (`aten.max.dim`), then without its overload
(`aten.max`); every other operator that ATen itself tags as pointwise follows one common rule.
"""

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from graphs.program import Op

if TYPE_CHECKING:
    from graphs.labels import Walk

Rule = Callable[["Walk", Op], Any]  # Labels, or a list of them

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of some operators; a second rule for one operator raises `ValueError`."""

    def add(function: Rule) -> Rule:
        for name in names:
            if name in _RULES:
                raise ValueError(f"operator {name!r} has two rules")
            _RULES[name] = function
        return function

    return add


@cache
def rules() -> dict[str, Rule]:
    """Every rule by operator name, sorted."""
    for info in pkgutil.iter_modules(__path__, __name__ + "."):
        importlib.import_module(info.name)
    return dict(sorted(_RULES.items()))


def rule_of(op: Op) -> Rule | None:
    """The rule of an operator, None when there is none."""
    known = rules()
    found = known.get(op.target) or known.get(op.name)
    tags = getattr(op.overload, "tags", ())
    if found is None and torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags:
        return known["pointwise"]
    return found


def covered() -> list[dict[str, str]]:
    """One row for every operator with a rule: its name, the file of its rule, and what the rule says."""
    return [
        {
            "operator": name,
            "subject": function.__module__.rsplit(".", 1)[-1],
            "rule": (function.__doc__ or "").splitlines()[0].rstrip("."),
        }
        for name, function in rules().items()
    ]
