"""Concepts for others: LoRA export and import, combining, fused bases, publishing.

lora_export.py writes a concept as a LoRA file: its tensors are made in lora.py, their names are in
lora_names.py, what the file says of itself in lora_card.py; fused_export.py writes the base with
the concept merged; lora_import.py reads another program's file (lora_file.py) and projects its
edits (edits.py) onto the basis of the base; combining.py makes one concept of several;
renaming.py gives one another word; publishing.py uploads a concept to the Hugging Face Hub.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "combining": ["combine"],
        "fused_export": ["export_pipeline"],
        "lora_card": ["Exported"],
        "lora_export": ["export_lora", "lora_files", "plain_name"],
        "lora_import": ["import_lora"],
        "publishing": ["push_to_hub"],
        "renaming": ["rename"],
        "words": ["MAX_WORD", "check_word"],
    },
)
