"""SVFit for diffusion models: a subject learned from a few photos, in a file of a few kilobytes.

Whoever imports it can read SVFit adapters with peft: peft learns of the method when it is imported.
"""

import sys
from importlib import import_module

from wrapt import register_post_import_hook

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
            "fuse_concepts", "load_concept", "loaded_concepts", "remove_concept",
            "set_concepts", "swap_concept", "unfuse_concepts",
        ],
        "pool": ["ConceptPool"],
        "settings": ["TrainConfig"],
        "sharing": ["combine", "export_lora", "export_pipeline", "import_lora", "push_to_hub"],
        "training": ["Trained", "train"],
    },
)  # fmt: skip
__all__ += ["__version__"]


def _register_with_peft(peft: object) -> None:
    if f"{__name__}.adapter" not in sys.modules:  # else the adapter is being imported, and does so
        import_module(".adapter.tuner", __name__)


register_post_import_hook(_register_with_peft, "peft")
