"""What differs between model families: components, text encoding, prediction target, noise.

A family is one small class; it is recognised from the pipeline, never asked for. To add one: a
class here, its name in registry.py, and a tiny pipeline of it in tests/helpers/tiny_families.py.
loading.py loads a base: Toybox, a diffusers folder, a single checkpoint file, or a Hub id.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "base": ["Family"],
        "loading": [
            "TOYBOX",
            "base_folder",
            "base_name",
            "family_of",
            "load_base",
            "original_kind",
        ],
        "registry": ["FAMILIES", "family_named", "family_of_original", "recognise"],
        "sd": ["StableDiffusion"],
    },
)
