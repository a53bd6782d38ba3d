"""Tiny pipelines, as in tiny_families.py, of the families that came after FLUX.1."""

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    Ideogram4Pipeline,
    Ideogram4Transformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import CLIPTextModelWithProjection

from helpers.tiny_pipelines import make_tokenizer, text_config
from helpers.tiny_smaller_families import SMALLER, VAE
from helpers.tiny_text_encoders import (
    CHAT,
    make_llama,
    make_qwen3_vl,
    make_qwen_vl,
    make_t5,
)


def video_vae() -> AutoencoderKLQwenImage:
    """Qwen-Image's VAE of one halving, with statistics of its own for each channel."""
    statistics = {"latents_mean": [-0.2, -0.1, 0.1, 0.2], "latents_std": [0.5, 0.8, 1.1, 1.4]}
    return AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        **statistics,
    )  # fmt: skip


def make_qwen_image(seed: int = 0):
    """Qwen-Image: two streams, and a VAE for video."""
    torch.manual_seed(seed)
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        axes_dims_rope=(4, 6, 6),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    return QwenImagePipeline(
        transformer=transformer, scheduler=scheduler, vae=video_vae(), **make_qwen_vl(8)
    )


def make_krea2(seed: int = 0):
    """Krea 2 Raw: fewer keys than queries, and twelve layers of text, mixed by own blocks."""
    torch.manual_seed(seed)
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=8,
        text_num_attention_heads=1,
        text_num_key_value_heads=1,
        text_intermediate_size=8,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    for table in (p for n, p in transformer.named_parameters() if n.endswith("scale_shift_table")):
        torch.nn.init.normal_(table, std=0.5)  # zero in a new model, so that its blocks do nothing
    return Krea2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=video_vae(),
        **make_qwen3_vl(8, 36),
    )


def make_chroma(seed: int = 0):
    """Chroma: FLUX.1's blocks, modulated by a small model of the time alone."""
    torch.manual_seed(seed)
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return ChromaPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKL(**VAE, scaling_factor=0.36, shift_factor=0.12),
        **make_t5(32),
    )


def make_hidream(seed: int = 0):
    """HiDream: a double- and a single-stream block, each with two experts, and four encoders."""
    torch.manual_seed(seed)
    tokenizer, t5, llama = make_tokenizer(), make_t5(16), make_llama(8, 2)
    clip = text_config(tokenizer, 16, projection_dim=8)
    clip.max_position_embeddings = 128  # as many as T5 and Llama read
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[16, 8],
        text_emb_dim=16,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(4, 6, 6),
        max_resolution=(32, 32),
        llama_layers=[0, 1],
    )
    return HiDreamImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(**VAE, scaling_factor=0.36, shift_factor=0.12),
        text_encoder=CLIPTextModelWithProjection(clip).eval(),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(clip).eval(),
        tokenizer_2=make_tokenizer(),
        text_encoder_3=t5["text_encoder"],
        tokenizer_3=t5["tokenizer"],
        text_encoder_4=llama["text_encoder"],
        tokenizer_4=llama["tokenizer"],
    )


def make_ideogram4(seed: int = 0):
    """Ideogram 4: a transformer that reads the prompt, and one that does not."""
    torch.manual_seed(seed)
    vae = AutoencoderKLFlux2(**VAE)
    vae.bn.running_mean.uniform_(-0.2, 0.2)
    vae.bn.running_var.uniform_(0.5, 2.0)
    one, other = (
        Ideogram4Transformer2DModel(
            in_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=13 * 8,
            mrope_section=(4, 2, 2),
        )
        for _ in range(2)
    )
    reader = make_qwen3_vl(8, 36)
    reader["tokenizer"].chat_template = CHAT.replace("m.content", "m.content[0].text")
    return Ideogram4Pipeline(
        transformer=one,
        unconditional_transformer=other,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        **reader,
    )


NEWER = {
    "qwen-image": make_qwen_image,
    "krea-2": make_krea2,
    "chroma": make_chroma,
    "hidream": make_hidream,
    "ideogram-4": make_ideogram4,
    **SMALLER,
}
