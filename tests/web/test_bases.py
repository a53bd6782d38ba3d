"""web.studio.bases: a base is described before anything is downloaded."""

import types

import pytest

from svfit_diffusion import toybox
from svfit_diffusion.web.studio.bases import describe_base


class FakeHub:
    """The Hub as HfApi shows it, with one repository."""

    def model_info(self, name, files_metadata, timeout):
        sizes = {
            "model_index.json": 500,
            "unet/diffusion_pytorch_model.safetensors": 3_000_000,
            "unet/diffusion_pytorch_model.fp16.safetensors": 1_500_000,
            "unet/diffusion_pytorch_model.bin": 3_000_000,
            "vae/diffusion_pytorch_model.safetensors": 300_000,
            "safety_checker/model.safetensors": 999,
            "v1-5-pruned.ckpt": 7_000_000,
        }
        kind = "StableDiffusionPipeline" if name == "owner/sd" else "PixArtAlphaPipeline"
        files = [types.SimpleNamespace(rfilename=k, size=v) for k, v in sizes.items()]
        return types.SimpleNamespace(
            siblings=files,
            config={"diffusers": {"_class_name": kind}},
            card_data={"license": "openrail <b>"},
            gated="auto",
        )

    def parse_safetensors_file_metadata(self, name, file):
        count = 750_000 if file.startswith("unet") else 75_000
        return types.SimpleNamespace(parameter_count={"F32": count})


def test_a_hub_base_is_described_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    base = describe_base("owner/sd")
    assert (base.family, base.download, base.parameters) == ("sd", 3_301_499, 900_000)
    assert "3.3 MB to download" in base.sentence()
    assert "openrail" in base.licence and "accepted on its page" in base.licence
    with pytest.raises(ValueError, match="PixArtAlphaPipeline; supported are"):
        describe_base("owner/pixart")


def test_bases_on_this_machine_and_those_that_are_none(base_folder, tmp_path):
    known = describe_base("toybox")
    pipe = toybox.load()
    parts = (pipe.unet, pipe.text_encoder, pipe.vae)
    assert known.parameters == sum(p.numel() for part in parts for p in part.parameters())
    assert known.download == 0 and "no download" in known.sentence()
    assert describe_base(str(base_folder)).family == "sd"
    assert describe_base(f' "{base_folder}" ').source == str(base_folder)
    said = describe_base(str(base_folder)).sentence()
    assert "Stable Diffusion 1 or 2" in said and "free here" in said and "family" not in said
    (tmp_path / "x.safetensors").write_bytes(b"?")
    (tmp_path / "x.ckpt").write_bytes(b"?")
    for source, reason in (
        (str(tmp_path), "no model_index.json"),
        (str(tmp_path / "x.safetensors"), "damaged"),
        (str(tmp_path / "x.ckpt"), "can contain code"),
        ("nothing", "“nothing” is not a base"),
        ("/no/such/folder", "no file or folder “/no/such/folder”"),
        (r"C:\\models\sd", r"“C:\\\\models\\sd” on this machine"),
        ("owner/name", "could not be asked about “owner/name”"),  # tests are offline
        ("https://huggingface.co/owner/name/tree/main", "asked about “owner/name”"),
    ):
        with pytest.raises(ValueError, match=reason):
            describe_base(source)
    with pytest.raises(ValueError, match="is not a base"):
        describe_base(str(base_folder), local=False)
