"""Concepts on a diffusers pipeline: load, weigh, swap, remove, fuse; the learned word.

loading.py holds the calls that users make; matching.py and verification.py decide whether a
concept fits a pipeline; trigger.py keeps the learned word's rows in the text encoders; prompts.py
says what a tokenizer does not read; concept_size.py estimates how large a concept would be;
offloading.py moves what is idle out of the accelerator's memory.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "concept_size": ["estimate_size"],
        "loading": [
            "active_tokens",
            "convert_prompt",
            "fuse_concepts",
            "load_concept",
            "loaded_concepts",
            "remove_concept",
            "set_concepts",
            "swap_concept",
            "unfuse_concepts",
        ],
        "matching": [
            "adapter_name",
            "base_fields",
            "check_base",
            "check_layout",
            "check_strength",
            "concept_fields",
            "trigger_clash",
            "with_self_check",
        ],
        "offloading": ["offload"],
        "prompts": ["warn_split_trigger", "warn_unread_prompt"],
        "verification": ["basis_of"],
    },
)
