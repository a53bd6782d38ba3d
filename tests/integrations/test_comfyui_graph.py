"""A picture by ComfyUI's own execution of a graph with the node, against our pipeline's."""

import asyncio
import json
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from helpers import comfyui as tiny
from helpers.original_layout import original_state
from helpers.tiny_pipelines import make_concept, shared_parts
from svfit_diffusion import load_concept, write_concept

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
    from svfit_diffusion import set_concepts

    set_concepts(pipe, {name: 0.5})
    wanted["half"] = ours(pipe)
    for which, ours_ in wanted.items():
        difference = (found[which] - ours_).abs().max()
        print(f"{which}: latents differ by {difference:.1e}, of {ours_.abs().max():.1f}")
        assert difference < 1e-4
        assert (found[which] - latents("without")).abs().max() > 1e-2
