"""SVFit for diffusion models: a subject learned from a few photos, in a file of a few kilobytes."""

from ._lazy import lazy_names

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "adapter": [
            "Basis", "SVFitConfig", "SVFitModel", "patch_attention", "unpatch_attention",
        ],
        "concept": ["Concept", "read_concept", "write_concept"],
        "families": ["load_base"],
        "generation": ["generate"],
        "pipeline": [
            "fuse_concepts", "load_concept", "loaded_concepts", "remove_concept", "set_concepts",
            "swap_concept", "unfuse_concepts",
        ],
        "settings": ["TrainConfig"],
        "sharing": ["combine", "export_lora", "export_pipeline", "import_lora", "push_to_hub"],
        "training": ["Trained", "train"],
    },
)  # fmt: skip
__all__ += ["__version__"]
