"""A diffusers pipeline's weights under the names of original Stable Diffusion checkpoints.

The inverse of what diffusers' single-file loader does, for tests of that way in.
"""

import re

import torch

UNET = [
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),  # SDXL's
    ("add_embedding.linear_2", "label_emb.0.2"),
]
OPEN_CLIP = [
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    ("text_model.final_layer_norm", "ln_final"),
    ("text_model.encoder.layers", "transformer.resblocks"),
    ("layer_norm", "ln_"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn", "attn"),
]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
SD3 = [
    ("pos_embed.proj", "x_embedder.proj"),
    ("pos_embed.pos_embed", "pos_embed"),
    ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ("proj_out", "final_layer.linear"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1"),
    ("transformer_blocks.", "joint_blocks."),
    (".attn.to_add_out", ".context_block.attn.proj"),
    (".attn.norm_added_", ".context_block.attn.ln_"),
    (".norm1_context.linear", ".context_block.adaLN_modulation.1"),
    (".norm1.linear", ".x_block.adaLN_modulation.1"),
    (".ff_context.net.0.proj", ".context_block.mlp.fc1"),
    (".ff_context.net.2", ".context_block.mlp.fc2"),
    (".ff.net.0.proj", ".x_block.mlp.fc1"),
    (".ff.net.2", ".x_block.mlp.fc2"),
    (".attn.to_out.0", ".x_block.attn.proj"),
    (".attn2.to_out.0", ".x_block.attn2.proj"),
    (".attn.norm_", ".x_block.attn.ln_"),
    (".attn2.norm_", ".x_block.attn2.ln_"),
]
SD3_QKV = {  # q, k and v of one tensor
    "x_block.attn.qkv": [f"attn.to_{p}" for p in "qkv"],
    "x_block.attn2.qkv": [f"attn2.to_{p}" for p in "qkv"],
    "context_block.attn.qkv": [f"attn.add_{p}_proj" for p in "qkv"],
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def unet_name(key, layers, attention):
    """Original name of a UNet tensor; attention: whether each up block has attention."""
    per = layers + 1
    for ours, theirs in UNET:
        if key.startswith(ours + "."):
            return key.replace(ours, theirs, 1)
    kind, rest = re.match(r"(down_blocks|mid_block|up_blocks)\.(.*)", key).groups()
    if kind == "mid_block":
        part, i, tail = re.match(r"(resnets|attentions)\.(\d)\.(.*)", rest).groups()
        place = f"middle_block.{2 * int(i) if part == 'resnets' else 1}"
    else:
        block, part, i, tail = re.match(r"(\d)\.(\w+)\.(\d)\.(.*)", rest).groups()
        block, i = int(block), int(i)
        if part == "downsamplers":
            return f"input_blocks.{per * (block + 1)}.0.op.{tail.removeprefix('conv.')}"
        if part == "upsamplers":
            return f"output_blocks.{per * block + layers}.{2 if attention[block] else 1}.{tail}"
        side = 0 if part == "resnets" else 1
        first = f"input_blocks.{per * block + i + 1}" if kind == "down_blocks" else ""
        place = f"{first or f'output_blocks.{per * block + i}'}.{side}"
    if part == "resnets":
        head, _, tail = tail.partition(".")
        tail = f"{RESNET[head]}.{tail}"
    return f"{place}.{tail}"


def vae_name(key, levels):
    """Original name of a VAE tensor."""
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    attention = re.match(r"(.*)mid_block\.attentions\.0\.(.*)\.(\w+)", key)
    if attention:
        return f"{attention[1]}mid.attn_1.{VAE_ATTENTION[attention[2]]}.{attention[3]}"
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    up = lambda m: f"up.{levels - 1 - int(m[1])}"  # noqa: E731
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"{up(m)}.block", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"{up(m)}.upsample", key)


def original_state(pipe):
    """Name -> tensor of a Stable Diffusion 1 or XL pipeline, as in a .safetensors checkpoint."""
    attention = ["CrossAttn" in name for name in pipe.unet.config.up_block_types]
    state = {}
    for key, tensor in pipe.unet.state_dict().items():
        name = unet_name(key, pipe.unet.config.layers_per_block, attention)
        state[f"model.diffusion_model.{name}"] = tensor
    state |= vae_state(pipe.vae)
    two = hasattr(pipe, "text_encoder_2")
    first = "conditioner.embedders.0." if two else "cond_stage_model."
    for key, tensor in pipe.text_encoder.state_dict().items():
        state[f"{first}transformer.text_model.{key.removeprefix('text_model.')}"] = tensor
    if two:
        state |= open_clip_state(pipe.text_encoder_2)
    return {key: tensor.contiguous() for key, tensor in state.items()}


def open_clip_state(encoder):
    """SDXL's second text encoder under OpenCLIP's names: q, k and v in one tensor."""
    state, held = {}, encoder.state_dict()
    for key, tensor in held.items():
        for ours, theirs in OPEN_CLIP:
            key = key.replace(ours, theirs)
        if ".q_proj." in key or key == "text_projection.weight":
            continue
        if ".k_proj." not in key and ".v_proj." not in key:
            state[f"conditioner.embedders.1.model.{key}"] = tensor
    state["conditioner.embedders.1.model.text_projection"] = held["text_projection.weight"].T
    for i in range(encoder.config.num_hidden_layers):
        for kind in ("weight", "bias"):
            name = f"text_model.encoder.layers.{i}.self_attn"
            parts = [held[f"{name}.{p}_proj.{kind}"] for p in "qkv"]
            place = f"conditioner.embedders.1.model.transformer.resblocks.{i}.attn.in_proj_{kind}"
            state[place] = torch.cat(parts)
    return state


def vae_state(vae):
    """A VAE in a checkpoint, its attention as convolutions."""
    state = {}
    for key, tensor in vae.state_dict().items():
        name = vae_name(key, len(vae.config.block_out_channels))
        square = ".mid.attn_1." in name and tensor.ndim == 2
        state[f"first_stage_model.{name}"] = tensor[..., None, None] if square else tensor
    return state


def sd3_state(pipe):
    """Name -> tensor of SD3's transformer and VAE, as in a checkpoint without text encoders."""
    held, state = pipe.transformer.state_dict(), {}
    last = f"transformer_blocks.{pipe.transformer.config.num_layers - 1}.norm1_context."
    joined = [f".{name}." for names in SD3_QKV.values() for name in names]
    for key, tensor in held.items():
        if any(name in key for name in joined):
            continue
        if key.startswith((last, "norm_out.linear.")):  # scale and shift the other way round
            tensor = torch.cat(tensor.chunk(2)[::-1])
        for ours, theirs in SD3:
            key = key.replace(ours, theirs)
        state[f"model.diffusion_model.{key}"] = tensor
    for i in range(pipe.transformer.config.num_layers):
        for place, names in SD3_QKV.items():
            for kind in ("weight", "bias"):
                keys = [f"transformer_blocks.{i}.{name}.{kind}" for name in names]
                if keys[0] in held:
                    whole = torch.cat([held[key] for key in keys])
                    state[f"model.diffusion_model.joint_blocks.{i}.{place}.{kind}"] = whole
    state |= vae_state(pipe.vae)
    return {key: tensor.contiguous() for key, tensor in state.items()}
