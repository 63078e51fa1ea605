"""Choices that only a measurement can make, remembered in the user's cache folder.

None of them changes which models come from a seed, float rounding aside: they are about speed.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from modelzoo.kernels.native import processor
from modelzoo.user_cache import cache_folder

Choice = TypeVar("Choice", int, str)
BUDGET = 1.0  # seconds that one may take


def fastest(
    question: Mapping[str, Any], candidates: Sequence[Choice], once: Callable[[Choice], Callable[[], float]]
) -> Choice:
    """The candidate that needs the least time, from the cache or else measured.

    Args:
        question: what is asked, in words JSON can hold; machine, threads and torch are added to it.
        candidates: what may be answered; with one, nothing is measured.
        once: prepares a candidate; calling what it returns works once and returns the units of work.
    """
    if len(candidates) == 1:
        return candidates[0]
    whole = {**question, "candidates": list(candidates), "threads": torch.get_num_threads(), "torch": torch.__version__, "processor": processor()}  # fmt: skip
    text = json.dumps(whole, sort_keys=True)
    file = cache_folder("tuning") / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    try:
        answer = json.loads(file.read_text())["fastest"]
        if answer in candidates:
            return next(candidate for candidate in candidates if candidate == answer)
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not ours: measure
        pass
    seconds = measure(candidates, once)
    best = min(seconds, key=lambda candidate: seconds[candidate])
    record = {**question, "fastest": best, "seconds": {str(candidate): own for candidate, own in seconds.items()}}
    _keep(file, json.dumps(record, indent=1))
    return best


def clock() -> float:
    """Seconds: of this process where it computes on one thread, which does not mind a busy machine, else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def measure(candidates: Sequence[Choice], once: Callable[[Choice], Callable[[], float]]) -> dict[Choice, float]:
    """Least seconds for a unit of work of the candidates, which take turns until the budget is spent; preparing is free.

    A candidate that was twice as slow as the best one does not come again; one that the budget never reached is left out.
    """
    calls: dict[Choice, Callable[[], float]] = {}
    seconds: dict[Choice, float] = {}
    spent = 0.0

    def work(candidate: Choice) -> float:
        before = clock()
        units = calls[candidate]()
        needed = clock() - before
        seconds[candidate] = min(seconds.get(candidate, float("inf")), needed / units)
        return needed

    for candidate in candidates:
        if spent < BUDGET:
            calls[candidate] = once(candidate)
            spent += work(candidate)
    while spent < BUDGET:
        for candidate in calls:
            if seconds[candidate] <= 2 * min(seconds.values()):
                spent += work(candidate)
    return seconds


def _keep(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
        os.replace(temporary, file)
    except OSError:  # no room or no permission: measured again next time
        pass
