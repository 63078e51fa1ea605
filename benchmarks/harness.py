"""The driver of every benchmark: check that both sides agree, then time them in turns, then print.

A benchmark script is a list of `Case`s and one call of `run`:

    python benchmarks/store.py            # a table
    python benchmarks/store.py --json     # one JSON object a line, the last one is the summary
    python benchmarks/store.py --write    # and keep the numbers, with machine and versions, in results/store.csv

It exits with 1, and times nothing, when the two sides of a case disagree.
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass(frozen=True)
class Case:
    """One comparison at one size.

    Args:
        name: what is measured and how large it is ("scan 10,000 SIRENs").
        ours: `() -> result`, our side.
        baseline: `() -> result`, the best a peer does on the same input.
        agree: `(ours, baseline) -> bool`, whether both results are the same; see `equal` and `close`.
        work: units of work in one call (models, samples): speed is reported as `work` a second. None reports milliseconds.
        baseline_work: the same for the baseline, where it is timed on fewer units because it is slow; None for as many.
        unit: of the reported number ("models/s", "ms").
        memory: whether the peak memory of both sides is measured too.
        ours_name: how our side is called in the table.
        baseline_name: how the other side is called.
        baseline_seconds: `clock -> seconds` of one call of the baseline where another process makes it; None to time
            `baseline`, which else is called for its result only.
        megabytes: `() -> (ours, baseline)` where the peak memory is more than that of torch's tensors.
    """

    name: str
    ours: Callable[[], Any]
    baseline: Callable[[], Any]
    agree: Callable[[Any, Any], bool]
    work: float | None = None
    baseline_work: float | None = None
    unit: str = "ms"
    memory: bool = False
    ours_name: str = "ours"
    baseline_name: str = "baseline"
    baseline_seconds: Callable[[str], float] | None = None
    megabytes: Callable[[], tuple[float, float]] | None = None

    def numbers(self, ours: float, baseline: float) -> tuple[float, float, float]:
        """The reported numbers of both sides for one call's seconds, and how many times better ours is."""
        if self.work is None:
            return 1000 * ours, 1000 * baseline, baseline / ours
        mine, theirs = self.work / ours, (self.baseline_work or self.work) / baseline
        return mine, theirs, mine / theirs


def small() -> bool:
    """Whether `--small` is asked for; scripts choose their sizes by it."""
    return "--small" in sys.argv


