"""Check Toybox: does it draw what it is asked? Writes `check.json` and `check_sheet.jpg`.

Run: python recipes/toybox/check.py              (the shipped model)
     python recipes/toybox/check.py --checkpoint stable.pt --out /tmp/check
     python recipes/toybox/check.py --checkpoint stable.pt --out /tmp/check --quick   (a first look)
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

import numpy as np
import torch
from captions import PATTERN_WORDS, SCENE_WORDS, caption
from common import EXPORT, RECIPE, write_json
from fidelity import NAMES, check_known, check_truths, decoded_pictures, halved
from judge import KINDS, Backgrounds, Recogniser, border_colour
from latents import chosen_objects
from objects import with_article
from PIL import Image
from preview import captioned_grid
from scenes import COLOURS, two_colours
from vae_model import psnr
from world import Placed, Sample, World

STEPS, GUIDANCE = 25, 3.0


def draw(pipe, prompts: list[str], seed: int | list[int] = 0, batch: int = 16) -> list[Image.Image]:
    """One picture per prompt, 128 px; picture i has its own seed: seed + i, or the i-th given."""
    seeds = range(seed, seed + len(prompts)) if isinstance(seed, int) else seed
    pictures = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        generators = [torch.Generator().manual_seed(s) for s in seeds[start : start + batch]]
        pictures += pipe(part, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                         generator=generators, height=128, width=128).images  # fmt: skip
    return pictures


def share(flags) -> float:
    """Share of true values, rounded."""
    return round(float(np.mean(list(flags))), 4)


def check_vae(vae) -> dict:
    """PSNR on unseen composites of the training world."""
    rng, world = np.random.default_rng(123_456), World()
    pictures = np.stack([world.sample(rng, 0.5).picture for _ in range(96)])
    values = psnr(vae, pictures)
    mean, worst = round(float(values.mean()), 2), round(float(values.min()), 2)
    return {"psnr_db": mean, "psnr_db_worst": worst, "pictures": len(pictures)}


def check_colours(pipe, names: list[str]) -> dict:
    """Plain background colours: two objects on each colour."""
    colours = [colour for colour in COLOURS for _ in range(2)]
    prompts = [f"a photo of {with_article(names[i % len(names)])} on a {colour} background"
               for i, colour in enumerate(colours)]  # fmt: skip
    seen = [border_colour(picture) for picture in draw(pipe, prompts, 100)]
    wrong = [f"{a} as {b}" for a, b in zip(colours, seen, strict=True) if a != b]
    right = share(a == b for a, b in zip(colours, seen, strict=True))
    return {"right": right, "pictures": len(colours), "colours": len(COLOURS), "wrong": wrong}


def check_backgrounds(pipe, names: list[str], backgrounds: Backgrounds) -> dict:
    """Scenes and patterns: four objects on each."""
    rng, kinds, prompts = np.random.default_rng(5), [], []
    for index, kind in enumerate(k for k in KINDS[1:] for _ in range(4)):
        if kind in SCENE_WORDS:
            words = SCENE_WORDS[kind][0]
        else:
            words = PATTERN_WORDS[kind][0].format(*two_colours(rng))
        name = names[(7 * index) % len(names)]
        kinds.append(kind)
        prompts.append(f"a photo of {with_article(name)} {words}")
    seen = backgrounds.kinds(draw(pipe, prompts, 200))
    each = {kind: share(s == k for s, k in zip(seen, kinds, strict=True) if k == kind)
            for kind in KINDS[1:]}  # fmt: skip
    right = share(a == b for a, b in zip(kinds, seen, strict=True))
    return {"right": right, "each": each, "pictures": len(kinds),
            "classifier_accuracy": round(backgrounds.accuracy, 4)}  # fmt: skip


def check_objects(pipe, items: tuple, recogniser: Recogniser) -> dict:
    """Every trained name on plain white, against all reference renders; the ceiling beside it."""
    names, world = [item.name for item in items], World(items)
    prompts = [f"a photo of {with_article(name)} on a white background" for name in names]
    ranks = recogniser.ranks(draw(pipe, prompts, 300), names)
    ceiling = recogniser.ranks(
        decoded_pictures(pipe.vae, [world.reference(i) for i in items]), names
    )
    return {
        "top1": share(r == 1 for r in ranks), "top5": share(r <= 5 for r in ranks),
        "ceiling_top1": share(r == 1 for r in ceiling),
        "ceiling_top5": share(r <= 5 for r in ceiling), "names": len(names),
        "references": len(recogniser.views),
        "missed": [n for n, r in zip(names, ranks, strict=True) if r > 5],
    }  # fmt: skip


def check_two(pipe, items: tuple, recogniser: Recogniser, pairs: int = 72) -> dict:
    """Two objects: each half, on white, must show its object among the five nearest."""
    rng, by_name = np.random.default_rng(6), {item.name: item for item in items}
    chosen = [rng.choice(list(by_name), 2, replace=False) for _ in range(pairs)]
    prompts = [f"a photo of {with_article(a)} on the left and {with_article(b)} on the right "
               "on a white background" for a, b in chosen]  # fmt: skip
    world, renders = World(items), []
    for names in chosen:
        things = [Placed(by_name[n], 64, 64, x) for n, x in zip(names, (32, 96), strict=True)]
        renders.append(world.render(rng, Sample("plain", ("white",), "photo", things)))

    def both(pictures: list[Image.Image]) -> float:
        halves = [[p.crop((x, 32, x + 64, 96)) for p in pictures] for x in (0, 64)]
        ranks = [recogniser.ranks(half, [names[side] for names in chosen])
                 for side, half in enumerate(halves)]  # fmt: skip
        return share(a <= 5 and b <= 5 for a, b in zip(*ranks, strict=True))

    return {"both_in_top5": both(draw(pipe, prompts, 400)),
            "ceiling": both(decoded_pictures(pipe.vae, renders)), "pictures": pairs}  # fmt: skip


def check_speed(pipe) -> dict:
    """Seconds for one picture of 25 steps with guidance, batch 1, the best of three."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        draw(pipe, ["a photo of a dog on the beach"])
        seconds.append(time.perf_counter() - start)
    return {"seconds_25_steps": round(min(seconds), 2), "threads": torch.get_num_threads()}


