"""The README's promises: its Python runs, its commands exist, its links and those of the docs lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from modelzoo.cli import assemble

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_python_example_runs_and_is_short() -> None:
    (example,) = blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    run = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    *rows, error = run.stdout.splitlines()
    assert any("GL" in row for row in rows), "the attention heads' linear freedom is found"
    assert float(error) < 1e-3


def test_every_command_shown_exists_with_its_options() -> None:
    root = typer.main.get_command(assemble())
    shown = [
        line.split("#")[0] for block in blocks("console") for line in block.splitlines() if line.startswith("metazoo ")
    ]
    assert len(shown) >= 6
    for line in shown:
        _, name, *arguments = shlex.split(line)
        command = root.commands[name]  # type: ignore[attr-defined]
        known = {option for parameter in command.params for option in parameter.opts}
        for argument in arguments:
            if argument.startswith("--"):
                assert argument in known, f"{name} has no option {argument}"


def test_make_targets_and_links_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", TEXT, re.MULTILINE):
        assert f"\n{target}:" in makefile
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / link).exists(), link


def anchors(page: Path) -> set[str]:
    """Of its headings, as they are made on GitHub."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_links_of_the_docs_lead_somewhere(page: Path) -> None:
    for name, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), anchor
