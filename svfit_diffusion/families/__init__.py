"""What differs between model families: components, text encoding, noise, prediction target.

A family is one small class with the interface in base.py, in a file of its name, recognised from
the pipeline's class. It inherits the loss from diffusion.py (sd.py, pixart.py) or flow.py (all
others), and takes pictures and prompts as tokens from sequences.py. To add one: its class, its line
in registry.py, and in tests/helpers/ a tiny pipeline and its published loss.
loading.py loads a base: Toybox, a diffusers folder, a single checkpoint file, or a Hub id (hub.py);
quantization.py loads it in fewer bits, outline.py nearly without weights; single_file.py and
originals/ have what a checkpoint file lacks.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "base": ["Family", "WordOutput", "plain_tokenizer"],
        "hub": ["hub_options", "reachable"],
        "loading": [
            "TOYBOX",
            "base_folder",
            "base_name",
            "configuration_of",
            "family_of",
            "load_base",
            "original_kind",
        ],
        "outline": ["hollow_base", "outline_base", "output_widths", "skeleton"],
        "quantization": ["store_in_fp8"],
        "registry": ["FAMILIES", "family_named", "family_of_original", "recognise"],
        "sd": ["StableDiffusion"],
    },
)
