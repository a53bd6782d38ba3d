"""What is behind the page: library, runs and their worker, the shared pipeline, bases.

shared_pipeline.py holds the pipeline that all windows use; library.py the user's concepts; runs.py
and worker.py the trainings; photos.py what becomes of uploaded photos; workspace.py ties them
together for the page.
"""

from ..._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "bases": ["describe"],
        "cards": ["Card", "read_card"],
        "generation_jobs": ["Drawing", "check_prompts", "chosen_seed"],
        "library": ["Entry", "Library", "data_folder", "slug"],
        "lora_zip": ["packed_lora"],
        "photos": [
            "MAX_PHOTOS",
            "MAX_WORDS",
            "SUFFIXES",
            "class_word",
            "inspect_photos",
            "propose_token",
            "save_photos",
        ],
        "presets": ["MAX_TRAIN_STEPS", "QUALITIES", "make_config"],
        "runs": ["GOING", "Run", "Runs"],
        "shared_pipeline": ["Job", "Step", "Stopped", "Studio"],
        "temporary_files": ["fresh_file", "served"],
        "workspace": [
            "DRAWING",
            "MAX_GUIDANCE",
            "MAX_PICTURES",
            "MAX_PROMPT",
            "MAX_SEED",
            "MAX_SIZE",
            "MAX_STEPS",
            "MAX_STRENGTH",
            "QUEUED",
            "QUICK",
            "SLOTS",
            "Workspace",
            "escaped",
            "signal",
            "user_errors",
            "warn",
        ],
    },
)
