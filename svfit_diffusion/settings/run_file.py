"""A training's settings as a YAML file: written beside each concept, read by `--config`.

All settings are written, so that a later version with other defaults trains the same. Left out is
what says where results go, and secrets.
"""

from __future__ import annotations

from dataclasses import Field, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml

from .config import TrainConfig

RUN_FILE, MAX_BYTES = "run.yaml", 1_000_000
NOT_WRITTEN = (
    *("output_dir", "logging_dir", "resume_from_checkpoint"),
    *("push_to_hub", "hub_model_id", "hub_token"),
)


def run_text(config: TrainConfig, head: str) -> str:
    """The file of a training. head: sentences for its beginning, a comment each line."""
    written = {item.name: getattr(config, item.name) for item in fields(TrainConfig)}
    for item in fields(TrainConfig):
        if item.metadata.get("path") and written[item.name]:
            written[item.name] = _from_home(written[item.name])
    kept = {k: v for k, v in written.items() if v is not None and k not in NOT_WRITTEN}
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    return comment + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _from_home(path: str) -> str:
    """A path below the home folder with "~", which is read back as whoever reads it is at home."""
    try:
        return f"~/{Path(path).relative_to(Path.home()).as_posix()}"
    except ValueError:
        return path


def read_run(path: str | Path) -> dict[str, Any]:
    """The settings of a file; ValueError for anything that is none, in one sentence."""
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"{path} has more than {MAX_BYTES:,} bytes; expected a training's settings."
        )
    try:
        found = yaml.safe_load(data.decode("utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no YAML that can be read: {reason}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no settings; expected lines such as `rank: 16`.")
    known, types = {item.name: item for item in fields(TrainConfig)}, get_type_hints(TrainConfig)
    for name in found:
        if name not in known:
            raise ValueError(
                f"{path} has a setting {name!r}, which there is not; `svfit train --help` lists "
                "them all."
            )
    return {k: _value(path, known[k], types[k], value) for k, value in found.items()}


def _value(path: Path, item: Field, annotation: Any, value: Any) -> Any:
    """A setting's value of its type; ValueError for one of another."""
    kinds = get_args(annotation) or (annotation,)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if (isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))) or (
        value is None and NoneType in kinds
    ):
        return value
    if float in kinds and number:
        return float(value)
    if str in kinds and number:  # `rank: 16`
        return str(value)
    expected = " or ".join("nothing" if kind is NoneType else kind.__name__ for kind in kinds)
    quoted = "; put a text in quotes" if str in kinds else ""
    raise ValueError(f"{path} has {item.name}: {value!r}, but it must be {expected}{quoted}.")
