"""Photos, captions, masks, buckets and class images -> encoded training examples.

reading.py reads photos of every kind and their captions; masks.py says where the loss counts;
buckets.py keeps the photos' shapes; encoding.py sends them through the VAE; examples.py samples
the batches, each random number from the seed and the sample's number alone.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "class_images": ["fill_class_images"],
        "encoding": ["photo_encoder"],
        "examples": [
            "Batch",
            "Examples",
            "LONG",
            "PLACES",
            "sample_batch",
            "fixed_noise_batches",
            "generator",
            "group_by_size",
            "hold_out",
            "reseed",
        ],
        "reading": [
            "CAPTION",
            "Photo",
            "crop",
            "edge_colours",
            "photos_digest",
            "read_caption",
            "read_folder",
            "read_photo",
            "to_tensor",
        ],
    },
)
