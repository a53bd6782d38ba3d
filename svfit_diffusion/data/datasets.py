"""Photos and captions of a dataset: a folder of this machine, or one of the Hub."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ..settings import TrainConfig
from .reading import Photo, Skipped, read_bytes, read_folder


def read_dataset(config: TrainConfig) -> tuple[list[Photo], list[Skipped]]:
    """The photos of config.dataset_name, and what was skipped of it.

    A folder is read as a folder of photos is. Anything else is read by `datasets`, whose "train"
    split is taken. Raises ValueError where that is not installed, or a column is not there.
    """
    name = config.dataset_name
    if Path(name).is_dir():
        return read_folder(name, config.caption_column)
    rows = _load(config)
    for column in filter(None, (config.image_column, config.caption_column)):
        if column not in rows.column_names:
            held = ", ".join(rows.column_names)
            raise ValueError(f"the dataset {name!r} has no column {column!r}, but: {held}.")
    photos: list[Photo] = []
    skipped: list[Skipped] = []
    for number, row in enumerate(rows):
        path, caption = Path(f"{name}/{number}"), row.get(config.caption_column or "")
        if not isinstance(caption, str | None):
            raise ValueError(
                f"the column {config.caption_column!r} of the dataset {name!r} holds "
                f"{type(caption).__name__}, not text; pass one with a caption for each photo."
            )
        try:
            photos.append(read_bytes(path, io.BytesIO(_bytes(row[config.image_column])), caption))
        except ValueError as error:
            skipped.append(Skipped(path, str(error)))
    if not photos:
        raise ValueError(f"the dataset {name!r} holds no usable photo in {config.image_column!r}.")
    return photos, skipped


def _load(config: TrainConfig) -> Any:
    """The rows, with pictures as the bytes of their files."""
    try:
        import datasets
    except ImportError:
        raise ValueError(
            "dataset_name needs the package datasets; run `pip install datasets`, or pass "
            "--instance_data_dir with a folder of photos."
        ) from None
    name = config.dataset_name
    try:
        rows = datasets.load_dataset(
            name, config.dataset_config_name, cache_dir=config.cache_dir, split="train"
        )
        return rows.cast_column(config.image_column, datasets.Image(decode=False))
    except Exception as error:  # of many libraries
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise ValueError(f"the dataset {name!r} could not be read ({reason}).") from error


def _bytes(cell: Any) -> bytes:
    """The file of a picture's cell, {"bytes": ..., "path": ...}."""
    if not isinstance(cell, dict) or not (cell.get("bytes") or cell.get("path")):
        raise ValueError("a row of the dataset holds no picture.")
    return cell.get("bytes") or Path(cell["path"]).read_bytes()
