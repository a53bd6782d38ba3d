"""Tiny language models that read prompts, and their tokenizers of single letters or bytes."""

import string

from tokenizers.processors import TemplateProcessing
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLModel,
    T5EncoderModel,
    T5TokenizerFast,
)

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small(width: int, layers: int) -> dict:
    """The size of a language model with one head."""
    return {
        "hidden_size": width,
        "intermediate_size": 8,
        "num_hidden_layers": layers,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    }


def make_t5(width: int, made: type = T5EncoderModel) -> dict:
    """A T5 encoder (or UMT5, as `made`) that reads single letters, and its tokenizer."""
    letters = string.ascii_letters + string.digits + ".,<>-!'"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    tokenizer = T5TokenizerFast(vocab=pieces + [(x, -3.0) for x in letters], extra_ids=0)
    settings = made.config_class(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    return {"tokenizer": tokenizer, "text_encoder": made(settings).eval()}


def make_qwen(width: int, layers: int = 27) -> dict:
    """Qwen3, by default of as many layers as FLUX.2 reads, and a tokenizer of single bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {c: i for i, c in enumerate([*sorted(ByteLevel.alphabet()), *special])}
    tokenizer = Qwen2TokenizerFast(vocab=vocabulary, merges=[], chat_template=CHAT)
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    settings = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
    )
    return {"tokenizer": tokenizer, "text_encoder": Qwen3ForCausalLM(settings).eval()}


def make_qwen_vl(width: int, layers: int = 2) -> dict:
    """Qwen2.5-VL without its eyes' weights in use, and a tokenizer of single bytes."""
    tokenizer = make_qwen(width, 1)["tokenizer"]
    text = small(width, layers) | {"vocab_size": len(tokenizer)}
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1,
              "out_hidden_size": width, "patch_size": 4, "window_size": 8}  # fmt: skip
    settings = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    encoder = Qwen2_5_VLForConditionalGeneration(settings).eval()
    return {"tokenizer": tokenizer, "text_encoder": encoder}


def make_qwen3_vl(width: int, layers: int) -> dict:
    """Qwen3-VL's language model, eyes closed, and a tokenizer of single bytes."""
    tokenizer = make_qwen(width, 1)["tokenizer"]
    text = small(width, layers) | {"vocab_size": len(tokenizer), "head_dim": 8}
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [2, 1, 1],
    }
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1,
              "out_hidden_size": width, "patch_size": 4, "deepstack_visual_indexes": [0],
              "num_position_embeddings": 16}  # fmt: skip
    encoder = Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)).eval()
    return {"tokenizer": tokenizer, "text_encoder": encoder}


def make_llama(width: int, layers: int) -> dict:
    """Llama, with the attention that can report its weights, and a tokenizer of single bytes."""
    tokenizer = make_qwen(width, 1)["tokenizer"]
    settings = LlamaConfig(**small(width, layers), vocab_size=len(tokenizer), head_dim=8)
    settings._attn_implementation = "eager"
    return {"tokenizer": tokenizer, "text_encoder": LlamaForCausalLM(settings).eval()}


def make_gemma(width: int) -> dict:
    """Gemma 2, and a tokenizer of single bytes."""
    tokenizer = make_qwen(width, 1)["tokenizer"]
    settings = Gemma2Config(
        **small(width, 2), vocab_size=len(tokenizer), head_dim=8, query_pre_attn_scalar=8
    )
    return {"tokenizer": tokenizer, "text_encoder": Gemma2Model(settings).eval()}


def make_glm(width: int) -> dict:
    """GLM, and a tokenizer of single bytes behind a mark, without which "" would be nothing."""
    backend = make_qwen(width, 1)["tokenizer"].backend_tokenizer
    mark = "<|im_start|>", backend.token_to_id("<|im_start|>")
    backend.post_processor = TemplateProcessing(single=f"{mark[0]} $A", special_tokens=[mark])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|endoftext|>")
    settings = GlmConfig(
        **small(width, 2), vocab_size=len(tokenizer), head_dim=8, pad_token_id=0, eos_token_id=1
    )
    return {"tokenizer": tokenizer, "text_encoder": GlmModel(settings).eval()}
