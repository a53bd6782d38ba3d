"""Concepts on a diffusers pipeline: load, weigh, swap, remove, fuse; the learned word.

loading.py and fusing.py hold the calls that users make, and attached.py reads from the modules what
is loaded; matching.py, naming.py and verification.py decide whether a concept fits a pipeline. The learned
word: trigger.py teaches it, its rows lie in the text encoder (rows.py, embedding.py), the tokenizer hears it
(tokenizer.py, words.py), and a base is saved with it (saving.py). model_methods.py: what a model
with a concept does otherwise, through instance_class.py. activity.py, locking.py, offloading.py:
which adapters are active, one change at a time, what is idle waits in main memory. prompts.py says
what a tokenizer does not read; concept_size.py estimates how large a concept would be.
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
        "attached": ["loaded_concepts"],
        "fusing": ["fuse_concepts", "unfuse_concepts"],
        "matching": [
            "base_fields",
            "check_layout",
            "checked_bases",
            "concept_fields",
            "with_self_check",
        ],
        "naming": ["adapter_name", "check_strength", "trigger_clash"],
        "offloading": ["offload"],
        "prompts": ["warn_split_trigger", "warn_unread_prompt"],
        "verification": ["basis_of"],
    },
)
