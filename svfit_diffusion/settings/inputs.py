"""What a training starts from: base, photos, words, and what is trained of the base.

Flags carry the names of diffusers' train_dreambooth_lora.py where they mean the same. A group is a
frozen dataclass, so that a function may ask for the settings it needs alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .options import ATTENTION, COMMON_SIZE, RANK, ROWS, VECTORS, option


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """Which base is trained on."""

    title: ClassVar[str] = "the base"

    pretrained_model_name_or_path: str = option(
        "toybox", "'toybox', a Hub id, a diffusers folder or a .safetensors checkpoint", path=True
    )
    revision: str | None = option(None, "revision of the base on the Hub")
    variant: str | None = option(None, "variant of the base's files, such as fp16")


@dataclass(frozen=True, kw_only=True)
class PhotoSettings:
    """The photos, how they are cut, and the class images."""

    title: ClassVar[str] = "photos"

    instance_data_dir: str | None = option(
        None, "folder of photos; default: the sample subject", path=True
    )
    dataset_name: str | None = option(
        None, "instead of a folder: a dataset of the Hub (needs `datasets`), or a local one"
    )
    dataset_config_name: str | None = option(None, "configuration of the dataset")
    image_column: str = option("image", "column of the dataset's photos")
    caption_column: str | None = option(
        None, "column of the captions, in a dataset or in metadata.jsonl or metadata.csv"
    )
    cache_dir: str | None = option(None, "where a dataset is cached", path=True)
    repeats: int = option(1, "how often a photo counts in an epoch", above=0)
    resolution: int | None = option(
        None, "side of the square, or size of a bucket, in pixels; default: the base's", above=0
    )
    center_crop: bool = option(False, "crop only the middle, not three places, of long photos")
    random_flip: bool = option(False, "mirror half of the pictures")
    use_aspect_ratio_buckets: bool = option(False, "keep the shape of photos that are not square")
    aspect_ratio_buckets: str | None = option(
        None, "sizes of the buckets, 'height,width;...'; default: near resolution^2 pixels"
    )
    mask_data_dir: str | None = option(
        None, "folder of masks named like the photos, white counts", path=True
    )
    alpha_mask: bool = option(False, "photos count only where they are not transparent")
    with_prior_preservation: bool = option(False, "train on class images too")
    prior_loss_weight: float = option(1.0, "weight of the class images' loss", least=0)
    class_data_dir: str | None = option(
        None, "folder of class images, filled up by the base", path=True
    )
    num_class_images: int = option(100, "class images to have in class_data_dir", above=0)
    sample_batch_size: int = option(4, "class images generated at a time", above=0)


@dataclass(frozen=True, kw_only=True)
class WordSettings:
    """What the subject is called, and the captions."""

    title: ClassVar[str] = "words"

    instance_prompt: str | None = option(None, "default: 'a photo of {token} {class word}'")
    placeholder_token: str | None = option(None, "the rare word that calls the subject: sks")
    initializer_token: str | None = option(None, "the class word, such as dog")
    class_prompt: str | None = option(None, "default: 'a photo of a {class word}'")
    caption_backgrounds: bool | None = option(
        None,
        "photos without a caption: the base says what is behind the subject; default: on Toybox, "
        "the only base on which it was tried",
    )


@dataclass(frozen=True, kw_only=True)
class LearnedSettings:
    """What is trained, and how it is stored."""

    title: ClassVar[str] = "what is trained"

    rank: str = option(RANK, "singular values trained: a number, full or energy=0.99")
    value_rank: str | None = option(
        None, "of the UNet's value and output projections; default: as the rank"
    )
    text_encoder_rank: str | None = option(
        None, "of the text encoder's value and output projections; default: as the rank"
    )
    common_size: int = option(
        COMMON_SIZE,
        "size of a vector that all projections of the UNet have in common, a power of two; 0: none",
        least=0,
    )
    attention: str = option("both", "UNet attention to adapt", choices=ATTENTION)
    train_text_encoder: bool = option(True, "adapt the text encoder as well as the UNet")
    train_token: bool = option(
        True,
        "learn the placeholder token: an embedding, or a vector in the output of a text encoder "
        "that is not trained through (T5, a language model)",
    )
    num_vectors: int | None = option(
        None,
        f"embedding rows, or vectors, of the placeholder token; default: {ROWS} rows, and "
        f"{VECTORS} vector, as a typed word is often one token",
        above=0,
    )
    delta_bits: int = option(4, "bits of a learned number in the file", choices=(4, 16))

    def rank_of_values(self, text: bool) -> str:
        """The rank of value and output projections, those of text encoders or of the denoiser."""
        return (self.text_encoder_rank if text else self.value_rank) or self.rank

    @property
    def embedding_rows(self) -> int:
        """How many embedding rows the placeholder token gets in a text encoder."""
        return self.num_vectors or ROWS

    @property
    def output_vectors(self) -> int:
        """How many vectors it gets in the output of one that is not trained through."""
        return self.num_vectors or VECTORS
