"""The errors that a session raises."""

from __future__ import annotations

from adatp.errors import AdaTPError


class LoadError(AdaTPError, ValueError):
    """A model or its processor can't be loaded. The message is one line."""


class PromptError(AdaTPError, ValueError):
    """The question and the video don't make a prompt that the model takes. The message is one line."""
