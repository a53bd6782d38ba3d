"""Concepts for others: LoRA export and import, combining, fused bases, publishing."""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "combining": ["combine"],
        "lora_export": ["Exported", "export_lora", "export_pipeline", "lora_files", "plain_name"],
        "lora_import": ["import_lora"],
        "publishing": ["push_to_hub"],
    },
)
