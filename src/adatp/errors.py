"""The root of every error that adatp raises on purpose."""


class AdaTPError(Exception):
    """Something that the caller can mend. The message is one line and says what to do.

    Each subclass stands beside the code that raises it, and is a `ValueError` or a `RuntimeError` as well.
    """


class RefusedError(AdaTPError, ValueError):
    """A request of the command line or of the page that can't be carried out as it was made."""
