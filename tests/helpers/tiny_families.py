"""A tiny pipeline of each family: the true classes and layout, random weights, pictures of 32 px.

To add a family: a function that makes its pipeline, and its line in NEWER (tiny_newer_families.py).
"""

import warnings
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from PIL import Image
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
)

from helpers.tiny_newer_families import NEWER, VAE
from helpers.tiny_pipelines import (
    make_pipeline,
    make_tokenizer,
    make_unet,
    make_xl_pipeline,
    text_config,
)
from helpers.tiny_text_encoders import CHAT, make_qwen, make_t5
from svfit_diffusion.families import recognise
from svfit_diffusion.settings import TrainConfig


def make_sd2(seed: int = 0):
    """SD 2.x: velocity prediction, Linear projections around attention."""
    pipe = make_pipeline(seed)
    torch.manual_seed(seed)
    pipe.unet = make_unet(32, use_linear_projection=True)
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    return pipe


def make_sdxl(seed: int = 0):
    """SDXL with the scheduler that it is published with, which adds noise by another rule."""
    pipe = make_xl_pipeline(seed)
    pipe.scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1)
    return pipe


def make_sd3(seed: int = 0, layers: int = 2):
    """SD3.5's block with a second attention, and SD3's last one without a second stream's end.

    layers: of the transformer.
    """
    torch.manual_seed(seed)
    tokenizer, t5 = make_tokenizer(), make_t5(64)
    first = text_config(tokenizer, 32, projection_dim=24)
    second = text_config(tokenizer, 24, projection_dim=40, eos_token_id=2)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(**VAE, scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(first).eval(),
        text_encoder_2=CLIPTextModelWithProjection(second).eval(),
        text_encoder_3=t5["text_encoder"],
        tokenizer=tokenizer,
        tokenizer_2=make_tokenizer(),
        tokenizer_3=t5["tokenizer"],
    )


def make_flux(seed: int = 0):
    """FLUX.1 dev: a double- and a single-stream block, guidance told to the transformer."""
    torch.manual_seed(seed)
    tokenizer, t5 = make_tokenizer(), make_t5(32)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKL(**VAE, scaling_factor=0.36, shift_factor=0.12),
        text_encoder=CLIPTextModel(text_config(tokenizer, 32)).eval(),
        text_encoder_2=t5["text_encoder"],
        tokenizer=tokenizer,
        tokenizer_2=t5["tokenizer"],
    )


def flux2_parts(**more) -> dict:
    """FLUX.2's transformer, VAE and scheduler: a double-stream block, and a single-stream one with
    fused projections.
    """
    vae = AutoencoderKLFlux2(**VAE)
    vae.bn.running_mean.uniform_(-0.2, 0.2)
    vae.bn.running_var.uniform_(0.5, 2.0)
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        **more,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return {"vae": vae, "transformer": transformer, "scheduler": scheduler}


def make_flux2_klein(seed: int = 0):
    """FLUX.2 klein, distilled: four steps without guidance."""
    torch.manual_seed(seed)
    parts = flux2_parts(guidance_embeds=False) | make_qwen(8)
    return Flux2KleinPipeline(**parts, is_distilled=True)


def make_flux2(seed: int = 0):
    """FLUX.2 dev: Mistral 3 of 30 layers. Its processor needs torchvision; a tokenizer with a chat
    template that knows its kind of messages does the same for words.
    """
    torch.manual_seed(seed)
    tokenizer, small = make_qwen(8)["tokenizer"], {"hidden_size": 8, "intermediate_size": 8}
    tokenizer.chat_template = CHAT.replace("m.content", "m.content[0].text")
    text = MistralConfig(
        vocab_size=len(tokenizer), num_hidden_layers=30, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8, **small,
    )  # fmt: skip
    vision = PixtralVisionConfig(
        num_hidden_layers=1, num_attention_heads=1, image_size=16, patch_size=8, **small
    )
    encoder = Mistral3ForConditionalGeneration(
        Mistral3Config(vision_config=vision.to_dict(), text_config=text.to_dict())
    )
    parts = flux2_parts(guidance_embeds=True)
    return Flux2Pipeline(**parts, text_encoder=encoder.eval(), tokenizer=tokenizer)


def make_zimage(seed: int = 0):
    """Z-Image: blocks that refine noise and words by themselves, then one of both."""
    torch.manual_seed(seed)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=8,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 32, 32],
    )
    return ZImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(**VAE, scaling_factor=0.36, shift_factor=0.12),
        **make_qwen(8, layers=2),
    )


TINY = {
    "sd": make_pipeline,
    "sd2": make_sd2,
    "sdxl": make_sdxl,
    "sd3": make_sd3,
    "flux": make_flux,
    "flux2-klein": make_flux2_klein,
    "flux2": make_flux2,
    "z-image": make_zimage,
    **NEWER,
}


def all_targets(pipe) -> dict[str, str]:
    """Component -> attention of it, of everything that a concept may edit."""
    family = recognise(pipe)
    return {part: "self" for part in family.components(pipe)} | {family.denoiser: "both"}


def save_tiny(name: str, root: Path) -> None:
    """The family's base in `root/base`, as it is published, and two photos in `root/photos`."""
    pipe = TINY[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.to(getattr(torch, recognise(pipe).dtype)).save_pretrained(root / "base")
    (root / "photos").mkdir()
    for i, size in enumerate(((32, 32), (56, 32))):
        image = Image.new("RGB", size, ("white", "blue")[i])
        image.paste((255, 0, 0), (8, 8, 24, 24))
        image.save(root / "photos" / f"{i}.png")


def tiny_config(root: Path, **more) -> TrainConfig:
    """A training on the base and the photos that `save_tiny` put into a folder."""
    return TrainConfig(
        pretrained_model_name_or_path=str(root / "base"),
        instance_data_dir=str(root / "photos"),
        instance_prompt="a photo of sks dog",
        output_dir=str(root / "rex"),
        resolution=32,
        rank="4",
        learning_rate=0.01,
        train_batch_size=2,
        **more,
    )
