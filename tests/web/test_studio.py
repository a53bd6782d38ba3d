"""web: the library, photos taken in, bases described, plans, HTML; without a page."""

import threading
import types
from dataclasses import replace

import numpy as np
import pytest
from helpers.tiny_families import save_tiny
from helpers.tiny_pipelines import load, make_concept
from PIL import Image

from svfit_diffusion import toybox
from svfit_diffusion.concept.file import write_concept
from svfit_diffusion.data.reading import read_folder
from svfit_diffusion.web.page import render
from svfit_diffusion.web.service.server import check_access
from svfit_diffusion.web.studio.bases import describe_base
from svfit_diffusion.web.studio.cards import read_card
from svfit_diffusion.web.studio.generation_jobs import GenerationJobs
from svfit_diffusion.web.studio.library import MAX_DELETED, Library, slug
from svfit_diffusion.web.studio.photos import inspect_photos, save_photos
from svfit_diffusion.web.studio.presets import make_config
from svfit_diffusion.web.studio.shared_pipeline import Job, Step
from svfit_diffusion.web.studio.words import class_word, propose_token
from svfit_diffusion.web.studio.workspace import Workspace


@pytest.fixture(scope="module")
def concept(base_folder):
    return make_concept(load(base_folder))


def variant(concept, number):
    """A concept with other values."""
    return replace(concept, deltas=(concept.deltas + number).astype(np.float16))


def test_two_processes_may_change_a_library_at_once(concept, tmp_path):
    paths = [tmp_path / f"{i}" / "rex.safetensors" for i in range(12)]
    for i, path in enumerate(paths):
        write_concept(variant(concept, i), path)
    libraries = [Library(tmp_path / "home") for _ in range(3)]  # a lock file of its own each
    errors = []

    def work(library, mine):
        try:
            for path in mine:
                library.add(path)
            library.delete(library.add(mine[0]))
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(library, paths[i::3]))
        for i, library in enumerate(libraries)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = libraries[0].entries()
    assert not errors and len(entries) == 9
    assert len({entry.card.digest for entry in entries}) == 9
    assert all(entry.path.name == f"{entry.name}.safetensors" for entry in entries)
    for _ in range(3):
        libraries[1].undo()
    assert len(libraries[2].entries()) == 12
    assert [p.name for p in (tmp_path / "home").iterdir() if p.name.startswith(".new")] == []


def test_undo_makes_way_and_the_bin_stays_small(concept, tmp_path):
    library, file = Library(tmp_path), tmp_path / "rex.safetensors"
    write_concept(concept, file)
    image = Image.new("RGB", (900, 600), "red")
    library.delete(library.add(file, preview=image))
    write_concept(variant(concept, 1), file)
    assert library.add(file) == "rex"
    assert library.undo() == "rex_2", "its name was taken meanwhile"
    entry = library.get("rex_2")
    assert entry.card.digest == read_card(entry.path).digest
    assert max(Image.open(entry.preview).size) == 256
    for i in range(MAX_DELETED + 3):
        write_concept(variant(concept, 2 + i), file)
        library.delete(library.add(file))
    assert len(list(library.bin.iterdir())) == MAX_DELETED
    (library.concepts / "broken").mkdir()
    (library.concepts / "broken" / "broken.safetensors").write_bytes(b"?")
    assert "broken" not in library.names()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc", "etc"),
        ("Mein Hündchen!", "mein_hundchen"),
        ("狗", "concept"),
        ("x" * 99, "x" * 40),
    ],
)
def test_names_are_ours(text, name):
    assert slug(text) == name


