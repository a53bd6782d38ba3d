"""Pictures: sampling with concepts, PNG files that carry their parameters, grids and sheets."""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "batches": ["generate_batch", "kind_of"],
        "pictures": ["Parameters", "grid", "read_parameters", "save_png", "sheet", "size_text"],
        "decoding": ["NoPicture", "check_picture", "own_precision", "without_overflow"],
        "withheld": ["is_withheld"],
        "sampling": ["generate", "parameters", "pick_device", "pick_dtype"],
    },
)
