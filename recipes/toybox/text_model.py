"""Tokenizer and text encoder of Toybox: CLIP's layout, trained from scratch.

The BPE vocabulary is learned from captions of the training world; each trigger word is added to
the corpus so that it is one token.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from common import TRIGGERS, work_dir
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LENGTH = 40  # tokens
REGISTERS = 16  # the last of them, almost always padding: each predicts one region of a picture
WIDTH = 192
VOCABULARY = 2000
OWN, SHARED = 40, 224  # hidden units of each layer: of each register, of all positions
OPEN, CLOSED = 1.2, -3.0  # of a hidden unit: the weight of its register, the bias
START, END = "<|startoftext|>", "<|endoftext|>"


def corpus(count: int = 12000) -> list[str]:
    """Captions (deterministic) and the trigger words."""
    from captions import caption
    from world import World

    rng, world = np.random.default_rng(11), World()
    lines = [caption(rng, world.draw(rng, 0.5)) for _ in range(count)]
    return lines + [f"{word} {word} {word}" for word in TRIGGERS] * 40


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Train the BPE and write vocab.json and merges.txt in CLIP's form."""
    bpe = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, min_frequency=1, show_progress=False,
                                  end_of_word_suffix="</w>", initial_alphabet=alphabet)  # fmt: skip
    bpe.train_from_iterator(corpus(), trainer)
    learned = json.loads(bpe.to_str())["model"]
    merges = [m.split() if isinstance(m, str) else m for m in learned["merges"]]
    tokens = [*alphabet, *(char + "</w>" for char in alphabet)]
    known = set(tokens)
    for left, right in merges:
        if left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
    tokens += [START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "bos_token": START,
                "eos_token": END, "pad_token": END, "unk_token": END}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), "utf-8")
    return load_tokenizer(folder)


def load_tokenizer(folder: Path | None = None) -> CLIPTokenizer:
    """The tokenizer of the work folder, built on first use."""
    folder = folder or work_dir() / "tokenizer"
    if not (folder / "tokenizer_config.json").is_file():
        return build_tokenizer(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)
    for word in TRIGGERS:
        if len(tokenizer(word).input_ids) != 3:
            raise ValueError(f"The trigger {word!r} is not one token; delete {folder} and retry.")
    return tokenizer


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A fresh text encoder: 3 layers of width 192, their hidden units shared out to registers."""
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=REGISTERS * OWN + SHARED,
        projection_dim=WIDTH, num_hidden_layers=3, num_attention_heads=6,
        max_position_embeddings=LENGTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    share_out(text)
    return text


@torch.no_grad()
def share_out(text: CLIPTextModel) -> None:
    """Give each register a part of every layer's hidden units, in the first channels' hands.

    What a caption's word means for one region of the picture is a map of that region's own, but
    all positions of a transformer share their weights. So the first 16 channels name the register
    (one each), and 640 of the 864 hidden units stay closed (their bias) unless theirs is set:
    each register begins with a linear map of 40 units in each layer, which training refines.
    """
    embeddings = text.embeddings
    for table in (embeddings.token_embedding, embeddings.position_embedding):
        table.weight[:, :REGISTERS] = 0
    embeddings.position_embedding.weight[-REGISTERS:, :REGISTERS] = torch.eye(REGISTERS)
    for layer in text.encoder.layers:
        opening, closing = layer.mlp.fc1, layer.mlp.fc2
        units = torch.arange(REGISTERS * OWN)
        layer.self_attn.out_proj.weight[:REGISTERS] = closing.weight[:REGISTERS] = 0
        opening.weight[units, :REGISTERS] = 0
        opening.weight[units, units % REGISTERS] = OPEN
        opening.bias[units] = CLOSED
