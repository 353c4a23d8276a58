"""What a checkpoint is refused for."""

from __future__ import annotations

from adatp.errors import AdaTPError


class CheckpointError(AdaTPError, ValueError):
    """A file of a checkpoint says what can't be right.

    The message is one line. It names the file, not the checkpoint.
    """
