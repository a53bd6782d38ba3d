"""Working without the Hub: whether it can be reached, and what the local cache holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

TIMEOUT = 3.0  # seconds
SHOWN = 8  # names of a cache
_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


def is_hub_id(base: str) -> bool:
    """Whether a base is not on this machine, and may be a Hub id."""
    return bool(_ID.fullmatch(base)) and not Path(base).exists()


def hub_options(base: str) -> dict[str, Any]:
    """Options of a download: use only the local cache if the Hub cannot be reached."""
    return {"local_files_only": True} if is_hub_id(base) and not reachable() else {}


def reachable() -> bool:
    """Whether the Hub answers at all. Called once for each base that is loaded."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except (OSError, HTTPError, OfflineModeIsEnabled):
        return False
    return True


def unreached(base: str) -> str:
    """Why a base cannot be downloaded while the Hub is unreachable, as a clause."""
    names = cached_models()
    if base in names:
        return "the Hub cannot be reached, and the local cache does not hold all of it"
    held = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"the Hub cannot be reached, and the local cache holds {held or 'no model'}"


def cached_models() -> list[str]:
    """Names of the models in the local cache of earlier downloads."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*")
    names = {folder.parents[1].name.removeprefix("models--") for folder in folders}
    return sorted(name.replace("--", "/") for name in names)
