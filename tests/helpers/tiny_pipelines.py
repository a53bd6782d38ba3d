"""Tiny pipelines with the true classes and random weights, concepts for them, and trainings."""

import json
import os
import socket
import string
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

NEEDED = {"ideogram-4": {"guidance_scale": 7.0, "guidance_schedule": None}}  # of few steps


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer of single letters and a few whole words."""
    letters = string.ascii_lowercase + string.digits + ".,<>-!'"
    words = ["dog", "sks", "mug", "beach", "photo", "zwx"]
    merges, pieces = [], []
    for word in words:
        left = word[0]
        for i, letter in enumerate(word[1:], 1):
            right = letter + ("</w>" if i == len(word) - 1 else "")
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
            pieces.append(left)
    base = [c for c in letters] + [c + "</w>" for c in letters] + pieces
    tokens = list(dict.fromkeys([*base, "<|startoftext|>", "<|endoftext|>"]))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=16)


def text_config(tokenizer, width, **more):
    """A small CLIP text encoder's configuration."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({"eos_token_id": tokenizer.eos_token_id, "num_hidden_layers": 2} | more),
    )


def make_unet(width, **more):
    """A small UNet with self- and cross-attention."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=8,
        norm_num_groups=8,
        **more,
    )


def shared_parts():
    """VAE and scheduler of the tiny pipelines."""
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    return {"vae": vae, "scheduler": scheduler, "feature_extractor": None, "image_encoder": None}


def make_pipeline(seed: int = 0, width: int = 32) -> StableDiffusionPipeline:
    """A pipeline of some 300,000 parameters for pictures of 32 px."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    pipe = StableDiffusionPipeline(
        unet=make_unet(width),
        text_encoder=CLIPTextModel(text_config(tokenizer, width)).eval(),
        tokenizer=tokenizer,
        safety_checker=None,
        requires_safety_checker=False,
        **shared_parts(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_xl_pipeline(seed: int = 0, layers: int = 2) -> StableDiffusionXLPipeline:
    """SDXL's classes and layout; its second encoder states the end token as SDXL's file does.

    layers: of that encoder.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    second = text_config(tokenizer, 24, projection_dim=40, eos_token_id=2, num_hidden_layers=layers)
    unet = make_unet(
        32 + 24,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 40,
        use_linear_projection=True,
    )
    pipe = StableDiffusionXLPipeline(
        unet=unet,
        text_encoder=CLIPTextModel(text_config(tokenizer, 32)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(second).eval(),
        tokenizer=tokenizer,
        tokenizer_2=make_tokenizer(),
        **shared_parts(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load(folder, dtype=torch.float32):
    """A quiet pipeline from a folder."""
    loaded = DiffusionPipeline.from_pretrained(folder, dtype=dtype)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def picture(pipe, prompt="a photo of sks dog", seed=0, steps=2, **options):
    """The latents of a picture: compared, not looked at.

    options: of the pipeline's call; with a width and a height, those that its family needs for it.
    """
    if "width" in options:
        from svfit_diffusion.families import recognise

        family = recognise(pipe)
        options |= family.call_kwargs(pipe, options["width"], options["height"])
        options |= NEEDED.get(family.name, {})
    return pipe(
        prompt=prompt,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **options,
    ).images


def make_concept(pipe, rank=4, seed=0, size=0.5, targets=None, token="sks", trigger=True,
                 packed=False, common=64):  # fmt: skip
    """A concept of random deltas (in units of the mean singular value), a random common vector of
    that size, and a random trigger.
    """
    from svfit_diffusion.adapter.attention import layout, patch_attention, unpatch_attention
    from svfit_diffusion.adapter.tuner import SVFitConfig
    from svfit_diffusion.concept import Concept
    from svfit_diffusion.concept.packing import round_to_four_bits, round_vector
    from svfit_diffusion.families import recognise
    from svfit_diffusion.pipeline.matching import concept_fields, with_self_check

    family, random = recognise(pipe), np.random.default_rng(seed)
    targets = targets or {"unet": "both", "text_encoder": "self"}
    models = {part: getattr(pipe, part) for part in targets}
    for part, attention in targets.items():
        config = SVFitConfig(r=rank, base_dtype="float16", common=0 if "text" in part else common)
        patch_attention(models[part], config, "made", attention)
    fields = concept_fields(models, targets, family, "made")
    for model in models.values():
        unpatch_attention(model, "made")
    assert layout(models, targets)
    fields["deltas"] = (size * random.standard_normal(fields["deltas"].size)).astype(np.float16)
    if common:
        fields["common"] = (3 * size * random.standard_normal(common)).astype(np.float16)
    if packed:
        if common:
            fields["common"] = round_vector(fields["common"].astype(np.float32))
        parts = np.split(fields["deltas"].astype(np.float32), np.cumsum(fields["ranks"])[:-1])
        fields |= {
            "deltas": np.concatenate([round_to_four_bits(part) for part in parts]),
            "packed": True,
            "packed_words": bool(common),
        }
    if trigger:
        width = pipe.text_encoder.config.hidden_size
        row = (0.05 * random.standard_normal(width)).astype(np.float16)
        exact = fields.get("packed_words")
        fields["trigger_rows"] = round_vector(row.astype(np.float32)) if exact else row
        fields["trigger_shape"] = {"text_encoder": (1, width)}
    made = Concept(rank=str(rank), base="tiny", token=token, class_word="dog", **fields)
    return with_self_check(made, models, family)


def run(config, report=None, **changes):
    """Train, quietly."""
    from svfit_diffusion.training.loop import train

    return train(replace(config, **changes), progress=False, report=report)


def same(a, b):
    """Whether two concepts hold the same values."""
    rows = (a.trigger_rows is None) == (b.trigger_rows is None)
    rows = rows and (a.trigger_rows is None or np.array_equal(a.trigger_rows, b.trigger_rows))
    return rows and np.array_equal(a.edit_values, b.edit_values)


def first_gradients(config, **changes):
    """Parameter name -> its gradient before the first step, over all batches and processes; without
    those that change nothing, such as what a last block does with the text.
    """
    from svfit_diffusion.training.loop import Training
    from svfit_diffusion.training.runtime import make_accelerator

    config = replace(config, **changes)
    training = Training(config, make_accelerator(config), progress=False)
    training._backward()
    grads = {name: parameter.grad for name, parameter in training.parameters.items()}
    return {name: grad.clone() for name, grad in grads.items() if grad is not None}


TWO_PROCESSES = """
import gc, json, sys, torch
from accelerate import Accelerator, PartialState
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from helpers.tiny_pipelines import first_gradients
from svfit_diffusion import TrainConfig, train
config = TrainConfig(**json.loads(sys.argv[1]))
gradients = first_gradients(config)
assert PartialState().num_processes == 2
if PartialState().is_main_process:
    save_file(gradients, sys.argv[0] + ".safetensors")
end_training = Accelerator.end_training
def checked(accelerator):
    averaging = [each for each in gc.get_objects() if isinstance(each, DistributedDataParallel)]
    assert not averaging, "Gloo may hang if these are freed after its process group"
    end_training(accelerator)
Accelerator.end_training = checked
train(config, progress=False)
"""


def in_two_processes(config):
    """Train as `accelerate launch` would on two devices; returns the first gradients, by name."""
    code = TWO_PROCESSES
    script = Path(config.output_dir).parent / "two.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(code)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    tests = str(Path(__file__).parents[1])
    command += ["--master_port", port, str(script), json.dumps(asdict(config)), tests]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(f"{script}.safetensors")
