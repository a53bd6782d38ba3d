"""pipeline.py: concepts on a real, tiny diffusers pipeline."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.dense import edit
from helpers.tiny_pipelines import load, make_concept, make_pipeline, picture

from svfit_diffusion.adapter.attention import layout
from svfit_diffusion.concept.file import write_concept
from svfit_diffusion.pipeline.attached import loaded_concepts
from svfit_diffusion.pipeline.fusing import fuse_concepts, unfuse_concepts
from svfit_diffusion.pipeline.loading import (
    convert_prompt,
    load_concept,
    remove_concept,
    set_concepts,
    swap_concept,
)
from svfit_diffusion.pipeline.matching import split


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def dense_edit(pipe, concept, strength=1.0, source=None):
    """Write W + strength * U (V diag(delta) + M)^T into the pipeline's own weights, densely."""
    models = {part: getattr(pipe, part) for part in concept.targets}
    plan = layout(models, concept.targets)
    for part, deltas in split(concept, plan).items():
        for local, delta in deltas.items():
            weight = models[part].get_submodule(local).weight
            basis = weight if source is None else getattr(source, part).get_submodule(local).weight
            common = concept.common if part == "unet" else None
            added = strength * edit(local, basis.detach().numpy(), delta.numpy(), common)
            weight.data = (weight.data.double() + torch.from_numpy(added)).float()


def test_a_file_gives_the_densely_edited_model(pipe, base_folder, tmp_path):
    concept = make_concept(pipe, trigger=False)
    base = picture(pipe)
    name = load_concept(pipe, write_concept(concept, tmp_path / "my rex.safetensors"))
    got = picture(pipe)
    other = load(base_folder)
    dense_edit(other, concept)
    assert name == "my_rex"
    assert distance(got, base) > 1e-2
    assert distance(picture(other), got) < 1e-5


def test_out_of_use_and_removed_are_the_base_bit_for_bit(pipe):
    base, modules = picture(pipe), [n for n, _ in pipe.unet.named_modules()]
    load_concept(pipe, make_concept(pipe), name="rex")
    assert not torch.equal(picture(pipe), base)
    set_concepts(pipe, {})
    assert torch.equal(picture(pipe), base)
    remove_concept(pipe, "rex")
    assert torch.equal(picture(pipe), base) and not loaded_concepts(pipe)
    assert [n for n, _ in pipe.unet.named_modules()] == modules


def test_zero_deltas_are_the_base_bit_for_bit(pipe):
    base = picture(pipe)
    concept = make_concept(pipe, size=0, trigger=False)
    load_concept(pipe, concept, name="nothing")
    assert torch.equal(picture(pipe), base)


def test_two_concepts_add(pipe, base_folder):
    one = make_concept(pipe, rank=4, seed=1, trigger=False)
    two = make_concept(pipe, rank=2, seed=2, trigger=False, token="zwx")
    load_concept(pipe, one, name="rex")
    load_concept(pipe, two, name="mug")
    set_concepts(pipe, {"rex": 0.8, "mug": 0.5})
    other = load(base_folder)
    source = load(base_folder)
    dense_edit(other, one, 0.8, source)
    dense_edit(other, two, 0.5, source)
    assert distance(picture(pipe), picture(other)) < 1e-5
    set_concepts(pipe, {"mug": 1})
    alone = load(base_folder)
    load_concept(alone, two)
    assert torch.equal(picture(pipe), picture(alone))


def test_the_same_file_gives_the_same_picture_on_a_fresh_pipeline(pipe, base_folder, tmp_path):
    path = write_concept(make_concept(pipe), tmp_path / "a.safetensors")
    load_concept(pipe, path)
    other = load(base_folder)
    load_concept(other, path)
    assert torch.equal(picture(pipe), picture(other))


def test_the_trigger_speaks_only_as_a_whole_word(pipe):
    concept = make_concept(pipe, size=0)
    plain = picture(pipe, "a mug on the beach")
    called = picture(pipe, "a photo of sks dog")
    load_concept(pipe, concept, name="rex")
    assert torch.equal(picture(pipe, "a mug on the beach"), plain)
    assert not torch.equal(picture(pipe, "a photo of sks dog"), called)
    (token,) = loaded_concepts(pipe)["rex"].words["sks"]
    assert convert_prompt(pipe, ["sks dog", "asks"]) == [f"{token} dog", "asks"]


