"""C++ sources: compiled once, kept, and what is said when that fails."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelzoo.errors import UserError
from modelzoo.kernels import native


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("METAZOO_CACHE", str(tmp_path / "cache"))
    native.library.cache_clear()
    yield tmp_path / "cache" / "native"
    native.library.cache_clear()


def source(folder: Path, text: str) -> Path:
    file = folder / "twice" / "compiled.cpp"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


TWICE = 'extern "C" int twice(int x) { return 2 * x; }'


def test_a_library_is_compiled_once_for_its_source(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert native.library(source(tmp_path, TWICE)).twice(21) == 42
    (file,) = cache.iterdir()
    assert file.name.startswith("twice-")
    native.library.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(native, "_compile", None)  # another process finds it there
        assert native.library(source(tmp_path, TWICE)).twice(4) == 8
    native.library.cache_clear()
    assert isinstance(native.library(source(tmp_path, TWICE.replace("2", "3"))), ctypes.CDLL)
    assert len(list(cache.iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert native.library(source(tmp_path, TWICE)).twice(5) == 10


def test_errors_are_one_sentence(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"cannot compile compiled.cpp \(.*error.*\); set METAZOO_BACKEND=reference"):
        native.library(source(tmp_path, "int broken("))
    assert not os.listdir(cache), "nothing half-written"
    monkeypatch.setattr(native, "compiler", lambda: "")
    with pytest.raises(UserError, match="there is no C"):
        native.library(source(tmp_path, TWICE))
