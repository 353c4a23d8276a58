"""The root of every error that adatp raises on purpose, and helpers to read other libraries' errors."""

LONGEST_REASON = 300
"""Most characters of another library's message that are passed on."""

_MEMORY = ("allocate memory", "not enough memory", "out of memory", "size calculation overflowed")
"""What messages of torch, safetensors and the system contain when memory runs out."""


class AdaTPError(Exception):
    """An error that the caller can fix. The message is one line and says what to do.

    Each subclass is defined next to the code that raises it, and is also a `ValueError` or a `RuntimeError`.
    """


class RefusedError(AdaTPError, ValueError):
    """A request of the command line or of the page that can't be carried out as given."""


class SettingError(AdaTPError, ValueError):
    """A setting of a method or of a context is out of range, or does not go with another."""


class PruningError(AdaTPError, RuntimeError):
    """The model can't be pruned, or not in this way. The class of all refusals of a model.

    `UnsupportedModelError` says that nothing is known of its type, or that this transformers is too old for
    it, `GeneralRuleError` that the general rule does not know what was asked.
    """


def first_line(error: BaseException) -> str:
    """Another library's message in one short line, or the kind of its error where there is no message.

    If the first line ends with a colon it is only a heading, and the reason is in the next line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = type(error).__name__
    if lines:
        said, *rest = lines
        while said.endswith(":") and rest:
            said = f"{said} {rest.pop(0)}"
    return said if len(said) <= LONGEST_REASON else f"{said[: LONGEST_REASON - 3]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the CPU or on a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    return isinstance(error, Exception) and any(words in said for words in _MEMORY)


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic in the Rust of another library, which is no ``Exception``."""
    return type(error).__name__ == "PanicException"
