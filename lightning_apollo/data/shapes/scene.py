"""Scenes and questions of the built-in video QA set, in words without pixels.

A clip has 8 slots of half a second. Each slot shows a still: a picture of one colour, a border around it and a lamp in
its upper half. Four colours come once each, one after another:

    slot      0      1      2      3      4      5      6      7
    colour    red    red    red    blue   green  green  yellow yellow     4 colours in any order, each 1 to 3 slots
    lamp      off    on     on     off    off    on     on     off        on in 4 slots of 8, here 2 flashes

No temporal answer can be read off one still. Order and lengths are independent and every order of lengths is equally
likely, so a random slot shows each of the four colours with equal chance whatever their order. The lamp is on in half
of the slots however often it flashes, and in every slot half of its patterns are on: a lit lamp dates no still.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

COLOURS = ("red", "green", "blue", "yellow")
BORDERS = ("white", "black", "purple", "cyan")
NUMBERS = ("one", "two", "three", "four")
ORDINALS = ("first", "second", "third", "fourth")

NUM_SLOTS = 8
SLOT_SECONDS = 0.5
MIN_SLOTS, MAX_SLOTS = 1, 3  # of one colour

# The lamp in each slot, by number of flashes. One flash and four flashes have no other half-lit patterns; the ten in
# between are chosen so that of the twenty patterns ten light each slot.
_FLASHES = {
    1: "####.... .####... ..####.. ...####. ....####",
    2: "##.##... ###....# .##..##. #....### ...##.##",
    3: "##.#..#. #.#..##. .#.##.#. .##..#.# .#..#.##",
    4: "#.#.#.#. #.#.#..# #.#..#.# #..#.#.# .#.#.#.#",
}
LAMPS = tuple(tuple(slot == "#" for slot in lamp) for lamps in _FLASHES.values() for lamp in lamps.split())

_ORDERS = tuple(itertools.permutations(COLOURS))
_LENGTHS = tuple(
    lengths
    for lengths in itertools.product(range(MIN_SLOTS, MAX_SLOTS + 1), repeat=len(COLOURS))
    if sum(lengths) == NUM_SLOTS
)
_STORIES = tuple(itertools.product(_ORDERS, _LENGTHS, LAMPS, BORDERS))
NUM_STORIES = len(_STORIES)  # 24 · 19 · 20 · 4 = 36,480


@dataclass(frozen=True)
class Still:
    """Contents of one image or one frame of a clip."""

    colour: str
    is_lit: bool
    border: str

    def caption(self) -> str:
        return f"a {self.colour} picture, lamp {'on' if self.is_lit else 'off'}, {self.border} border"


@dataclass(frozen=True)
class Scene:
    """Contents of a clip: four colours one after another, and a lamp of its own rhythm."""

    order: tuple[str, ...]  # the colours in time
    lengths: tuple[int, ...]  # slots of each colour
    lamp: tuple[bool, ...]  # for each slot
    border: str

    @property
    def starts(self) -> tuple[int, ...]:
        """The first slot of each colour."""
        return tuple(itertools.accumulate(self.lengths[:-1], initial=0))

    @property
    def num_flashes(self) -> int:
        """Number of times the lamp turns on; a lamp that is on from the start counts."""
        return sum(now and not before for before, now in zip((False, *self.lamp), self.lamp, strict=False))

    def stills(self) -> tuple[Still, ...]:
        """One still for each of the 8 slots."""
        colours = [c for c, length in zip(self.order, self.lengths, strict=True) for _ in range(length)]
        return tuple(Still(c, is_lit, self.border) for c, is_lit in zip(colours, self.lamp, strict=True))

    def caption(self) -> str:
        flashes = "flash" if self.num_flashes == 1 else "flashes"
        return f"{', then '.join(self.order)}, {NUMBERS[self.num_flashes - 1]} {flashes}"


@cache
def _shuffled_stories(seed: int) -> tuple[int, ...]:
    stories = list(range(NUM_STORIES))
    Random(seed).shuffle(stories)
    return tuple(stories)


def clip_scene(seed: int, index: int) -> Scene:
    """The scene of clip `index` of the set `seed`. No two indices of a set tell the same story."""
    if not 0 <= index < NUM_STORIES:
        raise ValueError(f"clip {index} does not exist: a set has {NUM_STORIES} different clips")
    order, lengths, lamp, border = _STORIES[_shuffled_stories(seed)[index]]
    return Scene(order, lengths, lamp, border)


def describe_image(seed: int, index: int) -> Still:
    """The still of image `index` of the set `seed`; colours take turns, so that four images in a row show all four."""
    random = Random(f"image {seed} {index}")
    return Still(COLOURS[index % len(COLOURS)], is_lit=random.random() < 0.5, border=random.choice(BORDERS))


@dataclass(frozen=True)
class ShapeQuestion:
    """A question that can be asked about every clip. All of its choices are equally likely answers."""

    text: str
    is_temporal: bool  # needs more than one frame
    choices: tuple[str, ...]
    answer: Callable[[Scene], str]

    @property
    def chance(self) -> float:
        """Accuracy of the best guess without the video."""
        return 1 / len(self.choices)


def _in_words(order: tuple[str, ...]) -> str:
    return ", ".join(order)


QUESTIONS: dict[str, ShapeQuestion] = {
    "first_colour": ShapeQuestion("Which colour came first?", True, COLOURS, lambda scene: scene.order[0]),
    "last_colour": ShapeQuestion("Which colour came last?", True, COLOURS, lambda scene: scene.order[-1]),
    "order": ShapeQuestion(
        "In which order did the colours come?",
        True,
        tuple(_in_words(order) for order in _ORDERS),
        lambda scene: _in_words(scene.order),
    ),
    "flashes": ShapeQuestion("How many flashes?", True, NUMBERS, lambda scene: NUMBERS[scene.num_flashes - 1]),
    "border": ShapeQuestion("What colour is the border?", False, BORDERS, lambda scene: scene.border),
}
