"""The root of every error that adatp raises on purpose, and what is read out of those of other libraries."""

LONGEST_REASON = 300
"""Characters of another library's message that are passed on."""

_MEMORY = ("allocate memory", "not enough memory", "out of memory", "size calculation overflowed")
"""What torch, safetensors and the system say where memory runs out."""


class AdaTPError(Exception):
    """Something that the caller can mend. The message is one line and says what to do.

    Each subclass stands beside the code that raises it, and is a `ValueError` or a `RuntimeError` as well.
    """


class RefusedError(AdaTPError, ValueError):
    """A request of the command line or of the page that can't be carried out as it was made."""


class PruningError(AdaTPError, RuntimeError):
    """The model can't be pruned, or not in this way. The class of all refusals of a model.

    `UnsupportedModelError` says that nothing is known of its type, or that this transformers is too old for
    it, `GeneralRuleError` that the general rule does not know what was asked.
    """


def first_line(error: BaseException) -> str:
    """What another library says, in one short line, or the kind of its error where it says nothing.

    A first line that ends with a colon is only a heading: the reason is the line below it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = type(error).__name__
    if lines:
        said, *rest = lines
        while said.endswith(":") and rest:
            said = f"{said} {rest.pop(0)}"
    return said if len(said) <= LONGEST_REASON else f"{said[: LONGEST_REASON - 3]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the CPU or of a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    return isinstance(error, Exception) and any(words in said for words in _MEMORY)
