"""Fields that commands take as `key=value`."""

import json
from collections.abc import Sequence
from typing import Any

from modelzoo.errors import UserError


def read_key_values(texts: Sequence[str] | None, option: str = "--set") -> dict[str, Any]:
    """Fields by name; a value is JSON (`3`, `[1, 2]`, `true`) or else text.

    Args:
        texts: one `key=value` each.
        option: what they were given to, for the message.

    Raises:
        UserError: one has no key or no equals sign.
    """
    found: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{option} takes key=value, got {text!r}; write e.g. width=32.", 2)
        try:
            found[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            found[key.strip()] = value
    return found
