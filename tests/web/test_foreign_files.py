"""web.studio.foreign_files: a LoRA becomes a concept, an embedding is named as what it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from svfit_diffusion.concept.file import read_concept, write_concept
from svfit_diffusion.families import load_base
from svfit_diffusion.sharing.lora_export import export_lora
from svfit_diffusion.web.page.share_actions import ShareActions
from svfit_diffusion.web.studio.foreign_files import kind_of
from svfit_diffusion.web.studio.lora_zip import read_me


def test_files_are_told_apart_by_their_tensors(files, tmp_path):
    width = torch.zeros(1, 32)
    for name, tensors, kind in (
        ("a1111", {"emb_params": width}, "embedding"),
        ("diffusers", {"<cat-toy>": width[0]}, "embedding"),
        ("sdxl", {"clip_l": width, "clip_g": width.clone()}, "embedding"),
        ("lora", {"unet.x.lora_A.weight": width, "unet.x.lora_B.weight": width.T.clone()}, "lora"),
        ("checkpoint", {f"{i}.weight": torch.zeros(1, 1, 1, 1) for i in range(3)}, ""),
    ):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        assert kind_of(tmp_path / f"{name}.safetensors") == kind
    assert kind_of(files["rex"]) == "" == kind_of(files["bad"]) == kind_of(tmp_path / "none")


def test_a_lora_is_added_as_the_concept_that_it_came_from(workspace, files, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    entry, base = workspace.library.get("rex"), load_base(workspace.pipeline.source)
    lora = export_lora(entry.card.concept, base, tmp_path / "mine.safetensors").files[0]
    actions = ShareActions(workspace, None)
    facts, *_, usable = actions.inspect(str(lora))
    assert "It is a LoRA: as a concept it keeps 100.0% of" in facts and "fits the base" in facts
    made, own = (c.deltas.astype(float) for c in (read_concept(usable), entry.card.concept))
    assert np.square(made).sum() == pytest.approx(np.square(own).sum(), rel=1e-3)
    save_file({"<cat-toy>": torch.zeros(32)}, tmp_path / "cat.safetensors")
    facts, *_, usable = actions.inspect(str(tmp_path / "cat.safetensors"))
    assert "cat.safetensors is an embedding of textual inversion" in facts and usable == ""


def test_a_word_that_is_taken_gets_another_one_on_import(workspace, files):
    *_, word, _, _, _ = ShareActions(workspace, None).inspect(str(files["evil"]))
    assert word["value"] == "<img src=x onerror=alert(1)>" or word["visible"]
    *_, word, _, _, _ = ShareActions(workspace, None).inspect(str(files["other"]))
    assert word["value"].startswith("other") and "sks, calls another" in word["info"]


def test_the_read_me_names_base_files_and_words(workspace):
    text = read_me(workspace.library.get("rex"), {"ComfyUI": "embedding:rex-sks dog"})
    for part in ("LoRA for tiny", "models/loras", "ComfyUI: embedding:rex-sks dog"):
        assert part in text


def test_any_deleted_concept_is_restored(workspace, files, tmp_path):
    library, concept = workspace.library, read_concept(files["rex"])
    for number in (1, 2):
        other = replace(concept, deltas=(concept.deltas + number).astype(np.float16))
        file = write_concept(other, tmp_path / f"gone_{number}.safetensors")
        library.add(file, "", Image.new("RGB", (8, 8)), f"word{number}")
        library.delete(f"gone_{number}")
    latest, earlier = library.deleted()[:2]
    assert earlier.endswith("-gone_1") and library.undo(earlier) == "gone_1"
    assert library.get("gone_1").card.concept.token == "word1"
    assert latest in library.deleted() and earlier not in library.deleted()
    with pytest.raises(ValueError, match="no such deleted concept"):
        library.undo("../concepts")
    library.delete("gone_1")
