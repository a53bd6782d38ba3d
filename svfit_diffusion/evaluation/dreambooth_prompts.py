"""The DreamBooth benchmark (arXiv 2208.12242): 30 subjects, 25 prompts each, 4 pictures a prompt.

The photos are in the repository google/dreambooth, one folder per subject; the prompts and the
class words are those of its file dataset/prompts_and_classes.txt.
"""

from __future__ import annotations

PICTURES = 4  # of each prompt

_PLACES = (
    *("in the jungle", "in the snow", "on the beach", "on a cobblestone street"),
    *("on top of pink fabric", "on top of a wooden floor", "with a city in the background"),
    *("with a mountain in the background", "with a blue house in the background"),
    "on top of a purple rug in a forest",
)
_THINGS = (
    *("with a wheat field in the background", "with a tree and autumn leaves in the background"),
    *("with the Eiffel Tower in the background", "floating on top of water"),
    *("floating in an ocean of milk", "on top of green grass with sunflowers around it"),
    *("on top of a mirror", "on top of the sidewalk in a crowded street"),
    *("on top of a dirt road", "on top of a white rug"),
)
_OUTFITS = (
    *("wearing a red hat", "wearing a santa hat", "wearing a rainbow scarf"),
    *("wearing a black top hat and a monocle", "in a chef outfit", "in a firefighter outfit"),
    *("in a police outfit", "wearing pink glasses", "wearing a yellow shirt"),
    "in a purple wizard outfit",
)
_LOOKS = ("red", "purple", "shiny", "wet", "cube shaped")

LIVING = ("cat", "dog")
SUBJECTS = {
    "backpack": "backpack", "backpack_dog": "backpack", "bear_plushie": "stuffed animal",
    "berries_bowl": "bowl", "can": "can", "candle": "candle", "cat": "cat", "cat2": "cat",
    "clock": "clock", "colorful_sneaker": "sneaker", "dog": "dog", "dog2": "dog", "dog3": "dog",
    "dog5": "dog", "dog6": "dog", "dog7": "dog", "dog8": "dog", "duck_toy": "toy",
    "fancy_boot": "boot", "grey_sloth_plushie": "stuffed animal", "monster_toy": "toy",
    "pink_sunglasses": "glasses", "poop_emoji": "toy", "rc_car": "toy", "red_cartoon": "cartoon",
    "robot_toy": "toy", "shiny_sneaker": "sneaker", "teapot": "teapot", "vase": "vase",
    "wolf_plushie": "stuffed animal",
}  # fmt: skip


def prompts(class_word: str) -> tuple[str, ...]:
    """The 25 prompts of a class, with `{}` in place of the subject: `a {} in the snow`."""
    more = _OUTFITS if class_word in LIVING else _THINGS
    return (*(f"a {{}} {words}" for words in (*_PLACES, *more)), *(f"a {w} {{}}" for w in _LOOKS))
