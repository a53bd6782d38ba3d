"""Files from strangers: refused in one sentence or read, quickly, in little memory, and a pipeline
that refuses one is what it was. hostile.py makes the files.
"""

import hashlib
import os
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import torch
from helpers import hostile
from helpers.loras import random_lora
from helpers.tiny_pipelines import load, make_concept
from safetensors.torch import save

from svfit_diffusion.concept import printable
from svfit_diffusion.concept.file import from_bytes, read_concept, to_bytes
from svfit_diffusion.pipeline.loading import (
    load_concept,
    loaded_concepts,
    remove_concept,
    swap_concept,
)
from svfit_diffusion.sharing.lora_file import read_edits
from svfit_diffusion.sharing.lora_import import import_lora
from svfit_diffusion.web.studio.cards import read_card

SECONDS, BYTES = 2.0, 50_000_000  # of one file: CPU time, memory
STEERS = {chr(c) for c in (*range(32), *range(127, 160), *range(0x202A, 0x202F), 0x2066, 0x2069)}


@pytest.fixture(scope="module")
def tiny(base_folder, tmp_path_factory):
    """The tiny pipeline, with a basis cache of its own for the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVFIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load(base_folder)


@pytest.fixture(scope="module")
def goods(tiny):
    """The bytes of two concepts, one combined of two words, and of two LoRAs."""
    concept = make_concept(tiny)
    made, _ = random_lora(tiny)
    half = {name: tensor.half() for name, tensor in made.items()}
    stated = {"modelspec.trigger_phrase": "sks dog", "lora_adapter_metadata": '{"unet.r": 4}'}
    return {
        "concept": [to_bytes(concept), to_bytes(make_concept(tiny, rank=2, trigger=False))],
        "packed": [to_bytes(make_concept(tiny, rank=3, packed=True))],
        "lora": [*map(hostile.ordered, (save(made, {"ss_network_dim": "4"}), save(half, stated)))],
    }


def attacks(goods, kind):
    """Name -> bytes of all attacks on the readers of a kind."""
    first = goods[kind][0]
    own = hostile.loras(first) if kind == "lora" else hostile.concepts(first)
    return hostile.containers(first) | own


def digest(pipe):
    """A hash of every weight of a pipeline and of the names of its modules."""
    found = hashlib.sha256()
    for part, model in sorted(pipe.components.items()):
        for name, tensor in model.state_dict().items() if hasattr(model, "state_dict") else ():
            found.update(f"{part} {name} {tensor.shape}".encode())
            found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def sentence(error, name):
    """The text of an error, which is one line that names the file and steers nothing."""
    text = str(error)
    assert name in text and len(text) < 1_000 and not STEERS & set(text), text[:200]
    return text


READERS = {"concept": read_concept, "packed": read_concept, "lora": read_edits}


@pytest.mark.parametrize("kind", READERS)
def test_every_attack_is_refused_in_one_sentence(goods, tmp_path, kind):
    for name, data in attacks(goods, kind).items():
        path = tmp_path / "strange.safetensors"
        path.write_bytes(data)
        began = time.process_time()
        with pytest.raises(ValueError) as caught:
            READERS[kind](path)
            pytest.fail(f"{name} was read")
        assert time.process_time() - began < SECONDS, name
        sentence(caught.value, "strange.safetensors")
        if kind != "lora":
            with pytest.raises(ValueError, match=r"^strange\.safetensors"):
                read_card(path)


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux's peak of memory"
)
def test_attacks_take_little_memory(goods, tmp_path):
    """In a process of its own, whose peak counts from after its imports: all, one by one."""
    for kind in READERS:
        for number, data in enumerate(attacks(goods, kind).values()):
            (tmp_path / f"{kind}-{number:03d}").write_bytes(data)
        (tmp_path / f"{kind}-good").write_bytes(goods[kind][0])
    (tmp_path / "largest").write_bytes(hostile.largest(goods["concept"][0]))
    (tmp_path / "packed").write_bytes(hostile.largest_packed(goods["concept"][0]))
    code = """
import sys
from pathlib import Path
from svfit_diffusion.concept.file import read_concept
from svfit_diffusion.sharing.lora_file import read_edits
folder = Path(sys.argv[1])
def held(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))
def read(path):
    return (read_edits if path.name.startswith("lora") else read_concept)(path)
for path in folder.glob("*-good"):
    read(path)
Path("/proc/self/clear_refs").write_text("5")
before, count = held("VmRSS"), 0
assert read_concept(folder / "largest").values == 7_990_000
assert read_concept(folder / "packed").values == 4_000_000
for path in sorted(folder.glob("*-[0-9]*")):
    try:
        read(path)
    except ValueError:
        count += 1
print(count, held("VmHWM") - before)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    count, grown = map(int, run.stdout.split())
    assert count == sum(len(attacks(goods, kind)) for kind in READERS)
    print(f"{count} attacks and the largest file: {grown:,} bytes at the peak")
    assert 16_000_000 < grown < BYTES, f"{grown:,}"


