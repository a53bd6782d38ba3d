"""web.studio.library: concepts are added, deleted and restored, by several processes at once."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from helpers.tiny_pipelines import load, make_concept
from PIL import Image

from svfit_diffusion.concept.file import write_concept
from svfit_diffusion.web.page import render, run_panel
from svfit_diffusion.web.studio.cards import read_card
from svfit_diffusion.web.studio.library import MAX_DELETED, Library, slug


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


def test_a_strangers_words_are_text_in_html(concept, tmp_path):
    evil = replace(concept, token="<script>", class_word='"onload=x', base="<img src=y>")
    file = write_concept(evil, tmp_path / "evil.safetensors")
    library = Library(tmp_path / "home")
    entry = library.get(library.add(file))
    for made in (
        render.concept(entry, "<i>why</i>"),
        render.facts(entry.card, "<i>why</i>"),
        run_panel.run({"state": "failed", "message": "<i>why</i>"}),
        render.note("<i>why</i>"),
    ):
        assert not any(bad in made for bad in ("<script", "<img src=y", "<i>why", '"onload'))