def check_fidelity(pipe, quick: bool) -> dict:
    """Fidelity of true pictures sent through the VAE, and of known objects asked for by name."""
    names, seeds = (NAMES[::3], 1) if quick else (NAMES, 4)
    known = check_known(functools.partial(draw, pipe), names, seeds)
    return {"true_pictures": check_truths(pipe.vae, names), "known_objects": known}


def contact_sheet(pipe, items: tuple, path: Path) -> None:
    """64 captions of the world with what the model makes of them."""
    rng, world = np.random.default_rng(7), World(items)
    prompts = [caption(rng, world.draw(rng, 0.7)) for _ in range(64)]
    captioned_grid(draw(pipe, prompts, 500), prompts, 8).save(path, quality=88)


def check_prompts(pipe, items: tuple) -> dict:
    """Colours, scenes, patterns, objects by their nearest render, and the time it takes."""
    names, recogniser = [item.name for item in items], Recogniser()
    return {
        "speed": check_speed(pipe),
        "colours": check_colours(pipe, names),
        "backgrounds": check_backgrounds(pipe, names, Backgrounds()),
        "objects_on_white": check_objects(pipe, items, recogniser),
        "two_objects": check_two(pipe, items, recogniser),
    }


def open_pipeline(checkpoint: str | None):
    """The shipped pipeline, or one of a checkpoint; in float32."""
    from diffusers import StableDiffusionPipeline
    from export import pipeline

    if checkpoint:
        pipe, facts = pipeline(checkpoint)
    else:
        import json

        pipe = StableDiffusionPipeline.from_pretrained(
            EXPORT, safety_checker=None, dtype=torch.float32
        )
        facts = json.loads((RECIPE / "export.json").read_text("utf-8"))
    pipe.set_progress_bar_config(disable=True)
    return pipe, {key: facts[key] for key in ("steps", "samples", "objects")}


def main() -> None:
    """Run all checks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint")
    parser.add_argument("--out", type=Path, default=RECIPE)
    parser.add_argument("--bf16", action="store_true", help="the UNet's work: twice as fast")
    parser.add_argument("--quick", action="store_true", help="VAE and fidelity, of a few pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pipe, result = open_pipeline(args.checkpoint)
    if args.bf16:
        halved(pipe)
    items = chosen_objects(result["objects"])
    result["vae"] = check_vae(pipe.vae)
    result |= check_fidelity(pipe, args.quick)
    if not args.quick:
        result |= check_prompts(pipe, items)
    result["settings"] = {"steps": STEPS, "guidance": GUIDANCE, "bf16": args.bf16}
    for key, value in result.items():
        print(key, value, flush=True)
    write_json(args.out / "check.json", result)
    contact_sheet(pipe, items, args.out / "check_sheet.jpg")


if __name__ == "__main__":
    main()
