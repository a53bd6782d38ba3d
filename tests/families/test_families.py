"""Families: each family's text, target and components against diffusers' own pipelines."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers.original_layout import original_state, sd3_state
from helpers.tiny_families import make_sd3, save_tiny
from helpers.tiny_pipelines import load, make_concept, make_pipeline, make_xl_pipeline, picture
from PIL import Image
from safetensors.torch import save_file

from svfit_diffusion import toybox
from svfit_diffusion.concept import Trigger
from svfit_diffusion.families import base_name, family_of, load_base, outline_base, recognise
from svfit_diffusion.families.loading import original_kind
from svfit_diffusion.families.registry import family_of_original
from svfit_diffusion.generation.sampling import pick_dtype
from svfit_diffusion.pipeline.loading import load_concept, loaded_concepts, remove_concept
from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.runtime import make_accelerator


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "tiny-xl"
    make_xl_pipeline().to(torch.float16).save_pretrained(folder)
    return folder


@pytest.fixture(params=["sd", "sdxl"])
def folder(request, base_folder, xl_folder):
    return {"sd": base_folder, "sdxl": xl_folder}[request.param]


@torch.no_grad()
def test_text_and_prediction_are_the_pipelines_own(folder):
    """One step of the pipeline without guidance calls the UNet with what the family calls it."""
    pipe = load(folder)
    family, seen = recognise(pipe), {}
    inner = pipe.unet.forward

    def spy(*arguments, **named):
        output = inner(*arguments, **named)
        seen.update(noisy=arguments[0], step=arguments[1], out=output[0])
        return output

    pipe.unet.forward = spy
    picture(pipe, "a photo of sks dog", steps=1, guidance_scale=1.0)
    pipe.unet.forward = inner
    text = family.encode_text(pipe, family.tokenize(pipe, ["a photo of sks dog"]))
    size = seen["noisy"].shape[-1] * pipe.vae_scale_factor
    text |= family.frame_conditioning(torch.tensor([[size, size, 0, 0, size, size]]))
    mine = family.predict(pipe.unet, seen["noisy"], seen["step"], text)
    assert torch.allclose(mine, seen["out"], atol=1e-5)


def test_train_save_load_and_remove(folder, tmp_path):
    for i in range(2):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (200, 40 * i, 0)).save(tmp_path / "photos" / f"{i}.png")
    config = TrainConfig(
        pretrained_model_name_or_path=str(folder),
        instance_data_dir=str(tmp_path / "photos"),
        instance_prompt="a photo of sks dog",
        output_dir=str(tmp_path / "rex"),
        rank="2",
        max_train_steps=10,
        train_batch_size=2,
    )
    training = Training(config, make_accelerator(config), progress=False)
    result = training.run()
    assert result.loss_after < result.loss_before
    pipe = load(folder)
    base = picture(pipe)
    name = load_concept(pipe, result.path)
    held = loaded_concepts(pipe)[name]
    family = recognise(pipe)
    assert set(held.ids) == {encoder for _, encoder in family.encoders}
    assert set(result.concept.targets) == {"unet", *held.ids}
    with torch.no_grad():
        assert torch.equal(picture(pipe), picture(training.base.pipe))
    assert not torch.equal(picture(pipe), base)
    remove_concept(pipe, name)
    assert torch.equal(picture(pipe), base)


def test_a_trigger_does_not_move_the_pooled_vector(xl_folder):
    """SDXL's second encoder must go on pooling at the end token, not at the trigger."""
    from svfit_diffusion.pipeline import trigger

    pipe = load(xl_folder)
    encoder, tokenizer = pipe.text_encoder_2, pipe.tokenizer_2
    start = trigger.start_row(tokenizer, encoder, "dog")
    plain = tokenizer("a dog", padding="max_length", max_length=16, return_tensors="pt").input_ids
    with torch.no_grad():
        want = encoder(plain).text_embeds
        trigger.teach(tokenizer, encoder, "x", [Trigger("zwx", "dog", {})], [start[None]])
        ids = tokenizer("a zwx", padding="max_length", max_length=16, return_tensors="pt")
        assert torch.allclose(encoder(ids.input_ids).text_embeds, want, atol=1e-6)
        assert torch.equal(encoder(plain).text_embeds, want)


