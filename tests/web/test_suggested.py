"""web.studio.suggested: what the page says of bases it suggests, by their configurations."""

import diffusers
import pytest
import torch
import transformers

from benchmarks.families.table import BASES
from svfit_diffusion.web.studio.suggested import SUGGESTED

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
FLUX_VAE = VAE | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
CLIP_VISION = {
    **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24},
    **{"num_attention_heads": 16, "patch_size": 14},
}
T5_XXL = {
    **{"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24},
    **{"feed_forward_proj": "gated-gelu", "is_encoder_decoder": False},
}
KL, CHECKER = ("diffusers", "AutoencoderKL"), ("transformers", "CLIPVisionModel")
OTHERS = {  # parts of which a concept has nothing, so that the table of families lacks them
    "Stable Diffusion 1.5": ("Stable Diffusion 1.5", [(KL, VAE), (CHECKER, CLIP_VISION)], 4),
    "SDXL": ("SDXL 1.0", [(KL, VAE)], 4),
    "FLUX.1": ("FLUX.1 dev", [(KL, FLUX_VAE), (("transformers", "T5EncoderModel"), T5_XXL)], 2),
}


def count(kind, settings):
    library, name = kind
    with torch.device("meta"):
        if library == "diffusers":
            model = getattr(diffusers, name)(**settings)
        else:
            found = getattr(transformers, name)
            model = found(found.config_class(**settings))
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("base", SUGGESTED[1:], ids=lambda base: base.name)
def test_the_numbers_of_weights_are_those_of_the_configurations(base):
    known, others, width = OTHERS[base.name]
    whole = {kind for kind, _ in others}  # of which the table knows the width alone
    parts = [part for part in BASES[known][1].values() if part[0] not in whole]
    weights = sum(count(*part) for part in (*parts, *others))
    assert base.weights == pytest.approx(weights, rel=1e-3) and base.width == width
    gigabytes = round(weights * width / 1e9, 1)
    assert f"About {gigabytes} GB to download, about" in base.sentence()
    assert "free here." in base.sentence()


def test_the_first_needs_no_download():
    assert "No download" in SUGGESTED[0].sentence()
