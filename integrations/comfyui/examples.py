"""Make example_workflows: each graph as ComfyUI's page saves it, and its picture.

    python integrations/comfyui/examples.py

They name the checkpoint and the concepts that a user replaces by own ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).resolve().parent / "example_workflows"
CHECKPOINT, CONCEPTS = (
    "v1-5-pruned-emaonly-fp16.safetensors",
    ("rex.safetensors", "mug.safetensors"),
)
SCALE, MARGIN = 0.5, 30  # of the pictures: pixels for each unit of the page; pixels
WHITE, BOX, OURS, LINE = (240, 240, 240), (53, 53, 53), (38, 70, 120), (150, 150, 150)


class Node(NamedTuple):
    """A node of a graph: kind, title, place (x, y) and size (w, h) on the page, inputs with where
    they come from (name, type, node, slot), outputs (name, type), and the values of its widgets.
    """

    kind: str
    title: str
    place: tuple[int, int]
    size: tuple[int, int]
    inputs: tuple[tuple[str, str, int, int], ...]
    outputs: tuple[tuple[str, str], ...]
    widgets: tuple


def picture_of(loader: Node, prompt: str) -> list[Node]:
    """A graph that loads concepts by `loader`, and makes a picture of a prompt."""
    words = ("CLIPTextEncode", "CLIP Text Encode")
    sampled = (
        ("model", "MODEL", 2, 0),
        ("positive", "CONDITIONING", 3, 0),
        ("negative", "CONDITIONING", 4, 0),
        ("latent_image", "LATENT", 5, 0),
    )
    checkpoint = (("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE"))
    text, encoded = (("clip", "CLIP", 2, 1),), (("CONDITIONING", "CONDITIONING"),)
    numbers = (7, "fixed", 25, 7.5, "euler", "normal", 1.0)
    decoded = (("samples", "LATENT", 6, 0), ("vae", "VAE", 1, 2))
    latent, image = (("LATENT", "LATENT"),), (("IMAGE", "IMAGE"),)
    return [
        Node("CheckpointLoaderSimple", "Load Checkpoint", (0, 120), (300, 100), (), checkpoint,
             (CHECKPOINT,)),
        loader,
        Node(*words, (740, 0), (330, 140), text, encoded, (prompt,)),
        Node(*words, (740, 190), (330, 140), text, encoded, ("blurry, deformed",)),
        Node("EmptyLatentImage", "Empty Latent Image", (740, 380), (330, 110), (), latent,
             (512, 512, 1)),
        Node("KSampler", "KSampler", (1120, 0), (300, 260), sampled, latent, numbers),
        Node("VAEDecode", "VAE Decode", (1120, 310), (300, 60), decoded, image, ()),
        Node("SaveImage", "Save Image", (1120, 420), (300, 90), (("images", "IMAGE", 7, 0),), (),
             ("svfit",)),
    ]  # fmt: skip


def graphs() -> dict[str, list[Node]]:
    """Name of an example -> its nodes, numbered from 1 in order."""
    both = (("model", "MODEL", 1, 0), ("clip", "CLIP", 1, 1))
    out, here = (("MODEL", "MODEL"), ("CLIP", "CLIP")), (350, 60)
    one = Node("SVFitLoadConcept", "Load SVFit Concept", here, (340, 230), both,
               (*out, ("trigger", "STRING")), (CONCEPTS[0], 1.0, 1.0, 1.0))  # fmt: skip
    slots = (CONCEPTS[0], 1.0, CONCEPTS[1], 1.0, "none", 1.0, "none", 1.0)
    two = Node("SVFitSeveralConcepts", "Several Concepts", here, (340, 330), both,
               (*out, ("triggers", "STRING")), slots)  # fmt: skip
    info = Node("SVFitConceptInfo", "Concept Info", (350, 340), (340, 150), (),
                (("trigger", "STRING"), ("info", "STRING")), (CONCEPTS[0],))  # fmt: skip
    return {
        "one_concept": [*picture_of(one, "a photo of sks dog on a beach"), info],
        "several_concepts": picture_of(two, "a photo of sks dog beside zwx mug"),
    }


def as_page(nodes: list[Node]) -> dict:
    """The graph in the form of ComfyUI's page."""
    links, saved = [], []
    for number, node in enumerate(nodes, 1):
        for slot, (_, kind, source, output) in enumerate(node.inputs):
            links.append([len(links) + 1, source, output, number, slot, kind])
    for number, node in enumerate(nodes, 1):
        into = [link[0] for link in links if link[3] == number]
        inputs = [
            {"name": name, "type": kind, "link": link}
            for (name, kind, _, _), link in zip(node.inputs, into, strict=True)
        ]
        outputs = [
            {"name": name, "type": kind, "slot_index": i,
             "links": [link[0] for link in links if link[1:3] == [number, i]]}
            for i, (name, kind) in enumerate(node.outputs)
        ]  # fmt: skip
        saved.append(
            {"id": number, "type": node.kind, "pos": node.place, "size": node.size, "flags": {},
             "order": number - 1, "mode": 0, "inputs": inputs, "outputs": outputs,
             "title": node.title, "properties": {"Node name for S&R": node.kind},
             "widgets_values": node.widgets}
        )  # fmt: skip
    last = {"last_node_id": len(nodes), "last_link_id": len(links)}
    return last | {"nodes": saved, "links": links, "groups": [], "config": {}, "extra": {},
                   "version": 0.4}  # fmt: skip


def draw(nodes: list[Node]) -> Image.Image:
    """The graph as boxes and lines."""
    width = max(n.place[0] + n.size[0] for n in nodes)
    height = max(n.place[1] + n.size[1] for n in nodes)
    image = Image.new("RGB", [int(v * SCALE) + 2 * MARGIN for v in (width, height)], WHITE)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(12)

    def at(x: float, y: float) -> tuple[float, float]:
        return MARGIN + x * SCALE, MARGIN + y * SCALE

    for node in nodes:
        for slot, (_, _, source, output) in enumerate(node.inputs):
            (x, y), (w, _) = nodes[source - 1].place, nodes[source - 1].size
            ends = (
                at(x + w, y + 45 + 22 * output),
                at(node.place[0], node.place[1] + 45 + 22 * slot),
            )
            pen.line(ends, LINE, 2)
    for node in nodes:
        (x, y), (w, h) = node.place, node.size
        box = (*at(x, y), *at(x + w, y + h))
        pen.rounded_rectangle(box, 5, OURS if node.kind.startswith("SVFit") else BOX)
        pen.text(at(x + 14, y + 10), node.title, WHITE, font)
        shown = [str(value) for value in node.widgets if value != "none"]
        for i, value in enumerate(shown[: (h - 40) // 30]):
            pen.text(at(x + 14, y + 42 + 30 * i), value[: w // 14], LINE, font)
    return image


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, graph in graphs().items():
        (FOLDER / f"{name}.json").write_text(json.dumps(as_page(graph), indent=1) + "\n")
        draw(graph).save(FOLDER / f"{name}.jpg", quality=90)
