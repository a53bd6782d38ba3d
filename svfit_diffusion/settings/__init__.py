"""TrainConfig: the settings of a training, in groups, and the command line made from them.

groups.py holds the settings, a dataclass for each group; config.py composes them into the flat
`TrainConfig`; words.py completes trigger, class word and prompt from one another; flags.py makes a
flag of each setting. Nothing here imports anything heavy, so that `--help` answers at once.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "config": ["PRESETS", "TrainConfig"],
        "flags": ["add_arguments", "from_arguments"],
        "groups": [
            "ATTENTION",
            "AUTO",
            "GROUPS",
            "MOST_AUTO_STEPS",
            "RANK",
            "SCHEDULERS",
            "SCHEMES",
            "TEXT_RANK",
        ],
        "words": ["RARE_WORDS", "says"],
    },
)
