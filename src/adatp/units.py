"""Formats FLOPs and times as text."""


def amount(count: float) -> str:
    """A count of FLOPs or MACs as text, such as ``1.50 G``; below a million without a unit."""
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f}"


def milliseconds(time: float) -> str:
    """A time in milliseconds as text, such as ``8.3 ms``; from 100 ms on without decimals."""
    return f"{time:.1f} ms" if time < 100 else f"{time:.0f} ms"
