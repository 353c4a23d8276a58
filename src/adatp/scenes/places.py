"""The places of the second world: wide images made by code. The camera shows a window of one.

Each place is a function of random draws and a few shared noise fields. Layout, colours and texture vary
between drawings. So a place is recognised by its appearance, not by one average colour.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Colour = tuple[float, float, float]

HEIGHT, WIDTH = 128, 160
"""Size in pixels of a place's image: larger than a frame, so that the camera can pan and zoom out."""

_POOL = 256
_Y = np.arange(HEIGHT, dtype=np.float32)[:, None]
_X = np.arange(WIDTH, dtype=np.float32)[None, :]


@cache
def _fields() -> dict[str, Image]:
    """Shared noise fields (256, 256) with deviation 1: windows of them are cheaper than new noise."""
    rng = np.random.default_rng(20260)

    def octave(cells: int) -> Image:
        knots = np.pad(rng.normal(0, 1, (cells, cells)), (0, 1), mode="wrap")  # no seam where windows wrap
        at = np.linspace(0, cells, _POOL, endpoint=False)
        blend = np.maximum(0, 1 - abs(at[:, None] - np.arange(cells + 1)))
        field: Image = (blend @ knots @ blend.T).astype(np.float32)
        return field

    def mix(weights: dict[int, float]) -> Image:
        field = np.sum([weight * octave(cells) for cells, weight in weights.items()], axis=0)
        scaled: Image = (field / np.std(field)).astype(np.float32)
        return scaled

    return {
        "smooth": mix({4: 1, 8: 0.7, 16: 0.3}),
        "rough": mix({8: 1, 16: 0.8, 32: 0.7, 64: 0.5, 128: 0.4}),
        "leafy": mix({16: 0.4, 32: 1, 64: 0.9, 128: 0.5}),
        "grain": mix({64: 0.6, 128: 1}),
    }


def _noise(rng: Random, kind: str, down: float = 1, across: float = 1) -> Image:
    """A window (HEIGHT, WIDTH) of a noise field; `down` and `across` compress or stretch it along an axis."""
    rows = (rng.randrange(_POOL) + np.arange(HEIGHT) * down).astype(np.intp) % _POOL
    columns = (rng.randrange(_POOL) + np.arange(WIDTH) * across).astype(np.intp) % _POOL
    field = _fields()[kind]
    window: Image = (field.T if rng.random() < 0.5 and down == across else field)[rows[:, None], columns]
    return window


def _shade(rng: Random, colour: Colour, spread: float = 14) -> NDArray[np.float32]:
    """A colour near the given one, float32 (3,)."""
    level = rng.uniform(-spread, spread)
    return np.array([c + level + rng.uniform(-spread / 2, spread / 2) for c in colour], dtype=np.float32)


def _sky(rng: Random, high: Colour, low: Colour, clouds: float) -> Image:
    """A vertical gradient with soft clouds, (HEIGHT, WIDTH, 3)."""
    share = np.float32(1 / HEIGHT) * _Y[..., None]
    gradient = _shade(rng, high) * (1 - share) + _shade(rng, low) * share
    sky: Image = gradient + np.float32(clouds) * _noise(rng, "smooth", 1, 0.6)[..., None]
    return sky


def _ground(rng: Random, colour: Colour, noise: Image, strength: float) -> Image:
    """One colour, lighter and darker with the noise, (HEIGHT, WIDTH, 3)."""
    ground: Image = _shade(rng, colour) * (1 + strength * noise)[..., None]
    return ground


def _ridge(rng: Random, level: float, height: float, jagged: float) -> Image:
    """A line of hills: the row of the crest in every column, (1, WIDTH)."""
    start = rng.randrange(_POOL)
    line = _fields()["rough" if jagged > 1 else "smooth"][rng.randrange(_POOL)]
    at = ((start + np.arange(WIDTH) * jagged) % _POOL).astype(np.intp)
    ridge: Image = (level + height * line[at])[None].astype(np.float32)
    return ridge


def _sea(rng: Random) -> Image:
    image = _sky(rng, (120, 150, 190), (190, 195, 200), 10)
    horizon = rng.randint(30, 62)
    waves = _noise(rng, "rough", 2.5, 0.5) + 0.5 * _noise(rng, "grain", 1, 0.34)
    water = _ground(rng, (55, 95, 120), waves, 0.2)
    water += (25 * np.exp(-(_Y - horizon) / 12))[..., None]
    image[horizon:] = water[horizon:]
    return image


def _forest(rng: Random) -> Image:
    image = _ground(rng, (60, 85, 50), _noise(rng, "leafy"), 0.35)
    image *= (0.65 + 0.5 * _Y / HEIGHT)[..., None]
    for _ in range(rng.randint(7, 13)):
        left, wide = rng.randrange(WIDTH), rng.randint(3, 9)
        low = rng.randint(85, HEIGHT)
        bark = _shade(rng, (62, 48, 36), 12)
        image[:low, left : left + wide] = bark + 8 * _noise(rng, "grain", 0.3, 1)[:low, :1, None]
    return image


