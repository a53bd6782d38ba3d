"""The objects of Toybox's world, read from `objects.txt`: what is trained on, what is held out.

The held-out objects (`dev`: 16 for development, `sealed`: 16 for a first comparison, `sealed2`: 22
for the final one) are whole clusters of look-alikes. They are fixed for good: no model of the
recipe ever sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "dev", "sealed", "sealed2")
PLURAL = {"cherries", "grapes", "pancakes", "fries", "sunglasses", "jeans", "scissors", "books",
          "nesting dolls"}  # fmt: skip
MASS = {"corn", "broccoli", "cheese", "popcorn", "sushi", "ice cream", "food", "clothes"}


@dataclass(frozen=True)
class ToyObject:
    """One object: its split, its cluster (held out only), emoji slug, name and class word."""

    split: str
    cluster: str
    slug: str
    name: str
    kind: str


def with_article(words: str) -> str:
    """`dog` -> `a dog`, `apple` -> `an apple`; plurals and mass nouns stay bare."""
    if any(words == bare or words.endswith(" " + bare) for bare in PLURAL | MASS):
        return words
    vowel = words[0] in "aeio" or words.startswith("um")
    return f"{'an' if vowel else 'a'} {words}"


def read_objects(path: Path) -> tuple[ToyObject, ...]:
    """Parse the committed list."""
    items = []
    for line in path.read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        group, slug, name, kind = (part.strip() for part in line.split("|"))
        split, _, cluster = group.partition(" ")
        if split not in SPLITS:
            raise ValueError(f"The split of {slug!r} is {split!r}; it must be one of {SPLITS}.")
        items.append(ToyObject(split, cluster, slug, name, kind))
    return tuple(items)


def read_more(path: Path) -> tuple[ToyObject, ...]:
    """Objects that are trained on without a name: captions call them by their class, or a thing."""
    rows = [line.split(" | ") for line in path.read_text("utf-8").splitlines() if line[0] != "#"]
    return tuple(ToyObject("more", "", slug, "thing", kind) for slug, kind in rows)


OBJECTS = read_objects(Path(__file__).with_name("objects.txt"))
TRAIN = tuple(item for item in OBJECTS if item.split == "train")
DEV = tuple(item for item in OBJECTS if item.split == "dev")
SEALED = tuple(item for item in OBJECTS if item.split == "sealed")
SEALED2 = tuple(item for item in OBJECTS if item.split == "sealed2")
HELD_OUT = DEV + SEALED + SEALED2
REFERENCES = tuple(item for item in OBJECTS if item not in SEALED2)  # what a judge compares with
MORE = read_more(Path(__file__).with_name("more.txt"))
BY_NAME = {item.name: item for item in OBJECTS}
