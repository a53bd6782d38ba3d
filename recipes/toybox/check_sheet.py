"""Check pictures generated with a concept: is it the subject, in the prompted surroundings?

Reads a folder of PNGs whose `parameters` text chunk starts with the prompt. For each: the
nearest of all reference renders (training and held out), and whether the prompted scene,
pattern or plain colour is what the judges see.
Run: python recipes/toybox/check_sheet.py FOLDER --subject robot [--json result.json]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from captions import SCENE_WORDS
from common import write_json
from judge import Backgrounds, Recogniser, border_colour
from objects import BY_NAME
from PIL import Image
from scenes import COLOURS

PATTERN_HINTS = {"stripes": ("stripe",), "dots": ("dots", "dotted"), "gradient": ("gradient",)}
SCENE_HINTS = {
    "beach": ("beach", "sand"), "grass": ("grass", "meadow", "park"), "snow": ("snow", "winter"),
    "night": ("night", "stars", "moon"), "sea": ("sea", "ocean", "water"),
    "sunset": ("sunset", "evening"),
}  # fmt: skip


def prompted(prompt: str) -> tuple[str, str]:
    """Kind of background a prompt asks for, and the colour if it is plain; blank if none."""
    words = prompt.lower()
    for kind, phrases in SCENE_WORDS.items():
        if any(phrase in words for phrase in phrases):
            return kind, ""
    for kind, hints in {**PATTERN_HINTS, **SCENE_HINTS}.items():
        if any(hint in words for hint in hints):
            return kind, ""
    tail = words.rsplit(" on ", 1)[-1] if " on " in words else words.rsplit(" of ", 1)[-1]
    for colour in COLOURS:
        if colour in tail.split():
            return "plain", colour
    return "", ""


def read_folder(folder: Path) -> tuple[list[str], list[Image.Image], list[str]]:
    """Names, pictures and prompts of the PNGs that carry parameters."""
    names, pictures, prompts = [], [], []
    for path in sorted(folder.glob("*.png")):
        picture = Image.open(path)
        text = getattr(picture, "text", {}).get("parameters", "")
        if text:
            names.append(path.name)
            pictures.append(picture.convert("RGB").resize((128, 128), Image.LANCZOS))
            prompts.append(text.splitlines()[0].strip())
    if not pictures:
        raise ValueError(f"{folder} holds no PNG with a `parameters` text chunk.")
    return names, pictures, prompts


def main() -> None:
    """Judge every picture and print the two counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subject", default="robot")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.subject not in BY_NAME:
        raise ValueError(f"{args.subject!r} is no object of the recipe's list.")
    torch.manual_seed(0)
    names, pictures, prompts = read_folder(args.folder)
    backgrounds, rows = Backgrounds(), []
    nearest, kinds = Recogniser().names(pictures), backgrounds.kinds(pictures)
    for i, name in enumerate(names):
        kind, colour = prompted(prompts[i])
        seen_colour = border_colour(pictures[i])
        right = kinds[i] == kind and (not colour or seen_colour == colour) if kind else None
        rows.append({
            "file": name, "prompt": prompts[i], "nearest": nearest[i],
            "is_subject": nearest[i] == args.subject,
            "prompted": " ".join(filter(None, (kind, colour))), "seen": kinds[i],
            "border_colour": seen_colour, "background_right": right,
        })  # fmt: skip
        print(f"{name}: nearest {nearest[i]}; asked {rows[-1]['prompted'] or '-'}, seen {kinds[i]}"
              f" ({seen_colour}); {prompts[i]}")  # fmt: skip
    asked = [row for row in rows if row["background_right"] is not None]
    result = {
        "subject": args.subject, "pictures": len(rows),
        "subject_nearest": sum(row["is_subject"] for row in rows),
        "background_asked": len(asked),
        "background_right": sum(row["background_right"] for row in asked),
        "classifier_accuracy": round(backgrounds.accuracy, 4), "rows": rows,
    }  # fmt: skip
    print(f"{result['subject_nearest']} of {len(rows)} show the subject; "
          f"{result['background_right']} of {len(asked)} show the prompted background")  # fmt: skip
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
