"""The page of the notebook: its cells, with what they showed when it was run last."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

NOTE = """
!!! note
    This page is made from `examples/tour.ipynb`. The tests run the notebook and compare what it prints.
"""


def pages(path: Path) -> dict[str, str | bytes]:
    """The page, and the images that its cells show."""
    parts: list[str] = []
    images: dict[str, str | bytes] = {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source + NOTE * (not parts))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append(f"```\n{''.join(output['text'])}```")
            elif "image/png" in output["data"]:
                name = f"figures/notebook-{len(images) + 1}.png"
                images[name] = base64.b64decode("".join(output["data"]["image/png"]))
                parts.append(f"![What the cell shows]({name})")
            else:
                parts.append(f"```\n{text(output['data'])}\n```")
    return {"notebook.md": "\n\n".join(parts) + "\n", **images}


def text(data: dict[str, Any]) -> str:
    """An output as plain text."""
    return "".join(data["text/plain"])
