"""What LoRA tests share: SDXL's targets, and random LoRA files."""

import torch

XL = {"unet": "both", "text_encoder": "self", "text_encoder_2": "self"}


TO_Q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"


def random_lora(pipe, seed=0, scale=0.1, alpha=2.0):
    """A LoRA of rank 4 on one projection and one layer that is none, in kohya's names."""
    g = torch.Generator().manual_seed(seed)
    weight = pipe.unet.get_submodule(
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    ).weight
    made = {}
    for name, (out, in_) in ((TO_Q, weight.shape), (TO_Q.replace("attn1_to_q", "ff_x"), (8, 6))):
        made[f"{name}.lora_down.weight"] = scale * torch.randn(4, in_, generator=g)
        made[f"{name}.lora_up.weight"] = torch.randn(out, 4, generator=g)
        made[f"{name}.alpha"] = torch.tensor(alpha)
    return made, weight
