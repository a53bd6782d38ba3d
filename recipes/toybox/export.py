"""Write the pipeline to `svfit_diffusion/toybox/model/`: fp16 safetensors, sizes, SHA-256.

The only writer of that folder. Run: python recipes/toybox/export.py [--checkpoint decayed.pt]
(`--untrained` writes the layout with whatever there is, random where nothing was trained).
"""

from __future__ import annotations

import argparse
import json
import shutil

import torch
from common import EXPORT, RECIPE, sha256, work_dir, write_json
from diffusers import StableDiffusionPipeline
from text_model import build_text_encoder, load_tokenizer
from unet_model import build_scheduler, build_unet, unet_of
from vae_model import build_vae, load_vae

LIMIT = 60_000_000  # bytes


def pipeline(checkpoint: str, untrained: bool = False) -> tuple[StableDiffusionPipeline, dict]:
    """The pipeline in fp32 with EMA weights, and what it was made of."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer()
    text = build_text_encoder(tokenizer)
    path = work_dir() / "unet" / checkpoint
    facts = {"steps": 0, "samples": 0, "objects": 0}
    if path.is_file():
        state = torch.load(path, weights_only=True)
        unet = unet_of(state["ema_unet"])
        text.load_state_dict(state["ema_text"])
        facts = {key: state[name] for key, name in
                 (("steps", "step"), ("samples", "samples"), ("objects", "objects"))}  # fmt: skip
    elif untrained:
        unet = build_unet()
    else:
        raise ValueError(f"There is no checkpoint {path}; run train_unet.py first.")
    try:
        vae = load_vae()
    except ValueError:
        if not untrained:
            raise
        vae = build_vae()
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=build_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return pipe, facts


def main() -> None:
    """Export, then print what lies there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", default="decayed.pt")
    parser.add_argument("--untrained", action="store_true")
    args = parser.parse_args()
    pipe, facts = pipeline(args.checkpoint, args.untrained)
    new = EXPORT.with_name("model.new")
    shutil.rmtree(new, ignore_errors=True)
    pipe.to(dtype=torch.float16).save_pretrained(new, safe_serialization=True)
    config = new / "text_encoder" / "config.json"  # else it alone would load in half precision
    write_json(config, {**json.loads(config.read_text("utf-8")), "dtype": "float32"})
    files = {p.relative_to(new).as_posix(): p for p in sorted(new.rglob("*")) if p.is_file()}
    total = sum(p.stat().st_size for p in files.values())
    if total > LIMIT:
        raise ValueError(f"The export has {total} bytes; at most {LIMIT} may ship.")
    facts["bytes"] = total
    facts["sha256"] = {name: sha256(path) for name, path in files.items()}
    write_json(RECIPE / "export.json", facts)
    shutil.rmtree(EXPORT, ignore_errors=True)
    new.rename(EXPORT)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
