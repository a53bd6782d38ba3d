"""Evaluations on Toybox, with the real extractor that works offline; others as tiny copies."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from svfit_diffusion.cli.main import main
from svfit_diffusion.evaluation import comparison as evaluate
from svfit_diffusion.evaluation import dreambooth as benchmark
from svfit_diffusion.evaluation import dreambooth_prompts as protocol
from svfit_diffusion.evaluation.comparison import EvaluationPlan
from svfit_diffusion.evaluation.features import load_extractor
from svfit_diffusion.training.subject import sample_folder

PHOTOS = sample_folder()
CONCEPT = PHOTOS.parent / "robot.safetensors"
OFFLINE = "efficientnet-lite0"


def small_plan(**more):
    return EvaluationPlan(
        prompts=("a photo of {}", "{} in the snow"), others=("a photo of a house",),
        num=2, steps=2, features=(OFFLINE,), **more,
    )  # fmt: skip


def run(folder, plan, **more):
    images = evaluate.read_references(PHOTOS)
    given = [CONCEPT], images, images, folder, plan
    return evaluate.evaluate("toybox", *given, progress=False, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return folder, run(folder, small_plan())


def test_rows_and_files(made):
    folder, (base, concept) = made
    assert base.name == "base" and base.likeness[OFFLINE].fidelity == 0 and base.drift < 1e-6
    assert concept.bytes == CONCEPT.stat().st_size and concept.values == 5952
    like = concept.likeness[OFFLINE]
    see = load_extractor(OFFLINE).features  # the same from the files, written out
    own, plain = (
        see([Image.open(p) for p in sorted(folder.glob(f"{name}/00[01]-*.png"))]).numpy()
        for name in (concept.name, "base")
    )
    real = see([Image.open(p) for p in sorted(PHOTOS.glob("*.png"))]).numpy()
    one = np.mean([a @ b for i, a in enumerate(real) for j, b in enumerate(real) if i != j])
    zero = np.mean([a @ b for a in plain for b in real])
    raw = np.mean([a @ b for a in own for b in real])
    assert like.fidelity == pytest.approx((raw - zero) / (one - zero), abs=1e-4)
    assert like.copy == pytest.approx(np.mean([max(a @ b for b in real) for a in own]), abs=1e-5)
    pairs = [own[i] @ own[i + 1] for i in (0, 2)]
    assert concept.diversity == pytest.approx(1 - np.mean(pairs), abs=1e-5)
    assert concept.drift > 0 and concept.diversity > 0 and concept.alignment is None
    assert Image.open(folder / "sheet.png").width > 256
    stored = json.loads((folder / "scores.json").read_text())["rows"]
    assert stored[1]["likeness"][OFFLINE]["fidelity"] == pytest.approx(like.fidelity)
    assert len(list(folder.glob("*/*.png"))) == 2 * 3 * 2


def test_it_goes_on_where_it_stopped(made):
    folder, rows = made
    pictures = sorted(folder.glob("robot-*/*.png"))
    before = {path: path.stat().st_mtime_ns for path in pictures}
    content = pictures[0].read_bytes()
    pictures[0].write_bytes(content[:100])
    again = run(folder, small_plan())
    assert pictures[0].read_bytes() == content
    assert all(path.stat().st_mtime_ns == before[path] for path in pictures[1:])
    assert again == rows


def test_other_settings_draw_anew(made, tmp_path):
    folder, _ = made
    path = next(folder.glob("base/000-0.png"))
    old = path.read_bytes()
    with pytest.raises(ValueError, match="of other settings; pass another --output_dir"):
        run(folder, small_plan(guidance=1.5))
    assert path.read_bytes() == old
    run(folder, small_plan(guidance=1.5), overwrite=True)
    assert path.read_bytes() != old


def test_masks_cut_the_references(tmp_path):
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (32, 32, 96, 96))
    mask.save(tmp_path / "00.png")
    first, second = evaluate.read_references(PHOTOS, tmp_path)[:2]
    assert first.size == (70, 70) and second.size == (128, 128)
    with pytest.raises(ValueError, match="no mask that is named like"):
        (tmp_path / "00.png").rename(tmp_path / "x.png")
        evaluate.read_references(PHOTOS, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--features", "vgg"], "not a feature extractor"),
        (["--features", "dino=/nowhere"], "cannot be loaded"),
        ([], "--reference_dir"),
        (["--preset", "dreambooth"], "--dataset_dir"),
        (["--num", "1"], "2 pictures"),
    ],
)
def test_mistakes_are_one_sentence(arguments, words, capsys, tmp_path):
    more = ["--reference_dir", str(PHOTOS), "--concept", str(CONCEPT)] if "=" in str(arguments) or (
        "vgg" in arguments) else []  # fmt: skip
    assert main(["evaluate", "--output_dir", str(tmp_path), *arguments, *more]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and "Traceback" not in said and len(said.splitlines()) == 1


def test_command_prints_the_table(made, capsys):
    folder, _ = made
    prompts = folder / "prompts.txt"
    prompts.write_text("a photo of {}\n\n{} in the {snow}\n")
    flags = ["--reference_dir", str(PHOTOS), "--concept", str(CONCEPT), "--features", OFFLINE]
    flags += ["--num", "2", "--steps", "2", "--prompts", str(prompts), "--output_dir", str(folder)]
    flags += ["--overwrite"]  # what the folder holds is of other settings
    assert main(["evaluate", *flags]) == 0
    said = capsys.readouterr().out
    assert "robot-" in said and "fidelity" in said and "5,952" in said


def vision(folder, kind):
    """A tiny extractor of one of transformers' classes, saved as the real ones are."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 16, "image_size": 28, "patch_size": 14}  # fmt: skip
    torch.manual_seed(0)
    if kind == "clip":
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "intermediate_size": 16, "vocab_size": 200}  # fmt: skip
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=sizes, projection_dim=8))
        CLIPImageProcessor(size=28, crop_size=28).save_pretrained(folder)
    else:
        model = (
            ViTModel(ViTConfig(**sizes)) if kind == "dino" else Dinov2Model(Dinov2Config(**sizes))
        )
        ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", ["dino", "dinov2", "clip"])
