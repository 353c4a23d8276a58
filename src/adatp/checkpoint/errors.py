"""The error for a checkpoint that is refused."""

from __future__ import annotations

from adatp.errors import AdaTPError


class CheckpointError(AdaTPError, ValueError):
    """A file of a checkpoint contains something that can't be right.

    The message is one line. It names the file, not the checkpoint.
    """