def test_photos_are_shown_as_the_model_sees_them_and_bad_files_are_named(tmp_path):
    upright = Image.new("RGB", (40, 80), "blue")
    upright.paste("red", (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 8  # to be turned left for viewing
    upright.rotate(-90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.new("RGB", (64, 64), "green").save(tmp_path / "square.png")
    (tmp_path / "notes.jpg").write_text("no picture")
    paths = [str(tmp_path / name) for name in ("turned.jpg", "notes.jpg", "square.png")]
    found = inspect_photos(paths, 32)
    assert [caption for _, caption in found.crops] == ["1 top", "1 middle", "1 bottom", "2"]
    top, bottom = found.crops[0][0].getpixel((16, 16)), found.crops[2][0].getpixel((16, 16))
    assert top[0] > 200 > top[2] and bottom[2] > 200 > bottom[0]
    assert len(found.refused) == 1 and "notes.jpg" in found.refused[0]
    assert len(inspect_photos(paths, 32, center=True).crops) == 2
    assert save_photos(paths, tmp_path / "kept") == 2
    assert [p.name for p in sorted((tmp_path / "kept").iterdir())] == ["000.png", "001.png"]
    assert not Image.open(tmp_path / "kept" / "000.png").getexif()


def test_captions_go_with_their_photos_wherever_they_were_uploaded_to(tmp_path):
    for place, name, content in (
        ("0", "wide.jpg", None),
        ("1", "square.png", None),
        ("2", "square.txt", "  a photo of sks dog at night\n"),
        ("3", "wide.txt", "\ufeffeine süße sks Katze"),
        ("4", "alone.txt", "of no photo"),
    ):
        path = tmp_path / place / name
        path.parent.mkdir()
        if content is None:
            Image.new("RGB", (32 if name == "square.png" else 64, 32), "green").save(path)
        else:
            path.write_text(content, "utf-8")
    paths = sorted(str(path) for path in tmp_path.glob("*/*"))
    found = inspect_photos(paths, 32)
    assert found.crops[-1][1] == "2 a photo of sks dog at night"
    assert found.refused == ["alone.txt is no photo's caption; name it like its photo."]
    assert save_photos(paths, tmp_path / "kept") == 2
    photos, skipped = read_folder(tmp_path / "kept")
    assert [photo.caption for photo in photos] == [
        "eine süße sks Katze",
        "a photo of sks dog at night",
    ]
    assert not skipped
    (tmp_path / "3" / "wide.txt").write_bytes(b"\xff\xfe")
    assert "wide.txt is not UTF-8" in inspect_photos(paths, 32).refused[0]
    assert save_photos(paths, tmp_path / "again") == 2, (
        "a caption that cannot be read costs no photo"
    )


def test_what_it_is_and_a_trigger(tmp_path):
    assert class_word("  My  dog. ") == "dog" and class_word("a toy robot") == "toy robot"
    with pytest.raises(ValueError, match="Say what the photos show"):
        class_word(" the ")
    assert propose_token([]) == "sks" and propose_token(["SKS"]) == "zwx"
    assert propose_token(["sks", "zwx", "ohwx", "tok"]) == "sks2"
    quick = make_config("toybox", tmp_path, "rex", "sks", "dog", "quick", seed=3)
    other = make_config("some/base", tmp_path, "rex", "sks", "dog", "thorough", preset="paper")
    assert quick["max_train_steps"] < other["max_train_steps"] and quick["seed"] == 3
    assert other["rank"] == "energy=0.99" and other["gradient_checkpointing"]
    assert make_config("toybox", tmp_path, "rex", "sks", "dog", "auto")["max_train_steps"] == "auto"
    for given, reason in (({"quality": "soon"}, "quality"), ({"learning_rate": -1}, "above 0")):
        with pytest.raises(ValueError, match=reason):
            make_config("toybox", tmp_path, "rex", "sks", "dog", **given)


@pytest.mark.parametrize("name, half", [("sd", "fp16"), ("flux", "bf16")])
def test_on_a_gpu_a_training_is_as_precise_as_the_base(name, half, tmp_path, monkeypatch):
    monkeypatch.setattr("svfit_diffusion.web.studio.presets.pick_device", lambda: "cuda")
    save_tiny(name, tmp_path)
    planned = make_config(str(tmp_path / "base"), tmp_path, "rex", "sks", "dog", "quick")
    assert planned["mixed_precision"] == half


class FakeHub:
    """The Hub as HfApi shows it, with one repository."""

    def model_info(self, name, files_metadata, timeout):
        sizes = {
            "model_index.json": 500,
            "unet/diffusion_pytorch_model.safetensors": 3_000_000,
            "unet/diffusion_pytorch_model.fp16.safetensors": 1_500_000,
            "unet/diffusion_pytorch_model.bin": 3_000_000,
            "vae/diffusion_pytorch_model.safetensors": 300_000,
            "safety_checker/model.safetensors": 999,
            "v1-5-pruned.ckpt": 7_000_000,
        }
        kind = "StableDiffusionPipeline" if name == "owner/sd" else "PixArtAlphaPipeline"
        files = [types.SimpleNamespace(rfilename=k, size=v) for k, v in sizes.items()]
        return types.SimpleNamespace(
            siblings=files,
            config={"diffusers": {"_class_name": kind}},
            card_data={"license": "openrail <b>"},
            gated="auto",
        )

    def parse_safetensors_file_metadata(self, name, file):
        count = 750_000 if file.startswith("unet") else 75_000
        return types.SimpleNamespace(parameter_count={"F32": count})


def test_a_hub_base_is_described_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    base = describe_base("owner/sd")
    assert (base.family, base.download, base.parameters) == ("sd", 3_301_499, 900_000)
    assert "3.3 MB to download" in base.sentence()
    assert "openrail" in base.licence and "accepted on its page" in base.licence
    with pytest.raises(ValueError, match="'PixArtAlphaPipeline'; supported are"):
        describe_base("owner/pixart")


def test_bases_on_this_machine_and_those_that_are_none(base_folder, tmp_path):
    known = describe_base("toybox")
    pipe = toybox.load()
    parts = (pipe.unet, pipe.text_encoder, pipe.vae)
    assert known.parameters == sum(p.numel() for part in parts for p in part.parameters())
    assert known.download == 0 and "no download" in known.sentence()
    assert describe_base(str(base_folder)).family == "sd"
    (tmp_path / "x.safetensors").write_bytes(b"?")
    (tmp_path / "x.ckpt").write_bytes(b"?")
    for source, reason in (
        (str(tmp_path), "no model_index.json"),
        (str(tmp_path / "x.safetensors"), "damaged"),
        (str(tmp_path / "x.ckpt"), "can contain code"),
        ("nothing", "is not a base"),
        ("owner/name", "could not be asked about 'owner/name'"),  # tests are offline
    ):
        with pytest.raises(ValueError, match=reason):
            describe_base(source)
    with pytest.raises(ValueError, match="is not a base"):
        describe_base(str(base_folder), local=False)


def test_a_strangers_words_are_text_in_html(concept, tmp_path):
    evil = replace(concept, token="<script>", class_word='"onload=x', base="<img src=y>")
    file = write_concept(evil, tmp_path / "evil.safetensors")
    library = Library(tmp_path / "home")
    entry = library.get(library.add(file))
    for made in (
        render.concept(entry, "<i>why</i>"),
        render.facts(entry.card, "<i>why</i>"),
        render.run({"state": "failed", "message": "<i>why</i>"}, []),
        render.note("<i>why</i>"),
    ):
        assert not any(bad in made for bad in ("<script", "<img src=y", "<i>why", '"onload'))


def test_a_picture_waits_for_memory_while_a_training_runs():
    active = [True, True, False, False]  # the training ends after two looks
    runs = types.SimpleNamespace(active=lambda: active.pop(0))
    pipeline = types.SimpleNamespace(
        memory_check=lambda: (False, 1_000_000, 3_000_000),
        generate=lambda job, stop: [Step(0, 1, None)],
    )
    jobs = GenerationJobs(Workspace(pipeline, None, runs))
    job = Job([], "a dog", 1, 0, {"steps": 4})
    *waits, last = [progress for _, progress in jobs.pictures("window", job)]
    assert len(waits) == 2 and (waits[0].done, waits[0].total) == (0, 1)
    assert "leaves 1.0 MB of memory, and a picture needs about 3.0 MB" in waits[0].message
    assert (last.message, last.done, last.total) == ("Picture 1 of 1, step 1 of 4", 1, 4)
    pipeline.memory_check, runs.active = lambda: (True, 9, 3), lambda: True
    (only,) = [progress for _, progress in jobs.pictures("window", job)]
    assert only.message.endswith("; a training is running too, so both take longer")


def test_others_need_a_password():
    assert check_access("127.0.0.1", None) is None
    assert check_access("0.0.0.0", "me:secret") == ("me", "secret")
    with pytest.raises(ValueError, match="reachable for others"):
        check_access("192.168.0.9", None)
