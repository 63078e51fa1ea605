"""The store contract, on every backend."""

from pathlib import Path

import pytest

from tests.modelzoo.store.contract import StoreContract


class TestLocalFolder(StoreContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return str(tmp_path / "deep" / "zoo")


class TestMemory(StoreContract):
    @pytest.fixture
    def place(self) -> str:
        return "memory://"
