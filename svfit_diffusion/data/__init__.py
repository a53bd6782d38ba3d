"""Photos, captions, masks, buckets and class images -> encoded training examples.

reading.py reads photos of every kind, captions.py their captions, and datasets.py those of a
dataset; masks.py says where the loss counts; buckets.py keeps the photos' shapes; class_images.py
fills a folder of the class; encoding.py sends pictures through the VAE; examples.py samples the
batches, each random number from the seed and the sample's number alone; processes.py shares work
between the processes of a training.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "captions": [
            "CAPTION",
            "CAPTION_SUFFIXES",
            "METADATA",
            "Captions",
            "is_caption_file",
            "match_captions",
        ],
        "class_images": ["check_class_folder", "count_class_images", "fill_class_images"],
        "datasets": ["read_dataset"],
        "encoding": ["photo_encoder"],
        "examples": [
            "Batch",
            "Examples",
            "LONG",
            "PLACES",
            "sample_batch",
            "fixed_noise_batches",
            "frames",
            "generator",
            "group_by_size",
            "reseed",
        ],
        "processes": ["by_main", "together"],
        "reading": [
            "Photo",
            "Skipped",
            "crop",
            "edge_colours",
            "photos_digest",
            "read_folder",
            "read_photo",
            "to_tensor",
        ],
    },
)
