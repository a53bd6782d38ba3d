"""What a checkpoint file lacks ships with the package: configurations and CLIP's tokenizer."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from helpers.original_layout import original_state
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.families.table import BASES, write
from svfit_diffusion.cli.main import main
from svfit_diffusion.families import hub, load_base, loading
from svfit_diffusion.families.single_file import END, clip_tokenizer, configuration, tokenizers
from svfit_diffusion.pipeline.concept_size import estimate_size

NAMES = {"v1": "Stable Diffusion 1.5", "v2": "Stable Diffusion 2.1", "xl_base": "SDXL"}
TO_K = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k"
HEADERS = {  # by which diffusers knows the kind
    "v1": {"model.diffusion_model.x": (1,)},
    "v2": {f"{TO_K}.weight": (320, 1024)},
    "xl_base": {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1,)},
}


def checkpoint(kind, path):
    save_file({name: torch.zeros(shape) for name, shape in HEADERS[kind].items()}, path)
    return path


@pytest.mark.parametrize("kind", NAMES)
def test_sizes_are_those_of_the_published_configuration(kind, tmp_path, capsys):
    """Against the table of bases, whose configurations were written down separately."""
    name = next(name for name in BASES if name.startswith(NAMES[kind]))
    want = estimate_size(str(write(name, tmp_path / "folder")))
    got = estimate_size(str(checkpoint(kind, tmp_path / "x.safetensors")))
    assert (got.values, got.trigger, got.projections, got.weights) == (
        want.values, want.trigger, want.projections, want.weights,
    )  # fmt: skip
    assert main(["info", "--base", str(tmp_path / "x.safetensors")]) == 0
    assert f"{want.values:,} singular values" in capsys.readouterr().out


def test_other_kinds_and_files_are_refused_in_a_sentence(tmp_path, capsys):
    flux = {"double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(1)}
    save_file(flux, tmp_path / "flux.safetensors")
    assert main(["info", "--base", str(tmp_path / "flux.safetensors")]) == 2
    assert "does not ship with this package" in capsys.readouterr().err


def test_words_have_the_ids_of_clip():
    """Ids known from the published vocabulary; "sks" is one token, as DreamBooth's users know."""
    tokenizer = clip_tokenizer(END)
    assert len(tokenizer) == 49_408
    assert tokenizer("a photo of sks dog").input_ids == [49406, 320, 1125, 539, 48136, 1929, 49407]
    assert tokenizer("A  Photo, of…").input_ids[1:4] == [320, 1125, 267]
    assert tokenizer.model_max_length == 77
    found = tokenizers("xl_base")
    assert (found["tokenizer"].pad_token_id, found["tokenizer_2"].pad_token_id) == (49407, 0)


def test_without_the_hub_a_kind_that_needs_it_says_so(tmp_path, monkeypatch):
    flux = {"double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(1)}
    save_file(flux, tmp_path / "f.safetensors")
    for module in (loading, hub):
        monkeypatch.setattr(module, "reachable", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="come from the Hub, and that cannot be reached"):
        load_base(str(tmp_path / "f.safetensors"))


def test_a_checkpoint_is_loaded_with_what_ships(tmp_path, monkeypatch):
    """Stable Diffusion's layout at an eighth of its width, by its own file alone, offline."""
    folder = shrunk(tmp_path / "v1")
    pipe = pipeline(folder)
    save_file(original_state(pipe), tmp_path / "x.safetensors")
    monkeypatch.setattr(loading, "configuration", lambda kind: folder if kind == "v1" else None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = load_base(str(tmp_path / "x.safetensors"))
    for part in ("unet", "vae", "text_encoder"):
        for name, tensor in getattr(pipe, part).state_dict().items():
            assert torch.equal(getattr(loaded, part).state_dict()[name], tensor), name
    assert loaded.tokenizer("sks dog").input_ids == [49406, 48136, 1929, 49407]
    assert type(loaded.scheduler).__name__ == "PNDMScheduler"


def shrunk(folder):
    """The shipped configuration of Stable Diffusion 1.5, with narrower models."""
    changes = {
        "unet": {
            "block_out_channels": [32, 32, 64, 64],
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
        },
        "vae": {"block_out_channels": [32, 32, 32, 32]},
        "text_encoder": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2},
        "scheduler": {},
    }
    for part, change in changes.items():
        (folder / part).mkdir(parents=True)
        (file,) = (configuration("v1") / part).iterdir()
        settings = json.loads(file.read_text()) | change
        (folder / part / file.name).write_text(json.dumps(settings))
    index = configuration("v1") / "model_index.json"
    (folder / "model_index.json").write_text(index.read_text())
    return folder


def pipeline(folder):
    from diffusers import AutoencoderKL, PNDMScheduler

    torch.manual_seed(0)
    made = {
        "unet": UNet2DConditionModel.from_config(folder / "unet" / "config.json"),
        "vae": AutoencoderKL.from_config(folder / "vae" / "config.json"),
        "scheduler": PNDMScheduler.from_config(folder / "scheduler" / "scheduler_config.json"),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig.from_json_file(folder / "text_encoder" / "config.json")
        ),
        "tokenizer": clip_tokenizer(END),
    }
    checkers = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    return StableDiffusionPipeline(**made, **checkers, requires_safety_checker=False)