def test_a_file_above_the_cap_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.truncate(16_000_001)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="16,000,001 bytes, but a concept has at most"):
            read_concept(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX files")
@pytest.mark.parametrize("kind", READERS)
def test_what_is_no_file_is_refused_at_once(kind, goods, tmp_path):
    read = READERS[kind]
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "to-pipe").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "folder", "loop", "gone", "zero", "to-pipe", "a\x1b[2J\nb"):
        with pytest.raises(ValueError, match="is not a file|cannot be read") as caught:
            read(tmp_path / name)
        sentence(caught.value, name.partition("\x1b")[0])
    (tmp_path / "good").write_bytes(goods[kind][0])
    (tmp_path / "link").symlink_to(tmp_path / "good")
    assert read(tmp_path / "link"), "a link to a file is that file, as in the Hub's cache"


def test_a_refused_concept_leaves_the_pipeline_as_it_was(tiny, goods, tmp_path):
    files = hostile.strangers(goods["concept"][0]) | hostile.concepts(goods["concept"][0])
    before = digest(tiny)
    for name, data in files.items():
        path = tmp_path / "strange.safetensors"
        path.write_bytes(data)
        with pytest.raises(ValueError) as caught:
            load_concept(tiny, path)
            pytest.fail(f"{name} was loaded")
        assert not STEERS & set(str(caught.value)) and len(str(caught.value)) < 1_000
        assert digest(tiny) == before and not loaded_concepts(tiny), name
    held = load_concept(tiny, make_concept(tiny, seed=5))
    assert (loaded := digest(tiny)) != before, "the hash sees a concept"
    for name, data in files.items():
        path.write_bytes(data)
        with pytest.raises(ValueError):
            swap_concept(tiny, held, path)
            pytest.fail(f"{name} was swapped in")
        assert digest(tiny) == loaded, name
    remove_concept(tiny, held)
    assert digest(tiny) == before


@pytest.mark.parametrize("step", ["teach", "start_row"])
def test_a_load_that_is_broken_off_leaves_the_pipeline_as_it_was(tiny, goods, monkeypatch, step):
    def interrupted(*_):
        raise KeyboardInterrupt

    before, concept = digest(tiny), from_bytes(goods["concept"][0], "good")
    with monkeypatch.context() as patch:
        patch.setattr(f"svfit_diffusion.pipeline.trigger.{step}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_concept(tiny, concept)
    assert digest(tiny) == before and not loaded_concepts(tiny)
    remove_concept(tiny, load_concept(tiny, concept))
    assert digest(tiny) == before


def throw(data, kind, path, tiny):
    """Read one mutated file; returns whether it was read rather than refused."""
    path.write_bytes(data)
    began = time.process_time()
    try:
        found = READERS[kind](path)
    except ValueError as error:
        assert time.process_time() - began < SECONDS
        sentence(error, path.name)
        return False
    assert time.process_time() - began < SECONDS
    if kind != "lora":
        assert np.isfinite(found.deltas).all()
        assert not STEERS & set("".join(read_card(path).facts().values()))
        again = to_bytes(found)
        path.write_bytes(again)
        assert to_bytes(read_concept(path)) == again
        return True
    try:
        made = import_lora(path, tiny, rank=2)
        assert np.isfinite(made.concept.deltas).all()
    except ValueError as error:
        sentence(error, path.name)
    return True


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", READERS)
def test_mutated_files_are_refused_or_read(tiny, goods, tmp_path, kind, seed):
    _fuzz(tiny, goods, tmp_path, kind, 150, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_ten_thousand_mutated_files_are_refused_or_read(tiny, goods, tmp_path, kind):
    _fuzz(tiny, goods, tmp_path, kind, 5_000, 99)


def _fuzz(tiny, goods, tmp_path, kind, count, seed):
    before, path = digest(tiny), tmp_path / "strange.safetensors"
    files = hostile.mutants(goods[kind], count, seed)
    read = sum(throw(data, kind, path, tiny) for data in files)
    print(f"{kind}, seed {seed}: of {count:,} mutated files {read:,} were read, the rest refused")
    assert 0 < read < count
    assert digest(tiny) == before and not loaded_concepts(tiny)


@pytest.mark.parametrize("text", hostile.NASTY[:10])
def test_printable_text_steers_nothing(text):
    assert not STEERS & set(printable(text)) and len(printable(text)) <= 400
    printable(text).encode()


def test_marks_do_not_pile_up_and_ordinary_text_stays():
    assert printable("a" + "\u0301" * 50).count("\u0301") == 3
    for text in ("Hündchen 犬", "cafe\u0301", "שלום", "नमस्ते", "a b"):
        assert printable(text) == text


def test_the_weights_of_a_lora_of_a_huge_rank_are_never_multiplied(tmp_path):
    data = hostile.loras(save({"a.lora_down.weight": torch.ones(1, 1)}))
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(data["a rank that fills the memory"])
    with pytest.raises(ValueError, match="a rank of 100,000; at most 1,024"):
        read_edits(path)