def _desert(rng: Random) -> Image:
    image = _sky(rng, (150, 175, 200), (215, 205, 185), 5)
    for level in (50, 72, 96):
        crest = (
            level
            + rng.uniform(-8, 8)
            + rng.uniform(5, 12) * np.sin(_X * rng.uniform(0.02, 0.06) + rng.uniform(0, 6))
        )
        ripples = np.sin(_Y * rng.uniform(0.5, 0.9) + 2 * _noise(rng, "smooth"))
        sand = _ground(rng, (190, 155, 105), ripples, 0.06)
        sand -= (1.1 * np.clip(30 - (_Y - crest), 0, 30) * rng.choice((-1, 1)))[..., None]
        np.copyto(image, sand, where=(crest < _Y)[..., None])
    return image


def _street(rng: Random) -> Image:
    image = _sky(rng, (150, 165, 185), (190, 195, 200), 8)
    road, left = rng.randint(84, 100), -rng.randint(0, 20)
    while left < WIDTH:
        wide, top = rng.randint(22, 44), rng.randint(8, 50)
        at = slice(max(0, left), left + wide)
        image[top:road, at] = _shade(rng, rng.choice(((135, 110, 95), (120, 120, 125), (150, 140, 120))))
        pane = _shade(rng, (60, 70, 85))
        for row in range(top + 4, road - 6, 12):
            for column in range(max(0, left + 4), left + wide - 6, 11):
                image[row : row + 7, column : column + 5] = pane
        left += wide
    image[road:] = _ground(rng, (88, 88, 92), _noise(rng, "grain"), 0.08)[road:]
    line, gap = road + (HEIGHT - road) // 2, rng.randint(14, 20)
    for column in range(rng.randrange(gap), WIDTH, gap):
        image[line : line + 3, column : column + gap // 2] = 205
    return image


def _room(rng: Random) -> Image:
    paper = np.sign(np.sin(_X * rng.uniform(0.3, 0.6) + rng.uniform(0, 6))) + 0 * _Y
    colour = rng.choice(((170, 150, 130), (140, 155, 150), (165, 160, 175), (175, 165, 120)))
    image = _ground(rng, colour, paper, 0.05)
    floor = rng.randint(86, 104)
    planks = _noise(rng, "smooth", 0.2, 2) + 2 * ((_Y - _X * 0.3) % 11 < 1.5)
    image[floor:] = _ground(rng, (120, 85, 58), -planks, 0.12)[floor:]
    image[floor - 4 : floor] = _shade(rng, (205, 200, 190))
    for left in range(rng.randint(4, 30), WIDTH - 30, rng.randint(55, 75)):
        top, high, wide = rng.randint(14, 26), rng.randint(32, 46), rng.randint(26, 34)
        image[top : top + high, left : left + wide] = _shade(rng, (90, 70, 55))
        glass = _shade(rng, (185, 200, 210))
        half = wide // 2
        image[top + 3 : top + high - 3, left + 3 : left + half - 1] = glass
        image[top + 3 : top + high - 3, left + half + 1 : left + wide - 3] = glass
    return image


def _mountain(rng: Random) -> Image:
    image = _sky(rng, (110, 140, 185), (185, 195, 210), 10)
    for level, colour in ((48, (125, 135, 155)), (68, (100, 100, 108)), (92, (75, 80, 72))):
        crest = _ridge(rng, level + rng.uniform(-6, 6), 11, 2.2)
        rock = _ground(rng, colour, _noise(rng, "rough"), 0.16)
        if level < 80:
            np.copyto(rock, np.float32(215), where=(crest + rng.uniform(5, 9) > _Y)[..., None])
        np.copyto(image, rock, where=(crest < _Y)[..., None])
    return image


def _snow(rng: Random) -> Image:
    image = _sky(rng, (150, 160, 172), (185, 190, 198), 6)
    crest = _ridge(rng, rng.uniform(45, 62), 4, 0.5)
    white = _ground(rng, (212, 218, 228), _noise(rng, "smooth"), 0.04)
    np.copyto(image, white, where=(crest < _Y)[..., None])
    for _ in range(rng.randint(4, 9)):
        column, foot = rng.randrange(WIDTH), rng.randint(58, 112)
        tall = (foot - 30) * rng.uniform(0.3, 0.5)
        above = foot - _Y
        tree = (above > 0) & (above < tall) & (abs(_X - column) < (tall - above) * 0.35)
        np.copyto(image, _shade(rng, (58, 74, 66)), where=tree[..., None])
    return image


def _night(rng: Random) -> Image:
    image = _sky(rng, (16, 20, 42), (48, 46, 72), 4)
    left = -rng.randint(0, 15)
    while left < WIDTH:
        wide, top = rng.randint(16, 34), rng.randint(20, 74)
        image[top:, max(0, left) : left + wide] = _shade(rng, (26, 28, 38), 7)
        lit = _shade(rng, rng.choice(((200, 175, 105), (165, 180, 190))), 20)
        for row in range(top + 3, HEIGHT - 4, 8):
            for column in range(max(0, left + 3), left + wide - 3, 7):
                if rng.random() < 0.42:
                    image[row : row + 4, column : column + 3] = lit
        left += wide
    return image


def _field(rng: Random) -> Image:
    image = _sky(rng, (125, 160, 195), (195, 205, 205), 10)
    horizon = rng.randint(34, 58)
    depth = np.maximum(_Y - horizon, 1)
    rows = np.sin((_X - rng.uniform(20, WIDTH - 20)) * rng.uniform(14, 26) / depth + rng.uniform(0, 6))
    colour = rng.choice(((105, 130, 60), (150, 140, 70), (90, 120, 70)))
    crop = _ground(rng, colour, 0.5 * rows + 0.4 * _noise(rng, "leafy"), 0.25)
    image[horizon:] = crop[horizon:]
    return image


def _cave(rng: Random) -> Image:
    rough = _noise(rng, "rough")
    away = np.hypot(_Y - rng.uniform(40, 90), 0.8 * (_X - rng.uniform(40, 120)))
    image = _ground(rng, (112, 92, 78), rough, 0.3)
    image *= (0.25 + 0.85 * np.exp(-(((away + 8 * rough) / 58) ** 2)))[..., None]
    for _ in range(rng.randint(5, 10)):
        column, long = rng.randrange(WIDTH), rng.uniform(16, 44)
        spike = abs(_X - column) < (long - _Y) * 0.2
        np.copyto(image, _shade(rng, (48, 40, 36), 10), where=spike[..., None])
    return image


def _wall(rng: Random) -> Image:
    high, wide = rng.randint(9, 14), rng.randint(20, 30)
    course = (_Y + rng.randrange(high)) // high
    along = _X + rng.randrange(wide) + (course % 2) * (wide / 2)
    tone = _fields()["grain"][
        (course.astype(np.intp) * 37) % _POOL, (along // wide).astype(np.intp) * 53 % _POOL
    ]
    colour = rng.choice(((140, 82, 66), (150, 120, 96), (125, 95, 85)))
    image = _ground(rng, colour, tone + 0.5 * _noise(rng, "grain"), 0.11)
    seam = np.diff(course, axis=0, prepend=course[:1]) > 0
    mortar = (along % wide < 1.8) | seam
    np.copyto(image, _shade(rng, (170, 165, 158)), where=mortar[..., None])
    return image


def _tiles(rng: Random) -> Image:
    side = rng.randint(13, 20)
    down, across = _Y + rng.randrange(side), _X + rng.randrange(side)
    if rng.random() < 0.5:
        down, across = (down + across) * 0.7, (down - across) * 0.7 + 2 * WIDTH
    check = ((down // side + across // side) % 2)[..., None]
    one = _shade(rng, rng.choice(((195, 195, 190), (180, 190, 200))))
    two = _shade(rng, rng.choice(((105, 125, 130), (90, 95, 110), (130, 110, 100))))
    image: Image = (one * (1 - check) + two * check).astype(np.float32)
    grout = (down % side < 1.2) | (across % side < 1.2)
    np.copyto(image, np.float32(80), where=grout[..., None])
    image += 5 * _noise(rng, "smooth")[..., None]
    return image


_DRAW: dict[str, Callable[[Random], Image]] = {
    "sea": _sea,
    "forest": _forest,
    "desert": _desert,
    "street": _street,
    "room": _room,
    "mountain": _mountain,
    "snow": _snow,
    "night": _night,
    "field": _field,
    "cave": _cave,
    "wall": _wall,
    "tiles": _tiles,
}


def draw_place(place: str, rng: Random, shifted: bool = False) -> Image:
    """Draw a place.

    Args:
        place: One of `vocabulary.PLACES`.
        rng: Source of layout, colours and textures.
        shifted: Whether to tint and grade it beyond the ranges of the other splits.

    Returns:
        float32 (HEIGHT, WIDTH, 3), RGB in about 0..230.
    """
    image = _DRAW[place](rng)
    tint = [rng.uniform(-9, 9) for _ in range(3)]
    contrast = rng.uniform(0.85, 1.1)
    if shifted:
        tint = [rng.choice((-1, 1)) * rng.uniform(14, 24) for _ in range(3)]
        contrast = rng.uniform(0.62, 0.78)
    image *= np.float32(contrast)
    image += np.array(tint, dtype=np.float32) + np.float32(110 * (1 - contrast))
    return np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image
