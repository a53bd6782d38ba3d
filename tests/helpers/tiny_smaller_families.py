"""Tiny pipelines, as in tiny_families.py, of families with smaller bases, and VAEs of them all."""

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
)
from transformers import UMT5EncoderModel

from helpers.tiny_text_encoders import make_gemma, make_glm, make_t5

VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 32,
}
VAE_OF_8 = VAE | {  # for pipelines that take a halving of three times as given
    "block_out_channels": (4, 4, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


def make_lumina2(seed: int = 0):
    """Lumina-Image 2.0: blocks that refine noise and words by themselves, then one of both."""
    torch.manual_seed(seed)
    transformer = Lumina2Transformer2DModel(
        sample_size=4,
        in_channels=4,
        hidden_size=32,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(300, 32, 32),
        cap_feat_dim=8,
    )
    return Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=AutoencoderKL(**VAE_OF_8, scaling_factor=0.36, shift_factor=0.12),
        **make_gemma(8),
    )


def make_sana(seed: int = 0):
    """Sana: linear attention, then attention to the words; published with a DPM-Solver."""
    torch.manual_seed(seed)
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.41407,
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=8,
        sample_size=16,
    )
    for block in transformer.transformer_blocks:
        torch.nn.init.normal_(block.scale_shift_table)  # less, and attention changes little
    solver = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return SanaPipeline(transformer=transformer, scheduler=solver, vae=vae, **make_gemma(8))


def make_auraflow(seed: int = 0):
    """AuraFlow: a double- and a single-stream block."""
    torch.manual_seed(seed)
    transformer = AuraFlowTransformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=64,
    )
    for name, gates in transformer.named_parameters():
        if ".norm1.linear" in name or ".norm1_context.linear" in name:
            torch.nn.init.normal_(gates)  # less, and attention changes little
    return AuraFlowPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        vae=AutoencoderKL(**VAE, scaling_factor=0.13025),
        **make_t5(32, UMT5EncoderModel),
    )


def make_pixart(seed: int = 0):
    """PixArt-Sigma: attention to the picture, then to the words; noise and variance predicted."""
    torch.manual_seed(seed)
    transformer = PixArtTransformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=32,
        norm_num_groups=4,
    )
    for block in transformer.transformer_blocks:
        torch.nn.init.normal_(block.scale_shift_table)  # less, and attention changes little
    return PixArtSigmaPipeline(
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
        vae=AutoencoderKL(**VAE, scaling_factor=0.13025),
        **make_t5(32),
    )


def make_cogview4(seed: int = 0):
    """CogView4, which is told the picture's size and crop."""
    torch.manual_seed(seed)
    transformer = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=8,
        time_embed_dim=16,
        condition_dim=8,
        sample_size=16,
        rope_axes_dim=(32, 32),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
    )
    vae = AutoencoderKL(**VAE, scaling_factor=1.0)
    return CogView4Pipeline(transformer=transformer, scheduler=scheduler, vae=vae, **make_glm(8))


SMALLER = {
    "lumina2": make_lumina2,
    "sana": make_sana,
    "auraflow": make_auraflow,
    "pixart-sigma": make_pixart,
    "cogview4": make_cogview4,
}
