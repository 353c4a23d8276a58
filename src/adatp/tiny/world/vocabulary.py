"""The names of the world's colours, shapes and answers, and every word that a question may have."""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "green": (45, 170, 55),
    "blue": (50, 80, 235),
    "yellow": (240, 225, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "cyan": (60, 215, 225),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "star", "bar", "moon")
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
NUMBERS = ("one", "two", "three")
THIRDS = ("beginning", "middle", "end")
HALVES = ("early", "late")
ORDERS = ("before", "after")
CORNERS = ("northwest", "northeast", "southwest", "southeast")


def words() -> list[str]:
    """Every word of the world, questions and answers, in a fixed order: the model's vocabulary."""
    glue = (
        "what which where when who why how many much is are was does do did there a an the of in on at to and"
        " or not it this that color colour shape thing things object seen shown first last next before after"
        " then move moves moving stay still way scene clip video frame second most often appear appears"
        " big small large tiny fast slow top bottom middle corner center centre left right up down early late"
        " change same different other than any all none zero five six yes no word answer ? , . ! ' picture"
    )
    every = [
        *COLOURS,
        *SHAPES,
        *DIRECTIONS,
        *NUMBERS,
        "four",
        "beginning",
        "middle",
        "end",
        *CORNERS,
        *glue.split(),
    ]
    return list(dict.fromkeys(every))
