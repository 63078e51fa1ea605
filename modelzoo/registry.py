"""Things of one kind by name, each registered in a file of its own somewhere in a package."""

import importlib
import pkgutil
from typing import TypeVar

from modelzoo.errors import UnknownNameError

Item = TypeVar("Item")


class Registry(dict[str, Item]):
    """What has been registered so far; `all` and `find` import every file of the package first.

    Args:
        kind: of the things, for messages.
        package: where their files are, searched with its subpackages.
        listing: the command that lists them, for messages.
    """

    def __init__(self, kind: str, package: str, listing: str = "") -> None:
        super().__init__()
        self.kind, self.package, self.listing = kind, package, listing
        self._imported = False

    def add(self, name: str, item: Item, file: str | None = None) -> None:
        """Register a thing.

        Args:
            name: its name.
            item: the thing.
            file: the module it comes from, where that must have the name.

        Raises:
            ValueError: the name is taken, or is not the file's.
        """
        if name in self:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        if file is not None and file.split(".")[-1] != name:
            raise ValueError(f"{self.kind} {name!r} must live in a file of its own name")
        self[name] = item

    def all(self) -> dict[str, Item]:
        """Every one by name, sorted."""
        if not self._imported:
            package = importlib.import_module(self.package)
            for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
                importlib.import_module(info.name)
            self._imported = True
        return dict(sorted(self.items()))

    def find(self, name: str) -> Item:
        """The one of that name; raises `UserError` with the nearest name when there is none."""
        known = self.all()
        if name not in known:
            raise UnknownNameError(self.kind, name, known, self.listing)
        return known[name]
