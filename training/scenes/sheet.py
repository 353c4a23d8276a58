"""Draw a contact sheet: ``python -m training.scenes.sheet docs/figures/world2.png`` (needs pillow)."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from adatp.scenes import ask, evidence, make_clip
from adatp.scenes.vocabulary import GRID, SIZE

ROWS = (("validation", 21), ("validation", 34), ("validation", 5), ("validation", 17), ("shifted", 3))
FRAMES, TEXT = 12, 14


def main() -> None:
    """Draw a few clips, each with a question and a frame around the tokens of its evidence."""
    sheet = Image.new("RGB", (FRAMES * (SIZE + 2), len(ROWS) * (SIZE + TEXT + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (split, seed) in enumerate(ROWS):
        clip = make_clip(seed, FRAMES, split)
        top = row * (SIZE + TEXT + 4)
        few = [q for q in ask(clip, seed, 30) if evidence(clip, q).sum() in range(1, 30)]
        question = Random(seed).choice(few)
        pen.text((2, top + 1), f"{split} {seed}: {question.text}  {question.answer}", fill="black")
        for t, (frame, tokens) in enumerate(zip(clip.frames, evidence(clip, question), strict=True)):
            left, upper = t * (SIZE + 2), top + TEXT
            sheet.paste(Image.fromarray(frame), (left, upper))
            for cell in np.flatnonzero(tokens):
                y, x = divmod(int(cell), GRID)
                corner = (left + 16 * x, upper + 16 * y)
                pen.rectangle((*corner, corner[0] + 15, corner[1] + 15), outline=(255, 0, 255))
    sheet.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        Path(sys.argv[1]), optimize=True
    )


if __name__ == "__main__":
    main()
