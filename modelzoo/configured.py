"""Configs from loose fields: one sentence where pydantic lists errors."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from modelzoo.errors import UnknownNameError, UserError

Config = TypeVar("Config", bound=BaseModel)


def configured(config: type[Config], fields: Mapping[str, Any], key: str, of: tuple[str, str] | None = None) -> Config:
    """A config with these fields.

    Args:
        config: its class.
        fields: what is set by hand; the others are as by default.
        key: what a field is called, as a noun (`"config key"`).
        of: kind and name of what is configured (`("family", "mlp")`); None for options of a command, which are named as they are written there.

    Raises:
        UserError: an unknown key (with the nearest known one), or a value that does not fit.
    """
    for name in fields:
        if name not in config.model_fields:
            raise UnknownNameError(f"{key} of {of[1]}" if of else key, name, config.model_fields)
    try:
        return config(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "config"
        place = f"{key} {where!r} of {of[0]} {of[1]!r}" if of else where.replace("_", "-")
        raise UserError(f"{place}: {first['msg'].lower()}, got {first['input']!r}.", 2) from None
