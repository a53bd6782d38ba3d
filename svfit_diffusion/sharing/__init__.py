"""Concepts for others: LoRA export and import, combining, fused bases, publishing.

lora_export.py writes a concept as a LoRA file or merged into its base, with the formats of lora.py;
lora_import.py projects a LoRA onto the basis of its base; combining.py makes one concept of
several; renaming.py gives one another word; publishing.py uploads to the Hugging Face Hub.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "combining": ["combine"],
        "lora_export": ["Exported", "export_lora", "export_pipeline", "lora_files", "plain_name"],
        "lora_import": ["import_lora"],
        "publishing": ["push_to_hub"],
        "renaming": ["MAX_WORD", "check_word", "rename"],
    },
)
