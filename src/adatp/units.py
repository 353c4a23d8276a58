"""Quantities as text."""


def amount(count: float) -> str:
    """FLOPs or MACs with a unit."""
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f}"


def milliseconds(time: float) -> str:
    """A time with its unit."""
    return f"{time:.1f} ms" if time < 100 else f"{time:.0f} ms"
