"""All that is decided before a training's first step, and nothing of it written or generated."""

from __future__ import annotations

from dataclasses import dataclass, replace

from accelerate import Accelerator

from ..adapter import parse_rank
from ..data import check_class_folder
from ..settings import TrainConfig
from .adapted_base import AdaptedBase, adapt, load_frozen_base
from .launcher import launched
from .offloading import at_work
from .runtime import check_libraries, make_accelerator, own_accelerate_state
from .subject import Source, read_source
from .summary import show, summarise
from .validation_base import check_validation_base


@dataclass(frozen=True)
class Plan:
    """A training that could start. config: with the launcher's settings, and epochs as steps."""

    config: TrainConfig
    source: Source
    base: AdaptedBase
    summary: dict[str, str]


def prepare(given: TrainConfig, accelerator: Accelerator) -> Plan:
    """Read words and photos, load the base, add what is trained, and show a summary.

    ValueError where one of them cannot be used.
    """
    for rank in (given.rank, *map(given.rank_of_values, (False, True))):
        parse_rank(rank)
    check_class_folder(given)
    source = read_source(given, accelerator)
    config = launched(given).in_steps(len(source.photos), accelerator.num_processes)
    base = load_frozen_base(config, accelerator.device)
    words = source.token, source.class_word
    with at_work(base, base.family.text_models(base.pipe)):
        adapt(base, config, words, announce=accelerator.is_main_process)
    if config.validation_base:
        check_validation_base(config.validation_base, base)
    summary = summarise(config, given, accelerator, source, base)
    if accelerator.is_main_process:
        show(summary)
    return Plan(config, source, base, summary)


def dry_run(config: TrainConfig) -> dict[str, str]:
    """The summary that `train` would show before its first step; nothing is trained or written."""
    check_libraries(config)
    config = replace(config, report_to=None)  # a log would write a folder
    with own_accelerate_state():
        return prepare(config, make_accelerator(config)).summary
