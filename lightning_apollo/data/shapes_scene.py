"""What the clips and images of the built-in video QA set show, and what is asked about them: no pixels, only words.

A clip has 8 slots of half a second. Each slot shows a still: a coloured square in one quadrant, a lamp in the centre, a
border around everything and dots in the outer corners. Four colours come once each, one after another, at four places:

    slot      0      1      2      3      4      5      6      7
    square    red    red    red    blue   green  green  yellow yellow     4 colours in any order, each 1 to 5 slots
    lamp      off    on     on     off    on     off    off    on         on in 4 slots of 8, here 3 times

No temporal answer can be read off one still. Order, places and lengths are independent and every order of lengths is
equally likely, so a random slot shows each of the four squares with equal chance whatever their order; the lamp is on
in half of the slots however often it flashes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

COLOURS = ("red", "green", "blue", "yellow")
PLACES = ("top left", "top right", "bottom left", "bottom right")
BORDERS = ("white", "black", "purple", "cyan")
NUMBERS = ("one", "two", "three", "four")
ORDINALS = ("first", "second", "third", "fourth")

NUM_SLOTS = 8
SLOT_SECONDS = 0.5

_ORDERS = tuple(itertools.permutations(COLOURS))
_ROUTES = tuple(itertools.permutations(PLACES))
_LENGTHS = tuple(c for c in itertools.product(range(1, NUM_SLOTS), repeat=len(COLOURS)) if sum(c) == NUM_SLOTS)
NUM_STORIES = len(_ORDERS) * len(_ROUTES) * len(_LENGTHS) * len(BORDERS)  # 24 · 24 · 35 · 4 = 80,640


@dataclass(frozen=True)
class Still:
    """What one image or one frame of a clip shows."""

    colour: str
    place: str
    is_lit: bool
    border: str
    dots: tuple[str, ...]  # the places with a dot in their outer corner

    def caption(self) -> str:
        lamp = "on" if self.is_lit else "off"
        dots = "one dot" if len(self.dots) == 1 else f"{NUMBERS[len(self.dots) - 1]} dots"
        return f"a {self.colour} square {self.place}, lamp {lamp}, {self.border} border, {dots}"


@dataclass(frozen=True)
class Scene:
    """What a clip shows: four squares one after another, and a lamp that goes its own way."""

    order: tuple[str, ...]  # the colours in time
    route: tuple[str, ...]  # the places in time
    lengths: tuple[int, ...]  # slots of each square
    lamp: tuple[bool, ...]  # for each slot
    border: str
    dots: tuple[str, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """The first slot of each square."""
        return tuple(itertools.accumulate(self.lengths[:-1], initial=0))

    @property
    def num_flashes(self) -> int:
        return count_flashes(self.lamp)

    def stills(self) -> tuple[Still, ...]:
        """One still for each of the 8 slots."""
        squares = [i for i, length in enumerate(self.lengths) for _ in range(length)]
        return tuple(
            Still(self.order[i], self.route[i], is_lit, self.border, self.dots)
            for i, is_lit in zip(squares, self.lamp, strict=True)
        )

    def caption(self) -> str:
        return ", then ".join(f"{colour} {place}" for colour, place in zip(self.order, self.route, strict=True))


def count_flashes(lamp: tuple[bool, ...]) -> int:
    """How often the lamp goes on; a lamp that is on from the start counts."""
    return sum(now and not before for before, now in zip((False, *lamp), lamp, strict=False))


_HALF_LIT = [lamp for lamp in itertools.product((False, True), repeat=NUM_SLOTS) if 2 * sum(lamp) == NUM_SLOTS]
LAMPS = {n: tuple(lamp for lamp in _HALF_LIT if count_flashes(lamp) == n) for n in range(1, len(NUMBERS) + 1)}


@cache
def _shuffled_stories(seed: int) -> tuple[int, ...]:
    stories = list(range(NUM_STORIES))
    Random(seed).shuffle(stories)
    return tuple(stories)


def describe(seed: int, index: int) -> Scene:
    """The scene of clip `index` of the set `seed`. No two indices of a set tell the same story."""
    if not 0 <= index < NUM_STORIES:
        raise ValueError(f"clip {index} does not exist: a set has {NUM_STORIES} different clips")
    rest, order = divmod(_shuffled_stories(seed)[index], len(_ORDERS))
    rest, route = divmod(rest, len(_ROUTES))
    border, lengths = divmod(rest, len(_LENGTHS))
    random = Random(f"clip {seed} {index}")
    return Scene(
        order=_ORDERS[order],
        route=_ROUTES[route],
        lengths=_LENGTHS[lengths],
        lamp=random.choice(LAMPS[random.randint(1, len(LAMPS))]),
        border=BORDERS[border],
        dots=_draw_dots(random),
    )


def describe_image(seed: int, index: int) -> Still:
    """The still of image `index` of the set `seed`; colours take turns, so that four images in a row show all four."""
    random = Random(f"image {seed} {index}")
    return Still(
        colour=COLOURS[index % len(COLOURS)],
        place=random.choice(PLACES),
        is_lit=random.random() < 0.5,
        border=random.choice(BORDERS),
        dots=_draw_dots(random),
    )


def _draw_dots(random: Random) -> tuple[str, ...]:
    chosen = random.sample(PLACES, random.randint(1, len(PLACES)))
    return tuple(place for place in PLACES if place in chosen)


@dataclass(frozen=True)
class Question:
    """A question about one clip. `choices` are the answers that its wording leaves open, all equally likely."""

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class QuestionType:
    """A kind of question. Answers to questions of different aspects say nothing about each other."""

    aspect: str
    is_temporal: bool  # needs more than one frame
    choices: tuple[str, ...]  # every answer that occurs
    num_choices: int  # how many of them one question leaves open
    ask: Callable[[Scene, Random], tuple[str, str, tuple[str, ...]]]  # text, answer, choices left open

    @property
    def chance(self) -> float:
        """Accuracy of the best guess without the video."""
        return 1 / self.num_choices


def _ask_after(scene: Scene, random: Random) -> tuple[str, str, tuple[str, ...]]:
    i = random.randrange(len(COLOURS) - 1)
    others = tuple(colour for colour in COLOURS if colour != scene.order[i])
    return f"Which colour came right after {scene.order[i]}?", scene.order[i + 1], others


def _ask_before(scene: Scene, random: Random) -> tuple[str, str, tuple[str, ...]]:
    one, other = random.sample(COLOURS, 2)
    answer = "yes" if scene.order.index(one) < scene.order.index(other) else "no"
    return f"Was {one} before {other}?", answer, ("yes", "no")


QUESTION_TYPES: dict[str, QuestionType] = {
    "first_colour": QuestionType(
        "order", True, COLOURS, 4, lambda scene, _: ("Which colour came first?", scene.order[0], COLOURS)
    ),
    "last_colour": QuestionType(
        "order", True, COLOURS, 4, lambda scene, _: ("Which colour came last?", scene.order[-1], COLOURS)
    ),
    "colour_after": QuestionType("order", True, COLOURS, 3, _ask_after),
    "before": QuestionType("order", True, ("yes", "no"), 2, _ask_before),
    "first_place": QuestionType(
        "route", True, PLACES, 4, lambda scene, _: ("Where was the first square?", scene.route[0], PLACES)
    ),
    "last_place": QuestionType(
        "route", True, PLACES, 4, lambda scene, _: ("Where was the last square?", scene.route[-1], PLACES)
    ),
    "flashes": QuestionType(
        "lamp",
        True,
        NUMBERS,
        4,
        lambda scene, _: ("How many times did the lamp flash?", NUMBERS[scene.num_flashes - 1], NUMBERS),
    ),
    "border": QuestionType(
        "border", False, BORDERS, 4, lambda scene, _: ("What colour is the border?", scene.border, BORDERS)
    ),
    "dots": QuestionType(
        "dots", False, NUMBERS, 4, lambda scene, _: ("How many dots are there?", NUMBERS[len(scene.dots) - 1], NUMBERS)
    ),
}


def ask(kind: str, scene: Scene, random: Random) -> Question:
    """A question of one kind about a scene."""
    return Question(kind, *QUESTION_TYPES[kind].ask(scene, random))


def ask_each_aspect(scene: Scene, random: Random) -> list[Question]:
    """One question of every aspect in random order: no answer of the conversation helps with a later one."""
    kinds: dict[str, list[str]] = {}
    for kind, question_type in QUESTION_TYPES.items():
        kinds.setdefault(question_type.aspect, []).append(kind)
    questions = [ask(random.choice(of_aspect), scene, random) for of_aspect in kinds.values()]
    random.shuffle(questions)
    return questions
