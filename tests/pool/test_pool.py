"""pool.py: concepts in memory and in a folder, in few bytes; nothing is left of them afterwards."""

import copy
import gc
import os
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_families import TINY
from helpers.tiny_pipelines import make_concept, make_pipeline, picture

from svfit_diffusion.adapter import tuner_layers
from svfit_diffusion.concept.file import write_concept
from svfit_diffusion.families import recognise
from svfit_diffusion.generation import generate_batch
from svfit_diffusion.generation.sampling import parameters
from svfit_diffusion.pipeline.loading import load_concept, remove_concept
from svfit_diffusion.pipeline.word.rows import FIRST_ID
from svfit_diffusion.pool import ConceptPool
from svfit_diffusion.pool import pool as module


@pytest.fixture(scope="module")
def base():
    """A tiny base in float32."""
    return make_pipeline().to(torch.float16).to(torch.float32)


@pytest.fixture
def pipe(base):
    """A copy of it."""
    return copy.deepcopy(base)


@pytest.fixture
def folder(base, tmp_path):
    """A folder with the concepts a, b and c, in four bits."""
    for seed, name in enumerate("abc"):
        write_concept(make_concept(base, seed=seed, packed=True), tmp_path / f"{name}.safetensors")
    return tmp_path


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that were read."""
    names, read = [], module.read_concept
    monkeypatch.setattr(module, "read_concept", lambda p: names.append(p.stem) or read(p))
    return names


def alone(base, concept, strength=1.0):
    """The picture of a concept by load_concept."""
    pipe = copy.deepcopy(base)
    load_concept(pipe, concept, strength, name="one")
    return picture(pipe)


def test_a_folder_is_read_when_it_is_used(base, pipe, folder, reads):
    pool = ConceptPool(pipe, folder)
    assert list(pool) == ["a", "b", "c"] and len(pool) == 3 and "b" in pool and "d" not in pool
    assert reads == [] and pool.resident == 0
    pool.set_concepts({"b": 1.0})
    assert torch.equal(picture(pipe), alone(base, folder / "b.safetensors"))
    pool.set_concepts({"b": 0.5})
    assert reads == ["b"] and pool.resident == 1
    assert [call.word for call in pool.triggers("a")] == ["sks"] and reads == ["b", "a"]


def test_a_file_that_changed_is_read_again_and_one_that_is_gone_is_missed(base, pipe, folder):
    pool = ConceptPool(pipe, folder)
    pool.set_concepts({"b": 1.0})
    shutil.copy(folder / "c.safetensors", folder / "b.safetensors")
    os.utime(folder / "b.safetensors", ns=(1, 1))
    pool.set_concepts({"b": 1.0})
    assert torch.equal(picture(pipe), alone(base, folder / "c.safetensors"))
    (folder / "b.safetensors").unlink()
    with pytest.raises(ValueError, match="no concept 'b' in the pool in the folder"):
        pool.set_concepts({"b": 1.0})


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "", ".", "a\0", "sub/a"])
def test_a_name_leads_nowhere_but_into_the_folder(pipe, folder, name):
    (folder / "sub").mkdir()
    shutil.copy(folder / "a.safetensors", folder / "sub" / "a.safetensors")
    with pytest.raises(ValueError, match="there is no concept"):
        ConceptPool(pipe, folder / "sub" if name == "../a" else folder).set_concepts({name: 1.0})


def test_only_so_many_of_a_folder_stay_in_memory(pipe, folder, reads):
    pool = ConceptPool(pipe, folder, keep=2)
    pool.add(folder / "a.safetensors", "own")
    for name in "abcc":
        pool.set_concepts({name: 1.0})
    assert pool.resident == 2 and reads.count("c") == 1
    pool.set_concepts({"own": 1.0})
    pool.set_concepts({"a": 1.0})
    assert reads.count("a") == 3 and "own" in pool  # added, read, and read again


def test_wider_concepts_come_later(base, pipe):
    pool, concepts = ConceptPool(pipe), {}
    for rank in (2, 8, "full", 1):
        concepts[f"r{rank}"] = make_concept(base, rank, seed=5)
        pool.add(concepts[f"r{rank}"], f"r{rank}")
        for name, concept in concepts.items():
            pool.set_concepts({name: 0.8})
            difference = (picture(pipe) - alone(base, concept, 0.8)).abs().max()
            assert difference < 1e-5, (rank, name)


def test_a_concept_takes_the_bytes_of_its_file(base, pipe, tmp_path):
    pool = ConceptPool(pipe)
    for i in range(40):
        made = make_concept(base, 16, seed=i, packed=True)
        write_concept(made, tmp_path / f"{i}.safetensors")
    pool.add(tmp_path / "0.safetensors")
    gc.collect()
    tracemalloc.start()
    for i in range(1, 40):
        pool.add(tmp_path / f"{i}.safetensors")
    gc.collect()
    each = tracemalloc.get_traced_memory()[0] / 39
    tracemalloc.stop()
    assert each < (tmp_path / "1.safetensors").stat().st_size + 2_000
    assert pool.resident == 40 and not tuner_layers(pipe.unet)  # nothing on the pipeline yet


def test_many_switches_leave_nothing_behind(base, pipe):
    pool = ConceptPool(pipe)
    for i in range(6):
        made = make_concept(base, 2, seed=i, token="sks" if i % 2 else f"w{i}")
        pool.add(made if i else replace(made, trigger_rows=None, trigger_shape={}), f"c{i}")

    def switch(count):
        for i in range(count):
            pool._use([{f"c{i % 6}": 0.5}, {}, {f"c{(i + 1) % 6}": 1.0}])
            pool.set_concepts({f"c{i % 6}": 1.0} if i % 5 else {})

    switch(30)
    gc.collect()
    before, known = len(gc.get_objects()), sum(map(torch.is_tensor, gc.get_objects()))
    grown = []  # of three rounds, as other threads of the process may grow in one of them
    tracemalloc.start()
    for _ in range(3):
        held = tracemalloc.get_traced_memory()[0]
        switch(60)
        gc.collect()
        grown.append(tracemalloc.get_traced_memory()[0] - held)
    tracemalloc.stop()
    assert sum(map(torch.is_tensor, gc.get_objects())) <= known
    assert len(gc.get_objects()) < before + 500 and min(grown) < 60_000
    pool.set_concepts({"c1": 1.0})
    assert pipe.tokenizer("sks", add_special_tokens=False).input_ids == [FIRST_ID]


def test_the_pipeline_is_the_base_again(base, pipe):
    pool = ConceptPool(pipe)
    pool.add(make_concept(base), "rex")
    pool.set_concepts({"rex": 0.5})
    assert parameters(pipe, "sks").concepts == (("rex", 0.5),)
    pool.close()
    assert torch.equal(picture(pipe), picture(base)) and parameters(pipe, "sks").concepts == ()
    assert not tuner_layers(pipe.unet) and not hasattr(pipe.unet, "peft_config")
    assert type(pipe.tokenizer) is type(base.tokenizer)
    assert pipe.unet.state_dict().keys() == base.unet.state_dict().keys()
    assert not any(name.startswith("_svfit_po") for name in vars(pipe.unet))
    ConceptPool(pipe).add(make_concept(base), "rex")


def test_loading_and_removing_beside_it(base, pipe):
    pool = ConceptPool(pipe)
    pool.add(make_concept(base), "rex")
    pool.set_concepts({"rex": 0.5})
    wanted = picture(pipe)
    load_concept(pipe, make_concept(base, seed=3, token="zwx"), name="mug")
    assert not torch.allclose(picture(pipe), wanted)
    remove_concept(pipe, "mug")
    assert torch.equal(picture(pipe), wanted)
    with pytest.raises(ValueError, match="close the pool first"):
        pipe.unet.fuse_qkv_projections()
    pool.remove("rex")
    assert torch.equal(picture(pipe), picture(base)) and "rex" not in pool
    with pytest.raises(ValueError, match="there is no concept 'rex'"):
        pool.remove("rex")


def test_a_component_that_was_replaced_gets_its_layers(base, pipe):
    pool, concept = ConceptPool(pipe), make_concept(base)
    pool.add(concept, "rex")
    pool.set_concepts({"rex": 1.0})
    pipe.unet = copy.deepcopy(base.unet)
    pool.set_concepts({"rex": 1.0})
    assert torch.equal(picture(pipe), alone(base, concept))


def test_a_concept_that_does_not_fit_leaves_the_pool_as_it_was(base, pipe):
    pool, concept = ConceptPool(pipe), make_concept(base)
    pool.add(concept, "rex")
    damaged = replace(concept, deltas=(concept.deltas * np.float16(1.5)))
    wrong = {"is off by|self-check": damaged, "of family 'sdxl'": replace(concept, family="sdxl")}
    for sentence, concept in wrong.items():
        with pytest.raises(ValueError, match=sentence):
            pool.add(concept, "bad")
    assert list(pool) == ["rex"]
    with pytest.raises(ValueError, match="is not a folder"):
        ConceptPool(pipe, "nowhere", name="other")


def test_prompts_that_would_disturb_one_another_are_not_one_batch():
    """CogView4 reads the padding of the shorter ones."""
    pipe = TINY["cogview4"]()
    pipe.set_progress_bar_config(disable=True)
    pool, more = ConceptPool(pipe), {"num_inference_steps": 1, "output_type": "latent"}
    short, long = "a dog", " ".join(["a dog"] * 12)
    size = recognise(pipe).call_kwargs(pipe, 32, 32)
    with pytest.raises(
        ValueError, match="not be those that each has alone; call it for each alone"
    ):
        pool([short, long], [{}, {}], **more, **size)
    wanted = [replace(parameters(pipe, text, width=32, height=32), steps=1, seed=i)
              for i, text in enumerate((short, long))]  # fmt: skip
    together = generate_batch(pool, wanted)
    assert [each.tobytes() for each in together] == [
        generate_batch(pool, [one])[0].tobytes() for one in wanted
    ]


def test_a_name_that_no_file_can_have_is_none(tmp_path):
    pool = ConceptPool(make_pipeline(), tmp_path)
    assert "a" * 300 not in pool
    with pytest.raises(ValueError, match="there is no concept"):
        pool.triggers("a" * 300)


def test_a_base_whose_rows_are_tokens_makes_one_picture_at_a_time():
    """Krea 2 fuses the layers of its text in blocks with a row for each token of each picture, so
    that in one batch each picture would get a part of another's concept.
    """
    pool = ConceptPool(TINY["krea-2"]())
    with pytest.raises(ValueError, match="not be those that each has alone; call it for each"):
        pool(["a dog", "a cat"], [{}, {}])
