"""The words of the second world: those of its things, of its questions, and all that its model knows."""

from __future__ import annotations

SIZE = 96
"""Height and width of a frame in pixels."""

GRID = 6
"""Rows and columns of visual tokens in a frame: 12 x 12 patches of 8 pixels, pooled 2 x 2."""

CELL = SIZE // GRID
"""Side in pixels of the square that one visual token covers."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 35, 35),
    "green": (40, 190, 55),
    "blue": (45, 75, 245),
    "yellow": (250, 230, 40),
    "purple": (160, 45, 205),
    "orange": (250, 140, 20),
    "cyan": (50, 225, 235),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "star", "bar", "moon")
PLACES = (
    "sea",
    "forest",
    "desert",
    "street",
    "room",
    "mountain",
    "snow",
    "night",
    "field",
    "cave",
    "wall",
    "tiles",
)
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""Direction -> its step (rows, columns)."""

NUMBERS = ("one", "two", "three")
EIGHTHS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
ORDERS = ("before", "after")
CORNERS = ("northwest", "northeast", "southwest", "southeast")

SPLITS = ("train", "validation", "test", "shifted")
"""`shifted` draws sizes, speeds, shades, light, noise and compression outside the ranges of the others."""

_GLUE = (
    "a an the this that these of in on at to and or not no yes is are was does do did there here it"
    " what which where when who how many much way time place thing things dot colour shape eighth move"
    " moves moving seen see shown come comes right turn turns become becomes behind last light go goes"
    " out dark bright begin begins picture image photo video frame view scene look shows show with near"
    " over under some any can you find we i has have hidden its before after next then small big tiny"
    " four five six all none word answer gone day looks from other be early late top bottom middle left"
    " still camera change changes changed ? , . ! :"
)


def words() -> list[str]:
    """Every word of questions, captions and answers, in a fixed order: the vocabulary of the model."""
    named = (*COLOURS, *SHAPES, *PLACES, *DIRECTIONS, *NUMBERS, *EIGHTHS, *ORDERS, *CORNERS, "yes", "no")
    return list(dict.fromkeys((*named, *_GLUE.split())))