def equal(ours: Any, baseline: Any) -> bool:
    """Whether two nested results of tensors and arrays are equal bit for bit (NaN equals NaN)."""
    if isinstance(ours, Mapping):
        return set(ours) == set(baseline) and all(equal(ours[key], baseline[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(baseline) and all(map(equal, ours, baseline))
    a, b = np.asarray(ours), np.asarray(baseline)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def close(rtol: float, atol: float = 0.0) -> Callable[[Any, Any], bool]:
    """A check that two nested results of tensors and arrays are equal within a tolerance."""

    def check(ours: Any, baseline: Any) -> bool:
        if isinstance(ours, Mapping):
            return set(ours) == set(baseline) and all(check(ours[key], baseline[key]) for key in ours)
        if isinstance(ours, list | tuple):
            return len(ours) == len(baseline) and all(map(check, ours, baseline))
        a, b = torch.as_tensor(ours), torch.as_tensor(baseline)
        return a.shape == b.shape and torch.allclose(a, b, rtol=rtol, atol=atol)

    return check


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(compute: Callable[..., Tensor | tuple[Tensor, ...]], *inputs: Tensor) -> Callable[[], list[Tensor]]:
    """A call that returns outputs, and the gradients of all inputs for fixed gradients of the outputs."""
    given: list[Tensor] = []

    def call() -> list[Tensor]:
        own = [tensor.detach().requires_grad_() for tensor in inputs]
        result = compute(*own)
        outputs = [result] if isinstance(result, Tensor) else list(result)
        if not given:
            given.extend(random(*output.shape, seed=-1 - i).to(output) for i, output in enumerate(outputs))
        return [*(output.detach() for output in outputs), *torch.autograd.grad(outputs, own, given)]

    return call


def run(name: str, cases: Sequence[Case], repeats: int = 5, notes: Sequence[str] = ()) -> int:
    """Check and time all cases, print the results, and return the exit code.

    Args:
        name: of the benchmark.
        cases: what to compare.
        repeats: timed calls a side; the median counts. Both sides take turns, so that drift of the machine hits both.
        notes: sentences printed under the table.
    """
    parser = argparse.ArgumentParser(description=f"benchmark {name}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, the last one is the summary")
    parser.add_argument(
        "--small", action="store_true", help="tiny sizes, to see that it runs; its numbers mean nothing"
    )
    parser.add_argument("--write", action="store_true", help=f"keep the numbers in {RESULTS.name}/{name}.csv")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor time of this process is steadier on a busy machine"
    )
    parser.add_argument("--repeats", type=int, default=repeats, help="timed calls a side (default %(default)s)")
    options = parser.parse_args()
    rows = [_measure(case, max(options.repeats, 1), options.clock) for case in cases]
    agreed = all(row["agree"] for row in rows)
    worst = min(rows, key=lambda row: row["ratio"] if row["agree"] else -1)
    summary = {"name": name, **{key: worst[key] for key in ("ours", "baseline", "unit", "ratio")}, "agree": agreed}
    if options.write and agreed:
        write_results(name, rows, clock=options.clock, repeats=options.repeats)
    if options.json:
        for line in (*rows, summary):
            print(json.dumps(line))
    else:
        _print(name, cases, rows, notes)
    return 0 if agreed else 1


def write_results(name: str, rows: Sequence[Mapping[str, Any]], **how: Any) -> Path:
    """Keep the rows of a benchmark as `results/<name>.csv`, each with how it was measured, machine and versions."""
    where = {"date": f"{pd.Timestamp.now('UTC'):%Y-%m-%d}", "commit": _commit(), **machine()}
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.csv"
    pd.DataFrame([{**row, **how, **where} for row in rows]).to_csv(file, index=False, float_format="%.5g")
    return file


def machine() -> dict[str, Any]:
    """Processor, graphics processor if there is one, threads and versions."""
    models = [line.split(":")[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def _commit() -> str:
    command = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def peak_megabytes(call: Callable[[], Any]) -> float:
    """How far one call raises the tensors allocated by torch on the CPU, at its peak."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(0, *np.cumsum(sizes)) / 2**20 if sizes else 0.0


def alive_megabytes(call: Callable[[], Any]) -> float:
    """An upper bound of what one call holds at once: the peak of tensors and that of arrays and other objects, added."""
    arrays = 0

    def traced() -> None:
        nonlocal arrays
        tracemalloc.start()
        call()
        arrays = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    return peak_megabytes(traced) + arrays / 2**20


def _measure(case: Case, repeats: int, clock: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": case.name, "ours": None, "baseline": None, "unit": case.unit, "ratio": 0.0}
    if not case.agree(case.ours(), case.baseline()):  # also warms up both sides
        return {**row, "agree": False}
    times: dict[str, list[float]] = {"ours": [], "baseline": []}
    for _ in range(repeats):
        for side, call in (("baseline", case.baseline), ("ours", case.ours)):
            gc.collect()
            if side == "baseline" and case.baseline_seconds is not None:
                times[side].append(case.baseline_seconds(clock))
                continue
            started = CLOCKS[clock]()
            call()
            times[side].append(CLOCKS[clock]() - started)
    if case.megabytes is not None:
        row |= dict(zip(("ours_megabytes", "baseline_megabytes"), case.megabytes(), strict=True))
    elif case.memory:
        row |= {"ours_megabytes": peak_megabytes(case.ours), "baseline_megabytes": peak_megabytes(case.baseline)}
    ours, baseline, ratio = case.numbers(*(statistics.median(times[side]) for side in ("ours", "baseline")))
    return {**row, "ours": ours, "baseline": baseline, "ratio": ratio, "agree": True}


def _print(name: str, cases: Sequence[Case], rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> None:
    table = Table(title=f"{name} ({torch.get_num_threads()} threads, torch {torch.__version__})", title_justify="left")
    for column, justify in (("case", "left"), ("unit", "left"), ("ours", "right"), ("baseline", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("times better", justify="right")
    if any(case.memory or case.megabytes for case in cases):
        table.add_column("peak MB", justify="right")
    for case, row in zip(cases, rows, strict=True):
        if not row["agree"]:
            table.add_row(case.name, case.unit, "", "", "[red]the two sides disagree[/]")
            continue
        ours, baseline = (f"{row[side]:,.4g} [dim]{label}[/]" for side, label in (("ours", case.ours_name), ("baseline", case.baseline_name)))  # fmt: skip
        memory = f"{row['ours_megabytes']:.3g} / {row['baseline_megabytes']:.3g}" if "ours_megabytes" in row else ""
        table.add_row(
            case.name, case.unit, ours, baseline, f"{row['ratio']:.3g} ×", *[memory] * (len(table.columns) - 5)
        )
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note)
