"""The page on equivariant layers: its examples run, its pictures are those that the code draws; papers are declared."""

import re
from pathlib import Path

import metanets.equivariant as package
from metanets.equivariant.__main__ import pictures
from modelzoo.papers import catalogue

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "equivariant.md").read_text(encoding="utf-8")


def test_examples_run() -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) >= 3
    for example in examples:
        exec(compile(example, "docs/equivariant.md", "exec"), {})


def test_pictures_are_current() -> None:
    shown = set(re.findall(r"images/equivariant/(\w+\.svg)", PAGE))
    drawn = pictures()
    assert shown == set(drawn)
    for name, document in drawn.items():
        assert (DOCS / "images" / "equivariant" / name).read_text(encoding="utf-8") == document


def test_rows_of_papers_exist_and_names_are_public() -> None:
    rows = {row["id"] for row in catalogue()}
    for row, names in package.implemented_papers().items():
        assert row in rows
        assert all(name.split("(")[0] in package.__all__ for name in names)
