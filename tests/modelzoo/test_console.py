"""Tables on narrow terminals."""

import io

import pytest
from rich.console import Console

from modelzoo import console


@pytest.mark.parametrize("width", [40, 80])
def test_what_rows_are_called_stays_in_one_piece(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=printed, width=width))
    console.print_table([{"name": "neuron_deepsets", "summary": "every neuron by its own weights, " * 5, "seeds": 3}])
    assert "neuron_deepsets" in printed.getvalue()
    assert max(map(len, printed.getvalue().splitlines())) <= width
