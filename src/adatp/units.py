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


def memory(size: float) -> str:
    """A number of bytes as text, such as ``1.50 GiB`` or ``12.0 MiB``."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """A time in seconds as text, such as ``8.3 ms``, ``12 s`` or ``5 min``."""
    if seconds < 1:
        return milliseconds(1000 * seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
