"""Errors that a user can cause and can mend: one clear sentence, never a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What the user asked for cannot be done; the message is one sentence that names what was wrong and what to do.

    The command line prints the message alone and exits with `exit_code`.

    Args:
        message: one sentence: the name in quotes, what was expected, what was met, then the remedy.
        exit_code: 1 for a request that failed, 2 for a request that could not be understood.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UnknownNameError(UserError):
    """A name that is not among the known ones; the message suggests the nearest.

    Args:
        kind: what the name names, as a noun (`"family"`, `"task"`, `"config key"`).
        name: the name that was asked for.
        known: the names there are.
        listing: the command or place that lists them, for the end of the sentence.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], listing: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        if near:
            hint = f"did you mean {near[0]!r}?"
        elif names:
            hint = f"known: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}."
        else:
            hint = "there is none yet."
        super().__init__(f"unknown {kind} {name!r}; {hint}{f' ({listing} lists them all)' if listing else ''}", 2)
