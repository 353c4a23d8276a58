"""Parameters of methods that a comparison sets, for example tuned ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from adatp.errors import AdaTPError
from adatp.methods import METHODS, Method

Settings = Mapping[str, Mapping[str, Any]]
"""Method's name -> parameter -> value, of the parameters that differ from the defaults."""


class SettingsError(AdaTPError, ValueError):
    """Settings name no method or no parameter of it, or a value that it refuses. The message is one line."""


def with_settings(kind: type[Method], settings: Settings, **more: Any) -> Method:
    """A method with its tuned parameters.

    Args:
        kind: class of the method.
        settings: settings of all methods; parameters not in it have their defaults.
        more: further parameters.
    """
    return kind(**{**settings.get(kind.name, {}), **more})


def check_settings(settings: Any) -> Settings:
    """Check that a value is valid settings.

    Raises:
        SettingsError: something names no method, no parameter, or a value that the method refuses.
    """
    if not isinstance(settings, dict):
        raise SettingsError("settings are an object: method -> parameter -> value")
    checked: dict[str, dict[str, Any]] = {}
    for name, values in settings.items():
        if name not in METHODS:
            raise SettingsError(f"no method {name!r}; there are {', '.join(METHODS)}")
        known = {each.name for each in fields(METHODS[name])} - {"flops"}
        if not isinstance(values, dict):
            raise SettingsError(f"{name}: its parameters are an object, not {values!r}")
        if strange := next((key for key in values if key not in known), None):
            raise SettingsError(f"{name} has no parameter {strange!r}; it has {', '.join(sorted(known))}")
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        try:
            METHODS[name](**values)
        except (ValueError, TypeError) as error:
            raise SettingsError(f"{name}: {' '.join(str(error).split())}") from None
        checked[name] = values
    return checked
