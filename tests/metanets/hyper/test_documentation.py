"""The page on hypernetworks: its example runs, and it names every hypernetwork and every row they implement."""

import re
from pathlib import Path

from metanets.hyper import hypernetworks, implemented_papers
from modelzoo.papers import catalogue

PAGE = (Path(__file__).parents[3] / "docs" / "hypernetworks.md").read_text(encoding="utf-8")


def test_the_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "docs/hypernetworks.md", "exec"), {})


def test_every_hypernetwork_and_row_is_on_the_page() -> None:
    for name, found in hypernetworks().items():
        assert f"| `{name}` | " in PAGE
        assert found.paper.title in PAGE
    for row in (*implemented_papers(), "S048"):
        assert f"| {row} | " in PAGE


def test_the_rows_are_implemented() -> None:
    done = {row["id"] for row in catalogue() if row["implemented by"]}
    assert {"S048", "S073", "S076", "S097", "S135", "S157", "S168", "S194"} <= done
