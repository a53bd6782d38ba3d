"""The commands and the Python of README and docs, and a place where they can be run as written."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from helpers.tiny_families import make_flux, make_sdxl
from helpers.tiny_newer_families import make_krea2
from helpers.tiny_pipelines import load, make_concept
from svfit_diffusion.concept.file import read_concept, write_concept
from svfit_diffusion.generation import Parameters, save_png
from svfit_diffusion.training import sample_folder

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name / "README.md" for name in ("integrations/comfyui", "samples/robot")),
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}[^\n]*\n)+")
SHELL = ("svfit", "make", "pip", "python", "git", "eval")  # how a command begins
SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@dataclass(frozen=True)
class Block:
    """Commands, or Python, of one page, as written there. lines: a command or statement each."""

    page: str
    text: str
    python: bool

    @property
    def commands(self) -> list[str]:
        """Its commands, each on one line, without comments."""
        whole = re.sub(r"\s*\\\n\s*", " ", self.text)
        return [line.split(" # ")[0].strip() for line in whole.splitlines() if line.strip()]

    def __str__(self) -> str:
        """A name for it: the page and how it begins."""
        return f"{self.page}: {self.text.splitlines()[0].strip()[:40]}"


def blocks() -> tuple[list[Block], list[Block]]:
    """All blocks to be run; and those that are neither commands nor Python."""
    found, others = [], []
    for page in PAGES:
        text, name = page.read_text("utf-8"), str(page.relative_to(ROOT))
        found += [
            Block(name, code, True) for kind, code in FENCED.findall(text) if kind == "python"
        ]
        for code in INDENTED.findall(FENCED.sub("", text)):
            block = Block(name, re.sub(r"^ {4}", "", code, flags=re.MULTILINE), False)
            (found if code.split()[0] in SHELL else others).append(block)
    return found, others


def make_scratch(folder: Path, base_folder: Path) -> Path:
    """A user's folder: photos, and concepts of the tiny base under the names that pages use."""
    for name in ("photos/rex", "concepts", "elsewhere", "rex", "svfit-demo/robot"):
        (folder / name).mkdir(parents=True)
    for number in range(5):
        photo = Image.new("RGB", (40, 32), (50 * number, 90, 200 - 40 * number))
        photo.paste((255, 0, 0), (8 + 3 * number, 8, 24 + 3 * number, 24))
        photo.save(folder / "photos" / "rex" / f"{number}.png")
        photo.save(folder / "photos" / f"{number}.jpg")
    (folder / "svfit-pictures").mkdir()
    made = Parameters(prompt="a photo of sks dog on the beach", width=40, height=32)
    save_png(photo, folder / "svfit-pictures" / "00000000.png", made)
    pipe = load(base_folder)
    for seed, (name, trigger) in enumerate(
        {"concepts/rex": "sks", "concepts/mug": "mug", "elsewhere/max": "zwx"}.items()
    ):
        concept = replace(make_concept(pipe, seed=seed, token=trigger), base=SD)
        write_concept(concept, folder / f"{name}.safetensors")
        if name == "concepts/rex":
            write_concept(concept, folder / "rex" / "rex.safetensors")
    sample = read_concept(sample_folder().parent / "robot.safetensors")
    write_concept(sample, folder / "svfit-demo" / "robot" / "robot.safetensors")
    return folder


def make_hub_cache(cache: Path, base_folder: Path) -> None:
    """The Hub's local cache with the bases that pages name: tiny ones under these names."""
    load(base_folder).save_pretrained(_cached(cache, SD))  # in float32, as that is published
    krea = make_krea2()
    for name in ("krea/Krea-2-Raw", "krea/Krea-2-Turbo"):
        krea.save_pretrained(_cached(cache, name))
    make_sdxl().save_pretrained(_cached(cache, "stabilityai/stable-diffusion-xl-base-1.0"))
    make_flux().save_pretrained(_cached(cache, "black-forest-labs/FLUX.1-dev"))


def _cached(cache: Path, repo: str) -> Path:
    """Where the cache has a repository's files."""
    home = cache / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    (home / "snapshots").mkdir()
    return home / "snapshots" / ("0" * 40)