def test_a_single_checkpoint_file_is_the_same_base(base_folder, tmp_path):
    """A concept of the folder fits a checkpoint with its weights, and gives the same picture."""
    pipe = load(base_folder, torch.float16)
    checkpoint = tmp_path / "tiny.safetensors"
    save_file(original_state(pipe), checkpoint)
    pipe = load(base_folder)
    concept = make_concept(pipe)
    load_concept(pipe, concept)
    single = load_base(str(checkpoint), config=str(base_folder))
    single.set_progress_bar_config(disable=True)
    single.scheduler = pipe.scheduler
    load_concept(single, concept)
    assert torch.equal(picture(single), picture(pipe))


def test_a_single_file_of_sdxl_is_the_same_base(tmp_path):
    """Recognised by its names; a concept of the folder fits it and gives the same picture."""
    pipe = make_xl_pipeline(layers=10)  # the loader knows SDXL by the tenth layer of OpenCLIP's
    pipe.to(torch.float16).save_pretrained(tmp_path / "xl")
    save_file(original_state(pipe), tmp_path / "xl.safetensors")
    folder = load(tmp_path / "xl")
    single = load_base(str(tmp_path / "xl.safetensors"), config=str(tmp_path / "xl"))
    single.set_progress_bar_config(disable=True)
    concept = make_concept(folder, targets={"unet": "both"}, trigger=False)
    load_concept(folder, concept)
    load_concept(single, concept)
    single.scheduler = folder.scheduler
    assert torch.equal(picture(single), picture(folder))


def test_a_single_file_of_sd3_is_the_same_base(tmp_path):
    """As Stability publishes it without text encoders, which are given beside it."""
    pipe = make_sd3(layers=38)  # the loader knows SD3.5 large by its last block
    pipe.to(torch.float16).save_pretrained(tmp_path / "sd3")
    save_file(sd3_state(pipe), tmp_path / "sd3.safetensors")
    folder = load(tmp_path / "sd3")
    beside = {name: part for name, part in folder.components.items() if name.startswith("t")}
    del beside["transformer"]
    single = load_base(str(tmp_path / "sd3.safetensors"), config=str(tmp_path / "sd3"), **beside)
    single.set_progress_bar_config(disable=True)
    concept = make_concept(folder, targets={"transformer": "both"}, trigger=False)
    size = {"width": 32, "height": 32}
    base = picture(folder, **size)
    assert torch.equal(picture(single, **size), base)
    load_concept(folder, concept)
    load_concept(single, concept)
    found = picture(single, **size)
    assert torch.equal(found, picture(folder, **size)) and not torch.equal(found, base)


@pytest.mark.parametrize(
    "name, edits", [("qwen-image", "QwenImageEditPlusPipeline"), ("flux", "FluxKontextPipeline")]
)
def test_a_base_for_editing_is_one_for_plain_text_to_image(name, edits, tmp_path):
    """It is loaded as its family's pipeline; a concept of it generates the same on its twin."""
    save_tiny(name, tmp_path)
    shutil.copytree(tmp_path / "base", tmp_path / "editing")
    index = tmp_path / "editing" / "model_index.json"
    named = json.loads(index.read_text()) | {"_class_name": edits}
    named["processor"] = ["transformers", "Qwen2VLProcessor"]  # with which it would see pictures
    index.write_text(json.dumps(named))
    plain, pipe = load(tmp_path / "base"), load_base(str(tmp_path / "editing"))
    family, size = recognise(pipe), {"width": 32, "height": 32}
    assert type(pipe) is type(plain) and family_of(str(tmp_path / "editing")) is family
    assert type(outline_base(str(tmp_path / "editing"))) is type(plain)
    base = picture(plain, **size)
    concept = make_concept(plain, targets={"transformer": "both"}, trigger=False)
    for one in (plain, pipe):
        one.set_progress_bar_config(disable=True)
        load_concept(one, concept)
    assert torch.equal(picture(pipe, **size), picture(plain, **size))
    assert not torch.equal(picture(pipe, **size), base)