def test_extractors_of_transformers(kind, tmp_path, request):
    model = vision(tmp_path, kind).eval()
    if kind == "clip":
        from helpers.tiny_pipelines import make_tokenizer

        make_tokenizer().save_pretrained(tmp_path)
    extractor = load_extractor(f"{kind}={tmp_path}")
    images = evaluate.read_references(PHOTOS)
    found = extractor.features(images)
    assert found.shape == (5, 8 if kind == "clip" else 16)
    assert torch.allclose(found.norm(dim=1), torch.ones(5), atol=1e-5)
    pixels = extractor.prepare(images[:1], return_tensors="pt").pixel_values
    with torch.no_grad():
        if kind == "clip":
            words = make_tokenizer()(["a dog"], return_tensors="pt")
            out = model(pixel_values=pixels, **words)
            wanted = out.image_embeds[0]
            assert torch.allclose(extractor.texts(["a dog"]), out.text_embeds, atol=1e-5)
        else:
            wanted = model(pixels).last_hidden_state[0, 0]
    wanted = wanted / wanted.norm()
    assert torch.allclose(found[0], wanted, atol=1e-5)


def test_the_grid_knows_where_a_thing_is():
    photo = Image.open(sorted(PHOTOS.glob("*.png"))[0]).convert("RGB").resize((64, 64))
    pictures = [Image.new("RGB", (128, 128), "white") for _ in range(3)]
    pictures[0].paste(photo, (0, 0))
    pictures[1].paste(photo, (64, 64))
    pooled, grid = (load_extractor(f"{OFFLINE}{kind}").features(pictures) for kind in ("", "-grid"))
    assert pooled.shape == grid.shape == (3, 1280)
    assert torch.allclose(grid.norm(dim=1), torch.ones(3), atol=1e-5)
    assert pooled[0] @ pooled[1] > grid[0] @ grid[1] + 0.2
    for picture, rows in ((0, slice(0, 2)), (1, slice(2, 4))):
        cells = (grid[picture] - grid[2]).reshape(80, 4, 4).pow(2)  # unlike an empty picture there
        assert cells[:, rows, rows].sum() > 0.5 * cells.sum()


def test_dreambooth_is_the_published_protocol():
    assert len(protocol.SUBJECTS) == 30
    for word in set(protocol.SUBJECTS.values()):
        prompts = protocol.prompts(word)
        assert len(set(prompts)) == 25 and all(p.count("{}") == 1 for p in prompts)
    assert "a {} in a purple wizard outfit" in protocol.prompts("dog")
    assert "a {} floating in an ocean of milk" in protocol.prompts("vase")
    assert sum(word in protocol.LIVING for word in protocol.SUBJECTS.values()) == 9


def test_dreambooth_trains_draws_and_averages(tmp_path, monkeypatch):
    """All steps on two subjects with Toybox; a second call makes nothing again."""
    monkeypatch.setattr(protocol, "SUBJECTS", {"robot_toy": "toy", "dog": "dog"})
    monkeypatch.setattr(protocol, "_PLACES", ("in the snow",))
    for things in ("_THINGS", "_OUTFITS"):
        monkeypatch.setattr(protocol, things, ())
    monkeypatch.setattr(protocol, "_LOOKS", ("red",))
    monkeypatch.setattr(protocol, "PICTURES", 2)
    with pytest.raises(ValueError, match="robot_toy"):
        benchmark.run_dreambooth("toybox", tmp_path, tmp_path / "out", small_plan())
    for name in protocol.SUBJECTS:
        (tmp_path / name).mkdir()
        for photo in sorted(PHOTOS.glob("*.png"))[:2]:
            (tmp_path / name / photo.name).write_bytes(photo.read_bytes())
    call = ("toybox", tmp_path, tmp_path / "out", small_plan(), 2)
    means = benchmark.run_dreambooth(*call)
    assert set(means) == {OFFLINE} and -1 < means[OFFLINE] < 1
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/*.safetensors")}
    assert len(stamps) == 2
    assert benchmark.run_dreambooth(*call) == means
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
