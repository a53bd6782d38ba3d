"""What differs between model families: components, text encoding, noise, prediction target.

A family is one small class, in a file of bases/, recognised from the pipeline's class. base.py has
its interface, diffusion.py and flow.py the two kinds of loss, one of which it inherits, and
sequences.py pictures and prompts as tokens.

To add one: its class in bases/, its line in registry.py, and in tests/helpers/ its tiny pipeline
and its published loss; every test of families then runs on it (docs/architecture.md).

loading.py loads a base: Toybox, a diffusers folder, a single checkpoint file, or a Hub id (hub.py);
quantization.py loads it in fewer bits, with lending.py's copies, outline.py nearly without weights;
single_file.py and originals/ have what a checkpoint file lacks.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "base": [
            "FIRST",
            "FOURTH",
            "Family",
            "PromptTokenizer",
            "SECOND",
            "Sampling",
            "THIRD",
            "TextEncoder",
            "WordOutput",
            "clip_ids",
            "distilled_guidance",
            "no_negative",
            "plain_tokenizer",
        ],
        "bases.sd": ["StableDiffusion"],
        "diffusion": ["Diffusion"],
        "flow": ["Flow", "PatchedFlow"],
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
        "lending": ["Place", "instead_of"],
        "quantization": ["store_in_fp8"],
        "registry": ["FAMILIES", "family_named", "family_of_original", "recognise"],
        "sequences": [
            "from_patches",
            "pad",
            "patch_grid",
            "places",
            "to_patches",
            "trim",
            "unpatched",
        ],
    },
)