KINDS = {
    "v1": {"model.diffusion_model.x": (1,)},
    "xl_base": {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1,)},
    "sd3": {
        "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,),
        "model.diffusion_model.pos_embed": (1, 36864, 1),
    },
    "sd35_large": {"joint_blocks.37.x_block.mlp.fc1.weight": (1, 1)},
    "flux-dev": {
        "double_blocks.0.img_attn.norm.key_norm.scale": (1,),
        "guidance_in.in_layer.bias": (1,),
        "img_in.weight": (1, 64),
    },
    "chroma": {"distilled_guidance_layer.in_proj.bias": (1,)},
    "flux-schnell": {"double_blocks.0.img_attn.norm.key_norm.scale": (1,)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_single_files_are_recognised_by_their_header(kind, tmp_path, monkeypatch):
    """The pipeline's own loader is called, whatever it then makes of a file of a few bytes."""
    import diffusers

    file = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in KINDS[kind].items()}, file)
    assert original_kind(file) == kind
    pipeline = getattr(diffusers, family_of_original(kind).pipelines[0])
    called = []
    monkeypatch.setattr(pipeline, "from_single_file", lambda *a, **k: called.append(a))
    load_base(str(file))
    assert called == [(str(file),)]


def test_single_files_of_other_models_are_refused(tmp_path):
    names = ("conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias",)
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "refiner.safetensors")
    with pytest.raises(ValueError, match="'xl_refiner', but single files can be of the kinds v1"):
        load_base(str(tmp_path / "refiner.safetensors"))


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_a_base_as_it_is_published(name, tmp_path):
    """The precision on a GPU: FLUX takes bfloat16, since float16 overflows."""
    save_tiny(name, tmp_path)
    base = str(tmp_path / "base")
    family = family_of(base)
    wanted = {"sd": torch.float16, "flux": torch.bfloat16}[name]
    assert family.name == name and getattr(torch, family.dtype) == wanted
    assert getattr(load_base(base, pick_dtype("cuda")), family.denoiser).dtype == wanted
    assert getattr(load_base(base, pick_dtype("cpu")), family.denoiser).dtype == torch.float32


def test_toybox_as_it_is_published():
    assert family_of("toybox").name == "sd"
    assert load_base("toybox", None).unet.dtype == torch.float16
    with pytest.raises(ValueError, match="could not be loaded .*; pass 'toybox', a diffusers"):
        family_of("no/such-base")


def test_targets(pipe):
    family, scheduler = recognise(pipe), pipe.scheduler
    latents, noise, steps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([5, 900])
    assert torch.equal(family.target(scheduler, latents, noise, steps), noise)
    scheduler.register_to_config(prediction_type="v_prediction")
    kept = scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1)
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * latents
    assert torch.allclose(family.target(scheduler, latents, noise, steps), velocity, atol=1e-6)
    scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ValueError, match="'sample'"):
        family.target(scheduler, latents, noise, steps)


def test_other_pipelines_are_refused():
    with pytest.raises(ValueError, match="SimpleNamespace is not supported"):
        recognise(SimpleNamespace())


def test_names_of_bases(base_folder, tmp_path):
    assert base_name("org/model") == "org/model"
    assert base_name(str(base_folder)) == "tiny"  # not somebody's path
    assert base_name(str(toybox.path())) == "toybox"
    (tmp_path / "FLUX.1-dev").mkdir()
    (tmp_path / "sd_1.5.safetensors").touch()
    assert base_name(str(tmp_path / "FLUX.1-dev")) == "FLUX.1-dev"  # and FLUX.2-dev is another
    assert base_name(str(tmp_path / "sd_1.5.safetensors")) == "sd_1.5"


def test_a_single_file_or_folder_that_is_no_base_is_told(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    for base in (tmp_path, tmp_path / "x.safetensors"):
        with pytest.raises(ValueError, match="could not be loaded"):
            load_base(str(base))


def test_a_base_keeps_its_safety_checker_where_that_is_asked_for(tmp_path):
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision = small | {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    settings = CLIPConfig(vision_config=vision, projection_dim=8)
    pipe = make_pipeline()
    pipe.register_modules(
        safety_checker=StableDiffusionSafetyChecker(settings),
        feature_extractor=CLIPImageProcessor(size=32, crop_size=32),
    )
    pipe.save_pretrained(tmp_path)
    assert load_base(str(tmp_path)).safety_checker is None
    assert load_base(str(tmp_path), checked=True).safety_checker is not None
