"""What the commands share: messages of one line, and quiet libraries."""

from __future__ import annotations

import logging
import os
import warnings

MAX_LINE = 1_000  # characters of a message


def shown(text: object) -> str:
    """A message or a path as one line that cannot steer the terminal."""
    from ..concept import printable

    return printable(str(text), MAX_LINE)


class _OneLine(logging.Formatter):
    """Messages as one line each: they may name files and quote their text."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(record.getMessage())


def quiet_libraries() -> None:
    """Show our own messages and errors, not the libraries' remarks on one another."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(handlers=[handler], level=logging.ERROR)
    logging.getLogger("svfit_diffusion").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings(
        "ignore", category=UserWarning, module="peft|torch|diffusers|huggingface_hub"
    )
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
