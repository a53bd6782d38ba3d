"""Each family's loss as published, written out by hand from diffusers' training scripts."""

import torch
from diffusers import (
    ChromaPipeline,
    Flux2KleinPipeline,
    FluxPipeline,
    QwenImagePipeline,
    SanaPipeline,
)

PROMPT = "a photo of sks dog"


def diffused(steps):
    """sqrt(a) and sqrt(1 - a) [n, 1, 1, 1] of Stable Diffusion's schedule."""
    betas = torch.linspace(0.0001**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[steps].view(-1, 1, 1, 1)
    return kept.sqrt(), (1 - kept).sqrt()


def frames_of(batch):
    """Size, corner of the crop and its size, of the photos of save_tiny: [n, 6]."""
    cut = {0: (32, 32, 0, 0, 32, 32), 1: (32, 56, 0, 12, 32, 32)}
    ids = torch.tensor([cut[photo] for photo in batch.photos], dtype=torch.float32)
    assert len(ids.unique(dim=0)) == 2
    return ids


def unet_loss(pipe, batch):
    keep, blur = diffused(batch.steps)
    noisy = (keep * batch.latents + blur * batch.noise).float()
    n = len(noisy)
    if hasattr(pipe, "text_encoder_2"):
        hidden, _, pooled, _ = pipe.encode_prompt([PROMPT] * n, do_classifier_free_guidance=False)
        ids = frames_of(batch)
        added = {"text_embeds": pooled, "time_ids": ids}
        found = pipe.unet(noisy, batch.steps, hidden, added_cond_kwargs=added).sample
    else:
        ids = pipe.tokenizer([PROMPT] * n, padding="max_length", return_tensors="pt").input_ids
        found = pipe.unet(noisy, batch.steps, pipe.text_encoder(ids)[0]).sample
    velocity = pipe.scheduler.config.prediction_type == "v_prediction"
    target = keep * batch.noise - blur * batch.latents if velocity else batch.noise
    return (found - target).square().mean()


def flow_loss(pipe, batch, shift, predict):
    level = (1000 - batch.steps) / 1000
    level = shift * level / (1 + (shift - 1) * level)
    share = level.view(-1, 1, 1, 1)
    noisy = (1 - share) * batch.latents + share * batch.noise
    return (predict(pipe, noisy, level) - (batch.noise - batch.latents)).square().mean()


def sd3(pipe, noisy, level):
    hidden, _, pooled, _ = pipe.encode_prompt(PROMPT, PROMPT, PROMPT)
    n = len(noisy)
    return pipe.transformer(
        noisy, hidden.repeat(n, 1, 1), pooled.repeat(n, 1), timestep=1000 * level
    ).sample


def flux(pipe, noisy, level):
    hidden, pooled, words = pipe.encode_prompt(PROMPT)
    n = len(noisy)
    packed = FluxPipeline._pack_latents(noisy, *noisy.shape)
    places = FluxPipeline._prepare_latent_image_ids(n, 8, 8, "cpu", torch.float32)
    found = pipe.transformer(
        hidden_states=packed, timestep=level, guidance=torch.ones(n), txt_ids=words,
        img_ids=places, encoder_hidden_states=hidden.repeat(n, 1, 1),
        pooled_projections=pooled.repeat(n, 1),
    ).sample  # fmt: skip
    return FluxPipeline._unpack_latents(found, 32, 32, 2)


def flux2(pipe, noisy, level):
    hidden, words = pipe.encode_prompt([PROMPT] * len(noisy))
    places = Flux2KleinPipeline._prepare_latent_ids(noisy)
    told = {"guidance": torch.ones(len(noisy))} if pipe.transformer.config.guidance_embeds else {}
    found = pipe.transformer(
        **told, hidden_states=Flux2KleinPipeline._pack_latents(noisy), timestep=level,
        encoder_hidden_states=hidden, txt_ids=words, img_ids=places,
    ).sample  # fmt: skip
    return Flux2KleinPipeline._unpack_latents_with_ids(found, places)


def z_image(pipe, noisy, level):
    words, _ = pipe.encode_prompt([PROMPT], "cpu", do_classifier_free_guidance=False)
    found = pipe.transformer(list(noisy.unsqueeze(2)), 1 - level, words * len(noisy)).sample
    return -torch.stack(found)[:, :, 0]


def qwen_image(pipe, noisy, level):
    """train_dreambooth_lora_qwen_image.py"""
    n, _, rows, columns = noisy.shape
    hidden, mask = pipe.encode_prompt([PROMPT] * n)
    assert mask is None  # equally long
    found = pipe.transformer(
        hidden_states=QwenImagePipeline._pack_latents(noisy, n, 4, rows, columns),
        timestep=level, encoder_hidden_states=hidden, encoder_hidden_states_mask=mask,
        img_shapes=[[(1, rows // 2, columns // 2)]] * n,
    ).sample  # fmt: skip
    return QwenImagePipeline._unpack_latents(found, 32, 32, 2).squeeze(2)


def krea2(pipe, noisy, level):
    """train_dreambooth_lora_krea2.py"""
    n, _, rows, columns = noisy.shape
    hidden, mask = pipe.encode_prompt([PROMPT] * n)
    found = pipe.transformer(
        hidden_states=pipe._pack_latents(noisy, n, 4, rows, columns), timestep=level,
        encoder_hidden_states=hidden, encoder_attention_mask=mask,
        position_ids=pipe.prepare_position_ids(hidden.shape[1], rows // 2, columns // 2, "cpu"),
    ).sample  # fmt: skip
    return pipe._unpack_latents(found, 32, 32).squeeze(2)


def chroma(pipe, noisy, level):
    """FLUX.1's, without guidance and pooled vector, and with the pipeline's mask of the prompt."""
    n = len(noisy)
    hidden, words, mask, *_ = pipe.encode_prompt([PROMPT] * n, do_classifier_free_guidance=False)
    found = pipe.transformer(
        hidden_states=ChromaPipeline._pack_latents(noisy, *noisy.shape), timestep=level,
        encoder_hidden_states=hidden, txt_ids=words,
        img_ids=ChromaPipeline._prepare_latent_image_ids(n, 8, 8, "cpu", torch.float32),
        attention_mask=pipe._prepare_attention_mask(n, 64, torch.float32, mask),
    ).sample  # fmt: skip
    return ChromaPipeline._unpack_latents(found, 32, 32, 2)


def hidream(pipe, noisy, level):
    """train_dreambooth_lora_hidream.py"""
    n = len(noisy)
    t5, _, llama, _, pooled, _ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    return -pipe.transformer(
        hidden_states=noisy, timesteps=1000 * level, encoder_hidden_states_t5=t5.repeat(n, 1, 1),
        encoder_hidden_states_llama3=llama.repeat(1, n, 1, 1), pooled_embeds=pooled.repeat(n, 1),
    ).sample  # fmt: skip


def lumina2(pipe, noisy, level):
    """train_dreambooth_lora_lumina2.py, whose sigma is 1 - level."""
    n = len(noisy)
    hidden, mask, _, _ = pipe.encode_prompt([PROMPT] * n, do_classifier_free_guidance=False)
    return -pipe.transformer(
        hidden_states=noisy, encoder_hidden_states=hidden, encoder_attention_mask=mask,
        timestep=1 - level,
    ).sample  # fmt: skip


def sana(pipe, noisy, level):
    """train_dreambooth_lora_sana.py, with the instruction that the pipeline is used with."""
    n, told = len(noisy), SanaPipeline.__call__.__wrapped__.__defaults__[-1]
    assert told[-1] == "User Prompt: "
    hidden, mask, _, _ = pipe.encode_prompt([PROMPT] * n, False, complex_human_instruction=told)
    return pipe.transformer(
        hidden_states=noisy, encoder_hidden_states=hidden, encoder_attention_mask=mask,
        timestep=1000 * level,
    ).sample  # fmt: skip


def ideogram4(pipe, noisy, level):
    """train_dreambooth_lora_ideogram4.py, with what its pipeline makes of the prompt."""
    n, long = len(noisy), 64
    hidden, places, segments, kinds = pipe.encode_prompt([PROMPT] * n, 8, 8, long, "cpu")
    tokens = torch.cat([torch.zeros(n, long, 16), noisy.flatten(2).transpose(1, 2)], dim=1)
    found = pipe.transformer(
        hidden_states=tokens, timestep=1 - level, encoder_hidden_states=hidden,
        position_ids=places, segment_ids=segments, indicator=kinds,
    ).sample  # fmt: skip
    return -found[:, long:].transpose(1, 2).reshape(noisy.shape)


def auraflow(pipe, noisy, level):
    """No script of diffusers; what its pipeline calls the transformer with."""
    hidden, _, _, _ = pipe.encode_prompt([PROMPT] * len(noisy), do_classifier_free_guidance=False)
    return pipe.transformer(noisy, encoder_hidden_states=hidden, timestep=level).sample


def pixart_loss(pipe, batch):
    """research_projects/pixart/train_pixart_controlnet_hf.py, on PixArt's own schedule."""
    n, kept = len(batch.latents), 1 - torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)
    kept = torch.cumprod(kept, 0)[batch.steps].view(-1, 1, 1, 1)
    noisy = (kept.sqrt() * batch.latents + (1 - kept).sqrt() * batch.noise).float()
    hidden, mask, _, _ = pipe.encode_prompt([PROMPT] * n, do_classifier_free_guidance=False)
    found = pipe.transformer(
        noisy, encoder_hidden_states=hidden, encoder_attention_mask=mask, timestep=batch.steps,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample.chunk(2, dim=1)[0]  # fmt: skip
    return (found - batch.noise).square().mean()


def cogview4_loss(pipe, batch):
    """examples/cogview4-control/train_control_cogview4.py, of 64 tokens."""
    time = (1000 - batch.steps) / 1000
    shift = (64 / 256) ** 0.5 * 0.75 + 0.25
    level = (shift / (shift + (1 / time - 1))).view(-1, 1, 1, 1)
    noisy = (1 - level) * batch.latents + level * batch.noise
    hidden, _ = pipe.encode_prompt([PROMPT] * len(noisy), do_classifier_free_guidance=False)
    frames = frames_of(batch)
    found = pipe.transformer(
        hidden_states=noisy, encoder_hidden_states=hidden, timestep=1000 * time,
        original_size=frames[:, :2], crop_coords=frames[:, 2:4], target_size=frames[:, 4:],
    ).sample  # fmt: skip
    return (found - (batch.noise - batch.latents)).square().mean()


FLOW = {  # family -> the scheduler's shift in training, and its prediction
    "sd3": (3.0, sd3),
    "flux": (1.0, flux),
    "flux2-klein": (1.0, flux2),
    "flux2": (1.0, flux2),
    "z-image": (3.0, z_image),
    "qwen-image": (1.0, qwen_image),
    "krea-2": (1.0, krea2),
    "chroma": (1.0, chroma),
    "hidream": (3.0, hidream),
    "lumina2": (6.0, lumina2),
    "sana": (1.0, sana),
    "ideogram-4": (1.0, ideogram4),
    "auraflow": (1.73, auraflow),
}


def published_loss(name, pipe, batch):
    """The loss [] of a batch by the base's own formula."""
    own = {"pixart-sigma": pixart_loss, "cogview4": cogview4_loss}
    if name not in FLOW:
        return own.get(name, unet_loss)(pipe, batch)
    return flow_loss(pipe, batch, *FLOW[name])
