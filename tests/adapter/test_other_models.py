"""SVFit is a general method: a text classifier and a ViT, from random weights, through peft."""

import subprocess
import sys

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from svfit_diffusion import SVFitConfig

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 2,
}


def text_task():
    """Does token 7 occur? Inputs [64, 12] of 20 words."""
    ids = torch.randint(8, 20, (64, 12))
    labels = torch.arange(64) % 2
    ids[torch.arange(64), torch.randint(0, 12, (64,))] = torch.where(labels == 1, 7, 8)
    return BertForSequenceClassification(BertConfig(vocab_size=20, **SMALL)), {
        "input_ids": ids,
        "labels": labels,
    }


def image_task():
    """Is the left or the right half bright? Pictures [64, 3, 16, 16]."""
    pictures, labels = 0.3 * torch.randn(64, 3, 16, 16), torch.arange(64) % 2
    for i, label in enumerate(labels):
        pictures[i, :, :, 8 * label : 8 * label + 8] += 1
    config = ViTConfig(image_size=16, patch_size=4, **SMALL)
    return ViTForImageClassification(config), {"pixel_values": pictures, "labels": labels}


@pytest.mark.parametrize("task", [text_task, image_task])
def test_fine_tuning_lowers_the_loss(task):
    torch.manual_seed(0)
    model, data = task()
    config = SVFitConfig(r="full", modules_to_save=["classifier"])
    tuned = get_peft_model(model, config)
    trained = [n for n, p in tuned.named_parameters() if p.requires_grad]
    deltas = [n for n in trained if "svfit_delta" in n]
    assert deltas and all("svfit_delta" in n or "modules_to_save" in n for n in trained)
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=3e-2)
    losses = []
    for _ in range(120):
        loss = tuned(**data).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    moved = [p.abs().max().item() for n, p in tuned.named_parameters() if "svfit_delta" in n]
    assert min(moved) > 0


def test_whoever_imports_the_configuration_alone_can_use_it():
    code = (
        "from svfit_diffusion import SVFitConfig\n"
        "from peft import get_peft_model\n"
        "from torch import nn\n"
        "model = nn.Sequential(nn.Linear(4, 4))\n"
        "get_peft_model(model, SVFitConfig(r=2, target_modules=['0']))\n"
        "print(type(model[0]).__name__)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "SVFitLinear", done.stderr


@pytest.mark.parametrize("first", ["import svfit_diffusion, peft", "import peft, svfit_diffusion"])
def test_peft_reads_a_saved_adapter_where_the_package_is_only_imported(tmp_path, first):
    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), SVFitConfig(r=2, target_modules=["0"]))
    model.save_pretrained(tmp_path)
    code = (
        f"{first}\n"
        "from torch import nn\n"
        "base = nn.Sequential(nn.Linear(4, 4))\n"
        f"model = peft.PeftModel.from_pretrained(base, {str(tmp_path)!r})\n"
        "print(type(model.base_model.model[0]).__name__)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "SVFitLinear", done.stderr
