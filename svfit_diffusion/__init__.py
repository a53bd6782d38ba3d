"""SVFit for diffusion models: a subject learned from a few photos, in a file of a few kilobytes."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Basis": "svd",
    "Concept": "concept",
    "SVFitConfig": "tuner",
    "SVFitModel": "tuner",
    "TrainConfig": "settings",
    "Trained": "training",
    "combine": "combine",
    "export_lora": "export",
    "export_pipeline": "export",
    "fuse_concepts": "pipeline",
    "generate": "generation",
    "import_lora": "lora_import",
    "load_base": "families",
    "load_concept": "pipeline",
    "loaded_concepts": "pipeline",
    "patch_attention": "attention",
    "push_to_hub": "publish",
    "read_concept": "concept",
    "remove_concept": "pipeline",
    "set_concepts": "pipeline",
    "swap_concept": "pipeline",
    "train": "training",
    "unfuse_concepts": "pipeline",
    "unpatch_attention": "attention",
    "write_concept": "concept",
}
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: torch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
