"""Small random checkpoints as lmms-eval meets real ones."""

from __future__ import annotations

from pathlib import Path


class Checkpoints:
    """Random models with their processors, in folders named after the families, made when first asked for.

    Their dtypes are those that lmms-eval loads them in. The templates take texts as well as parts, as those
    of real checkpoints do.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __truediv__(self, name: str) -> Path:
        if not (self._folder / name).exists():
            self._write(name)
        return self._folder / name

    def _write(self, name: str) -> None:
        import torch

        from families import FAMILIES, build
        from processors import PROCESSORS

        family = next(family for family in FAMILIES if family.name == name)
        model, processor = build(family), PROCESSORS[family]()
        if name != "llava_onevision":
            model = model.to(torch.bfloat16)
        if processor.chat_template is not None:
            processor.chat_template = _taking_texts(processor.chat_template)
        model.save_pretrained(self._folder / name)
        processor.save_pretrained(self._folder / name)


def _taking_texts(template: str) -> str:
    parts, end = "{% for part in message['content'] %}", "{% endfor %}<|im_end|>"
    text = "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    return template.replace(parts, text + parts).replace(end, end.replace("<", "{% endif %}<", 1))