def test_a_strength_of_zero_is_the_limit_of_small_ones(pipe):
    """The base's weights, and the class word in the trigger's place; at 0 to the bit."""
    concept, prompt = make_concept(pipe), "a photo of sks dog"
    as_class_word, as_typed = picture(pipe, "a photo of dog dog"), picture(pipe, prompt)
    load_concept(pipe, concept, strength=0, name="rex")
    assert torch.equal(picture(pipe, prompt), as_class_word)
    far = []
    for strength in (1e-2, 1e-4, 1e-6):
        set_concepts(pipe, {"rex": strength})
        far.append(distance(picture(pipe, prompt), as_class_word))
    assert far[0] > far[1] > far[2] and far[2] < 1e-4 < distance(as_typed, as_class_word)
    set_concepts(pipe, {"rex": 0})
    assert torch.equal(picture(pipe, prompt), as_class_word)
    fuse_concepts(pipe)
    assert torch.equal(picture(pipe, prompt), as_class_word)
    remove_concept(pipe, "rex")
    assert torch.equal(picture(pipe, prompt), as_typed)


def test_of_several_words_each_row_moves_by_its_own_share(pipe):
    """row = class word + strength * share * (row - class word), for every row of every word."""
    one, table = make_concept(pipe, size=0), pipe.text_encoder.get_input_embeddings().weight
    width = table.shape[1]
    rows = np.random.default_rng(3).standard_normal((3, width)).astype(np.float16)
    concept = replace(
        one, trigger_rows=rows.ravel(), trigger_shape={"text_encoder": (3, width)}, token="sks",
        triggers={"sks": ("dog", 2, 0.5), "zwx": ("mug", 1, 2.0)},
    )  # fmt: skip
    load_concept(pipe, concept, strength=0.4, name="both")
    ids = pipe.tokenizer("sks zwx", add_special_tokens=False, return_tensors="pt").input_ids
    places = pipe.text_encoder.embeddings(inputs_embeds=torch.zeros(1, 3, width))
    with torch.no_grad():
        found = (pipe.text_encoder.embeddings(input_ids=ids) - places)[0]
    plain = load(pipe.config._name_or_path).tokenizer
    nouns = [plain(n, add_special_tokens=False).input_ids[0] for n in ("dog", "dog", "mug")]
    shares = torch.tensor([0.2, 0.2, 0.8])[:, None]
    wanted = table[nouns] + shares * (torch.from_numpy(rows).float() - table[nouns])
    assert torch.allclose(found, wanted, atol=1e-5)


def test_two_of_one_trigger_are_refused_or_told_apart(pipe):
    first, second = make_concept(pipe, seed=1), make_concept(pipe, seed=2)
    load_concept(pipe, first, name="rex")
    with pytest.raises(ValueError, match="both called by 'sks'"):
        load_concept(pipe, second, name="max")
    load_concept(pipe, second, name="max", token="zwx")
    words = convert_prompt(pipe, "sks dog and zwx dog").split()
    assert words[0] != words[3] and all(w.startswith("<") for w in (words[0], words[3]))


def test_a_name_taken_is_refused(pipe):
    load_concept(pipe, make_concept(pipe), name="rex")
    with pytest.raises(ValueError, match="already loaded"):
        load_concept(pipe, make_concept(pipe), name="rex")


@pytest.mark.parametrize("name", ["training", "forward", "my.best-dog v2", "keys"])
def test_any_file_name_will_do(pipe, name):
    held = load_concept(pipe, make_concept(pipe), name=name)
    set_concepts(pipe, {held: 0.5})
    remove_concept(pipe, held)


def untouched(pipe, before):
    plain = all("svfit" not in n for n, _ in pipe.unet.named_modules())
    return plain and torch.equal(picture(pipe), before)


def test_a_concept_of_another_base_is_refused_in_one_sentence(pipe):
    other = make_pipeline(seed=5)
    before = picture(other)
    with pytest.raises(ValueError, match="trained on 'tiny', but the unet .* other weights") as e:
        load_concept(other, make_concept(pipe))
    assert "\n" not in str(e.value) and untouched(other, before)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"family": "sdxl"}, "of family 'sdxl'"),
        ({"layout": "0" * 32}, "are not those of the pipeline"),
    ],
)
def test_a_concept_that_does_not_fit_is_refused(pipe, change, reason):
    before = picture(pipe)
    with pytest.raises(ValueError, match=reason):
        load_concept(pipe, replace(make_concept(pipe), **change))
    assert untouched(pipe, before)


