"""Concepts on a diffusers pipeline: load, weigh, swap, remove, fuse; the learned word.

loading.py and fusing.py hold the calls that users make, batch_layers.py and batch_words.py what
each picture of a batch has of its own; attached.py reads from the modules what is loaded, and
activity.py which adapters are active. matching.py, naming.py and verification.py decide whether a
concept fits a pipeline. trigger.py teaches the learned word, which the room word holds; prompts.py
says what a tokenizer does not read, read_prompts.py what frozen text encoders say.
model_methods.py: what a model with a concept does otherwise; locking.py: one change at a time;
offloading.py: what is idle waits in main memory; concept_size.py: how large a concept would be.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "concept_size": ["estimate_size"],
        "loading": [
            "active_tokens",
            "convert_prompt",
            "load_concept",
            "remove_concept",
            "set_concepts",
            "swap_concept",
        ],
        "attached": ["check_whole", "loaded_concepts", "pooled", "set_pooled"],
        "batch_layers": ["BatchLayers", "Plan"],
        "batch_words": ["BatchWords"],
        "fusing": ["adapter_layers", "fuse_concepts", "unfuse_concepts"],
        "locking": ["one_at_a_time"],
        "matching": [
            "base_fields",
            "basis_folders",
            "check_base",
            "check_layout",
            "checked_bases",
            "concept_fields",
            "with_self_check",
        ],
        "naming": ["adapter_name", "check_strength", "trigger_clash", "trigger_words"],
        "offloading": ["at_rest", "offload"],
        "prompts": [
            "PromptLength",
            "prompt_length",
            "warn_split_trigger",
            "warn_unread_prompt",
        ],
        "read_prompts": ["class_difference", "read_prompt"],
        "trigger": ["check_rows"],
        "verification": ["basis_of", "check_basis"],
        "word": ["with_vector", "without_vectors"],
    },
)
