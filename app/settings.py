"""What the command tells the app: which zoo, and where the runs of metanets are."""

import os
from pathlib import Path

ZOO_VARIABLE = "METAZOO_APP_ZOO"
RUNS_VARIABLE = "METAZOO_APP_RUNS"


def zoo_path() -> str | None:
    """Path of the zoo that is shown, None when the app was started without one."""
    return os.environ.get(ZOO_VARIABLE)


def runs_path() -> Path | None:
    """Folder that holds the runs of metanets: the one that was named, else the one beside the zoo."""
    named = os.environ.get(RUNS_VARIABLE)
    if named:
        return Path(named)
    zoo = zoo_path()
    return None if zoo is None or "://" in zoo else Path(zoo).absolute().parent