def test_a_failure_half_way_leaves_the_pipeline(pipe, monkeypatch):
    from svfit_diffusion.pipeline import loading as pipeline

    concept, other = make_concept(pipe), make_concept(pipe, seed=1, token="zwx")
    load_concept(pipe, other, name="other")
    before = picture(pipe)
    monkeypatch.setattr(pipeline.trigger, "teach_concept", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_concept(pipe, concept)
    assert torch.equal(picture(pipe), before)  # the other is as it was
    remove_concept(pipe, "other")
    assert not any("svfit" in n for n, _ in pipe.unet.named_modules())


def test_a_trigger_of_another_width_is_refused_before_anything(pipe):
    concept = make_concept(pipe)
    wide = replace(
        concept, trigger_rows=np.ones(7, np.float16), trigger_shape={"text_encoder": (1, 7)}
    )
    before = picture(pipe)
    with pytest.raises(ValueError, match="another base"):
        load_concept(pipe, wide)
    assert untouched(pipe, before)


@pytest.mark.parametrize("strength", ["1", float("nan"), None])
def test_strength_must_be_a_number(pipe, strength):
    with pytest.raises(ValueError, match="strength"):
        load_concept(pipe, make_concept(pipe), strength=strength)


def test_a_derivative_takes_the_edit_in_the_original_basis(pipe, base_folder, caplog):
    concept = make_concept(pipe, trigger=False)

    def tune(model):
        g = torch.Generator().manual_seed(3)
        for name, weight in model.unet.named_parameters():
            if "attn" in name:
                weight.data += 0.02 * torch.randn(weight.shape, generator=g)
        model.unet.register_to_config(_name_or_path="")
        return model

    derivative = tune(load(base_folder))
    with pytest.raises(ValueError, match="basis_from='tiny'"):
        load_concept(derivative, concept)
    load_concept(derivative, concept, basis_from=str(base_folder))
    assert "with the basis of" in caplog.text
    dense = tune(load(base_folder))
    dense_edit(dense, concept, source=pipe)
    assert distance(picture(dense), picture(derivative)) < 1e-5
    assert distance(picture(derivative), picture(tune(load(base_folder)))) > 1e-2


def test_basis_from_a_wrong_base_is_refused(pipe, tmp_path):
    make_pipeline(seed=5).to(torch.float16).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not that base's"):
        load_concept(pipe, make_concept(pipe), basis_from=str(tmp_path))
    with pytest.raises(ValueError, match="could not be downloaded"):
        load_concept(pipe, make_concept(pipe), basis_from="nobody/nothing")


def test_fuse_and_unfuse(pipe):
    base = picture(pipe)
    load_concept(pipe, make_concept(pipe), strength=0.7, name="rex")
    attached = picture(pipe)
    fuse_concepts(pipe)
    assert distance(picture(pipe), attached) < 1e-5
    unfuse_concepts(pipe)
    assert distance(picture(pipe), attached) < 1e-5
    fuse_concepts(pipe)
    remove_concept(pipe, "rex")
    assert distance(picture(pipe), base) < 1e-5


def test_loading_onto_a_fused_pipeline(pipe, base_folder):
    one, two = make_concept(pipe, seed=1), make_concept(pipe, seed=2, token="zwx")
    load_concept(pipe, one, name="rex")
    fuse_concepts(pipe)
    load_concept(pipe, two, name="mug")
    other = load(base_folder)
    load_concept(other, one, name="rex")
    load_concept(other, two, name="mug")
    assert distance(picture(pipe), picture(other)) < 1e-5


def test_fuse_is_all_or_nothing(pipe):
    load_concept(pipe, make_concept(pipe), name="rex")
    attached = picture(pipe)
    layers = [m for m in pipe.unet.modules() if hasattr(m, "svfit_delta")]
    layers[-1].svfit_delta["rex"].data[0] = float("inf")
    with pytest.raises(ValueError, match="Nothing was merged"):
        fuse_concepts(pipe)
    layers[-1].svfit_delta["rex"].data[0] = 0
    assert not any(layer.merged for layer in layers)
    assert distance(picture(pipe), attached) < 0.5


@pytest.mark.parametrize("trigger", [False, True])
def test_swap_is_the_other_concept(pipe, base_folder, trigger):
    one, two = (make_concept(pipe, seed=s, trigger=trigger) for s in (1, 2))
    load_concept(pipe, one, name="rex", strength=0.6)
    learned = [*pipe.unet.named_parameters(), *pipe.text_encoder.named_parameters()]
    ids = {name: id(p) for name, p in learned if "svfit" in name}
    words = len(pipe.tokenizer)
    swap_concept(pipe, "rex", two)
    other = load(base_folder)
    load_concept(other, two, strength=0.6)
    assert torch.equal(picture(pipe), picture(other))
    learned = [*pipe.unet.named_parameters(), *pipe.text_encoder.named_parameters()]
    assert ids == {name: id(p) for name, p in learned if "svfit" in name}  # copied in place
    assert len(pipe.tokenizer) == words


def test_swap_to_another_word(pipe, base_folder):
    one, two = make_concept(pipe, seed=1), make_concept(pipe, seed=2, token="zwx")
    load_concept(pipe, one, name="rex")
    swap_concept(pipe, "rex", two)
    other = load(base_folder)
    load_concept(other, two)
    for prompt in ("a photo of zwx dog", "a photo of sks dog"):
        assert torch.equal(picture(pipe, prompt), picture(other, prompt))
    remove_concept(pipe, "rex")
    assert not [n for n, _ in pipe.text_encoder.named_parameters() if "svfit" in n]


def test_a_swap_to_a_word_that_is_taken_is_refused(pipe):
    for name, token in (("rex", "sks"), ("mug", "zwx")):
        load_concept(pipe, make_concept(pipe, token=token), name=name)
    with pytest.raises(ValueError, match="both called by 'zwx'"):
        swap_concept(pipe, "rex", make_concept(load(pipe.config._name_or_path), token="zwx"))


def test_a_swap_onto_a_fused_pipeline(pipe, base_folder):
    one, two = make_concept(pipe, seed=1), make_concept(pipe, seed=2)
    load_concept(pipe, one, name="rex")
    fuse_concepts(pipe)
    swap_concept(pipe, "rex", two)
    other = load(base_folder)
    load_concept(other, two)
    assert distance(picture(pipe), picture(other)) < 1e-5


def test_a_refused_swap_keeps_the_old_one(pipe):
    concept = make_concept(pipe)
    load_concept(pipe, concept, name="rex")
    before = picture(pipe)
    with pytest.raises(ValueError, match="family"):
        swap_concept(pipe, "rex", replace(concept, family="sdxl", layout="0" * 32))
    assert torch.equal(picture(pipe), before)


def test_unknown_names_are_told(pipe):
    load_concept(pipe, make_concept(pipe), name="rex")
    for call in (lambda: set_concepts(pipe, {"max": 1}), lambda: remove_concept(pipe, "max")):
        with pytest.raises(ValueError, match="'max' is loaded; loaded are: rex"):
            call()


def test_half_precision_and_moves(pipe, base_folder):
    concept = make_concept(pipe)
    half = load(base_folder, torch.bfloat16)
    load_concept(half, concept)
    assert half.unet.dtype == torch.bfloat16
    assert torch.isfinite(picture(half)).all()
    load_concept(pipe, concept)
    assert distance(picture(half).float(), picture(pipe)) < 0.1
    pipe.to(torch.float64).to(torch.float32)
    assert torch.isfinite(picture(pipe)).all()


def test_pipelines_do_not_keep_one_another_alive(base_folder):
    import weakref

    first = load(base_folder)
    load_concept(first, make_concept(first))
    reference = weakref.ref(first.unet)
    del first
    gc.collect()
    assert reference() is None


def test_on_a_compiled_denoiser(base_folder, pipe):
    """`pipe.unet = torch.compile(pipe.unet)` before a concept is loaded, or after it."""
    concept, early, late = make_concept(pipe), load(base_folder), load(base_folder)
    plain = picture(pipe)
    load_concept(pipe, concept, name="rex")
    wanted = picture(pipe)
    early.unet = torch.compile(early.unet, backend="eager")
    assert torch.allclose(picture(early), plain, atol=1e-5)
    load_concept(early, concept, name="rex")
    load_concept(late, concept, name="rex")
    late.unet = torch.compile(late.unet, backend="eager")
    for compiled in (early, late):
        assert torch.allclose(picture(compiled), wanted, atol=1e-5)
        set_concepts(compiled, {})
        assert torch.allclose(picture(compiled), plain, atol=1e-5)
        remove_concept(compiled, "rex")
        assert torch.allclose(picture(compiled), plain, atol=1e-5)
