"""A picture by ComfyUI's own execution of a graph with the node, against our pipeline's."""

import asyncio
import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from helpers import comfyui as tiny
from helpers.original_layout import original_state
from helpers.tiny_pipelines import make_concept, shared_parts
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from svfit_diffusion import load_concept, read_concept, set_concepts, write_concept

PROMPT, NEGATIVE, SEED, CFG = "a photo of sks dog on a beach", "blurry", 7, 4.0
TIMESTEPS = [999, 749, 499, 249]  # of ComfyUI's schedule "simple" in four steps
SCALE = 0.18215  # of SD's latents, which ComfyUI takes off and diffusers leaves


def shallow(words: Path) -> StableDiffusionPipeline:
    """SD 1.5's widths in a UNet of one level, and a CLIP that is its own, of random weights."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(320,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=768,
        attention_head_dim=8,
    )
    tokenizer = CLIPTokenizer.from_pretrained(words, model_max_length=77)
    text = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12,
        vocab_size=49408, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
    )  # fmt: skip
    parts = shared_parts() | {
        "scheduler": EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            timestep_spacing="leading", steps_offset=1,
        )
    }  # fmt: skip
    pipe = StableDiffusionPipeline(
        unet=unet, text_encoder=CLIPTextModel(text).eval(), tokenizer=tokenizer,
        safety_checker=None, requires_safety_checker=False, **parts,
    )  # fmt: skip
    for model in (pipe.unet, pipe.text_encoder):
        model.to(torch.float16).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def base(comfyui, tmp_path_factory):
    """The pipeline, its concept's file, and ComfyUI's folders with both."""
    import folder_paths
    import nodes

    pipe = shallow(comfyui / "comfy" / "sd1_tokenizer")
    concept = make_concept(pipe, rank=4)
    models = Path(folder_paths.models_dir)
    (models / "checkpoints").mkdir(parents=True, exist_ok=True)
    state = {k: v.half() for k, v in original_state(pipe).items() if "first_stage" not in k}
    save_file(state, models / "checkpoints" / "base.safetensors")
    assert asyncio.run(nodes.load_custom_node(str(tiny.NODE)))
    file = write_concept(concept, models / "concepts" / "rex.safetensors")
    other = make_concept(pipe, rank=4, seed=1, token="zwx")
    (models / "loras").mkdir(exist_ok=True)
    write_concept(other, models / "loras" / "mug.safetensors")
    save_file({"a.lora_down.weight": torch.zeros(1, 2)}, models / "loras" / "lora.safetensors")
    Image.new("RGB", (8, 8), "red").save(file.with_suffix(".png"))
    return pipe, file


class Quiet:
    """What a server is told of an execution."""

    client_id, last_node_id = None, None

    def __init__(self):
        self.errors = []

    def send_sync(self, event, data, sid=None):
        """Keep what went wrong."""


def execute(graph):
    """Run an API-format graph; raises RuntimeError with the message of what fails."""
    import execution

    valid = asyncio.run(execution.validate_prompt("1", graph, None))
    assert valid[0], valid[1:]
    executor = execution.PromptExecutor(Quiet(), cache_args={"lru": 0, "ram": 0})
    executor.execute(graph, "1", {}, valid[2])
    failed = [data for event, data in executor.status_messages if event == "execution_error"]
    if failed:
        raise RuntimeError(failed[0]["exception_message"])
    return executor


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def graph(prefix, **strengths):
    """Load, encode, sample, save the latent."""
    strengths = {"strength_model": 1.0, "strength_clip": 1.0, "strength_word": 1.0} | strengths
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name="base.safetensors"),
        "2": node(
            "SVFitLoadConcept", model=["1", 0], clip=["1", 1], concept="rex.safetensors",
            **strengths,
        ),
        "3": node("CLIPTextEncode", clip=["2", 1], text=PROMPT),
        "4": node("CLIPTextEncode", clip=["2", 1], text=NEGATIVE),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node(
            "KSampler", model=["2", 0], positive=["3", 0], negative=["4", 0],
            latent_image=["5", 0], seed=SEED, steps=len(TIMESTEPS), cfg=CFG, sampler_name="euler",
            scheduler="simple", denoise=1.0,
        ),
        "7": node("SaveLatent", samples=["6", 0], filename_prefix=prefix),
    }  # fmt: skip


def latents(prefix):
    """The latents [1, 4, 8, 8] that a graph has saved, as diffusers scales them."""
    import folder_paths

    (file,) = Path(folder_paths.get_output_directory()).glob(f"{prefix}_*.latent")
    return load_file(file)["latent_tensor"].float() * SCALE


def ours(pipe):
    """The latents of our pipeline as it is."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(SEED))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pipe(
            PROMPT, negative_prompt=NEGATIVE, timesteps=TIMESTEPS, latents=noise, height=64,
            width=64, guidance_scale=CFG, output_type="latent",
        ).images  # fmt: skip


def test_the_picture_is_that_of_our_pipeline(base, tmp_path, monkeypatch):
    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path))
    pipe, file = base
    execute(graph("without", strength_model=0.0, strength_clip=0.0, strength_word=0.0))
    execute(graph("with"))
    execute(graph("half", strength_model=0.5, strength_clip=0.5, strength_word=0.5))
    name = load_concept(pipe, file)
    found = {"with": latents("with"), "half": latents("half")}
    wanted = {"with": ours(pipe)}
    set_concepts(pipe, {name: 0.5})
    wanted["half"] = ours(pipe)
    for which, ours_ in wanted.items():
        difference = (found[which] - ours_).abs().max()
        print(f"{which}: latents differ by {difference:.1e}, of {ours_.abs().max():.1f}")
        assert difference < 1e-4
        assert (found[which] - latents("without")).abs().max() > 1e-2


