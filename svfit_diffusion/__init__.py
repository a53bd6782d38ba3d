"""SVFit for diffusion models: a subject learned from a few photos, in a file of a few kilobytes."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Basis": "adapter.basis",
    "Concept": "concept.file",
    "SVFitConfig": "adapter.tuner",
    "SVFitModel": "adapter.tuner",
    "TrainConfig": "settings",
    "Trained": "training.loop",
    "combine": "sharing.combining",
    "export_lora": "sharing.lora_export",
    "export_pipeline": "sharing.lora_export",
    "fuse_concepts": "pipeline.loading",
    "generate": "generation.sampling",
    "import_lora": "sharing.lora_import",
    "load_base": "families",
    "load_concept": "pipeline.loading",
    "loaded_concepts": "pipeline.loading",
    "patch_attention": "adapter.attention",
    "push_to_hub": "sharing.publishing",
    "read_concept": "concept.file",
    "remove_concept": "pipeline.loading",
    "set_concepts": "pipeline.loading",
    "swap_concept": "pipeline.loading",
    "train": "training.loop",
    "unfuse_concepts": "pipeline.loading",
    "unpatch_attention": "adapter.attention",
    "write_concept": "concept.file",
}
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: torch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
