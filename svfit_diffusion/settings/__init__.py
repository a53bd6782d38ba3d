"""TrainConfig: the settings of a training, in groups, and the command line made from them.

inputs.py and process.py hold the settings, a dataclass for each group, made of options.py's
`option`; config.py composes them into the flat `TrainConfig`; words.py completes trigger, class
word and prompt from one another; flags.py makes a flag of each setting, and diffusers_flags.py
takes those of diffusers' scripts that are none here; run_file.py keeps them as YAML. Nothing here
imports anything heavy, so that `--help` answers at once.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "config": ["GROUPS", "PRESETS", "TrainConfig"],
        "diffusers_flags": ["NOT_NEEDED", "REFUSED", "RENAMED", "flags_table"],
        "flags": ["add_arguments", "add_some_arguments", "flag_remarks", "from_arguments"],
        "options": [
            "ATTENTION",
            "AUTO",
            "COMMON_SIZE",
            "MOST_AUTO_STEPS",
            "QUANTIZE",
            "RANK",
            "SCHEDULERS",
            "SCHEMES",
            "check_common_size",
        ],
        "run_file": ["RUN_FILE", "read_run", "run_text"],
        "words": ["RARE_WORDS", "says"],
    },
)