def widgets(saved):
    """The inputs of a node of the page's form that are no links, by name."""
    import nodes

    kinds = nodes.NODE_CLASS_MAPPINGS[saved["type"]].INPUT_TYPES()
    values, found = list(saved["widgets_values"]), {}
    for name, (kind, *more) in (kinds["required"] | kinds.get("optional", {})).items():
        if isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING"):
            found[name] = values.pop(0)
            if name == "seed" and more[0].get("control_after_generate"):
                values.pop(0)
    assert not values, (saved["type"], values)
    return found


def as_api(page):
    """A graph of the page's form in the form that is executed."""
    ends = {link[0]: [str(link[1]), link[2]] for link in page["links"]}
    return {
        str(saved["id"]): node(
            saved["type"],
            **widgets(saved),
            **{one["name"]: ends[one["link"]] for one in saved["inputs"]},
        )
        for saved in page["nodes"]
    }


def names_of(kind, field):
    import nodes

    return nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()["required"][field][0]


def test_concepts_are_listed_from_their_folder_and_from_among_the_loras(base):
    assert names_of("SVFitLoadConcept", "concept") == ["mug.safetensors", "rex.safetensors"]
    assert names_of("SVFitSeveralConcepts", "concept_1")[0] == "none"


@pytest.mark.parametrize("name", ["one_concept", "several_concepts"])
def test_the_examples_are_valid(base, name, monkeypatch):
    """As they are, but for the checkpoint's name and size: ComfyUI's own check of a graph."""
    import execution

    text = (tiny.NODE / "example_workflows" / f"{name}.json").read_text()
    page = json.loads(text.replace("v1-5-pruned-emaonly-fp16", "base"))
    valid = asyncio.run(execution.validate_prompt("1", as_api(page), None))
    assert valid[0] and not valid[3], valid
    assert (tiny.NODE / "example_workflows" / f"{name}.jpg").is_file()


def test_several_concepts_are_one_after_the_other(base, tmp_path, monkeypatch):
    """At strengths of their own; what is called by the same word is refused in one sentence."""
    import nodes

    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path))
    kinds = nodes.NODE_CLASS_MAPPINGS
    model, clip, _ = kinds["CheckpointLoaderSimple"]().load_checkpoint("base.safetensors")
    one = kinds["SVFitLoadConcept"]()
    first = one.load(model, "rex.safetensors", 0.5, 0.5, 0.5, clip=clip)
    chained = one.load(first[0], "mug.safetensors", 1.0, 1.0, 1.0, clip=first[1])
    slots = {"concept_1": "rex.safetensors", "strength_1": 0.5, "concept_2": "none",
             "strength_2": 1.0, "concept_3": "mug.safetensors", "strength_3": 1.0,
             "concept_4": "none", "strength_4": 1.0}  # fmt: skip
    several = kinds["SVFitSeveralConcepts"]()
    together = several.load(model, clip=clip, **slots)
    assert together[2] == "sks dog, zwx dog"
    for ours, theirs in ((together[0], chained[0]), (together[1].patcher, chained[1].patcher)):
        assert ours.patches.keys() == theirs.patches.keys()
        for key, patches in ours.patches.items():
            pairs = list(zip(patches, theirs.patches[key], strict=True))
            assert len(pairs) == 2
            assert all(a[0] == b[0] and torch.equal(a[1].weights[0], b[1].weights[0])
                       for a, b in pairs)  # fmt: skip
    tokens = together[1].tokenize("sks and zwx")["l"][0]
    assert [torch.is_tensor(token) for token, _ in tokens[:5]] == [False, True, False, True, False]
    with pytest.raises(ValueError, match="rex.safetensors: two concepts are both called by 'sks'"):
        several.load(model, clip=clip, **slots | {"concept_2": "rex.safetensors"})


def test_the_info_of_a_concept_and_its_picture(base):
    import folder_paths
    import nodes

    pipe, file = base
    shown = nodes.NODE_CLASS_MAPPINGS["SVFitConceptInfo"]().show("rex.safetensors")
    trigger, info = shown["result"]
    assert trigger == "sks dog"
    assert f"{read_concept(file).values:,} in {file.stat().st_size:,} bytes" in info
    assert "base: tiny" in info and "family: sd" in info and "unet (both)" in info
    (picture,) = shown["ui"]["images"]
    copied = Path(folder_paths.get_temp_directory()) / picture["filename"]
    assert copied.read_bytes() == file.with_suffix(".png").read_bytes()


def test_a_refusal_reaches_the_page_as_one_sentence(base, tmp_path, monkeypatch):
    """Through ComfyUI's execution, of a concept of another base that has the same layout."""
    import folder_paths

    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path))
    pipe, file = base
    other = replace(
        read_concept(file), fingerprints=dict.fromkeys(("unet", "text_encoder"), "0" * 32)
    )
    write_concept(other, file.with_name("other.safetensors"))
    folder_paths.filename_list_cache.clear()
    wrong = graph("never")
    wrong["2"]["inputs"]["concept"] = "other.safetensors"
    with pytest.raises(
        RuntimeError,
        match="^this concept was trained on 'tiny', but the (unet|text_"
        "encoder) that is connected has other weights; [^.]*\\.$",
    ):
        execute(wrong)
