"""Concepts from the Hugging Face Hub: a repository holds one, as `concept.safetensors`.

No code of a repository is run, and its file is checked like any other untrusted file.
"""

from __future__ import annotations

import re
from pathlib import Path

from .header import MAX_FILE_BYTES

HUB_FILE = "concept.safetensors"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(source: str | Path) -> Path:
    """The path of a concept file, given a file, a repository's folder, or a Hub id "user/name"."""
    path = Path(source)
    if path.is_dir() and (path / HUB_FILE).is_file():
        return path / HUB_FILE
    named = isinstance(source, str) and _ID.fullmatch(source) and path.suffix != ".safetensors"
    return path if path.exists() or not named else download(source)


def download(repo_id: str) -> Path:
    """Download the concept file of a Hub repository; without a connection, take it from the cache
    of earlier downloads. Raises ValueError, in one sentence, when neither has it.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HTTPError, RepositoryNotFoundError

    try:
        try:
            size = get_hf_file_metadata(hf_hub_url(repo_id, HUB_FILE)).size
        except (RepositoryNotFoundError, EntryNotFoundError):
            raise
        except (OSError, HTTPError):
            return Path(hf_hub_download(repo_id, HUB_FILE, local_files_only=True))
        if size is None or size > MAX_FILE_BYTES:
            raise ValueError(
                f"{HUB_FILE} of {repo_id!r} has {size or 0:,} bytes, but a concept has at most "
                f"{MAX_FILE_BYTES:,}; it is some other file."
            )
        return Path(hf_hub_download(repo_id, HUB_FILE))
    except RepositoryNotFoundError:
        reason = "the Hub has no such repository, or it is private and you are not logged in"
    except EntryNotFoundError as error:
        offline = "local" in type(error).__name__.lower()
        reason = _UNREACHED if offline else f"the repository holds no {HUB_FILE}"
    except (OSError, HTTPError):
        reason = _UNREACHED
    raise ValueError(
        f"the concept {repo_id!r} is not a file here, and could not be downloaded: {reason}."
    )


_UNREACHED = "the Hub cannot be reached (offline?) and there is no earlier download"
