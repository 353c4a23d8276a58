"""What a session refuses."""

from __future__ import annotations

from adatp.errors import AdaTPError


class LoadError(AdaTPError, ValueError):
    """A model or its processor can't be loaded. The message is one line."""


class PromptError(AdaTPError, ValueError):
    """The question and the video don't make a prompt that the model takes. The message is one line."""


def first_line(error: Exception) -> str:
    """The first line of what another library says, or the kind of its error where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
