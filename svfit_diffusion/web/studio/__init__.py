"""The app behind the page: state, trainings, generation jobs. No gradio, no HTML.

workspace.py holds what all tabs share: shared_pipeline.py (the one pipeline), library.py (the
user's concepts, cards.py: their files) and runs.py (trainings, each in a process of worker.py,
which reporter.py reports from). new_training.py and generation_jobs.py do what a user asks for,
within limits.py; xy_grid.py plans grids, history.py keeps what is generated. photos.py
(photo_marks.py, photo_edits.py), words.py, hints.py, scenes.py and presets.py are for a user's
input, bases.py describes bases, suggested.py names some, familiarity.py says what a base knows,
verdict.py what was learned. foreign_files.py converts, lora_zip.py exports, temporary_files.py
holds what the browser downloads and uploads. visitors.py gives each visitor of a public app a
workspace that goes with them.
"""

from ..._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "bases": ["KNOWN_BASES", "describe_base"],
        "cards": ["Card", "read_card"],
        "foreign_files": ["EMBEDDING", "kind_of"],
        "generation_jobs": [
            "COMPARE_PROMPT",
            "Gallery",
            "GenerationJobs",
            "Progress",
            "check_prompts",
            "pick_seed",
        ],
        "hints": ["disagreements"],
        "history": ["SHOWN", "History", "Picture"],
        "library": ["Entry", "Library", "data_folder"],
        "limits": [
            "MAX_ACTIVE_CONCEPTS",
            "MAX_GUIDANCE",
            "MAX_PHOTOS",
            "MAX_PICTURES",
            "MAX_PROMPT",
            "MAX_SEED",
            "MAX_SIZE",
            "MAX_STEPS",
            "MAX_STRENGTH",
            "MAX_TRAIN_STEPS",
            "MAX_WORDS",
        ],
        "lora_zip": ["make_lora_zip"],
        "new_training": ["proposed_word", "start_training"],
        "photo_edits": ["Edit", "MAX_ZOOM", "NO_EDIT", "WHOLE", "WORDS", "read_edits"],
        "photos": ["PHOTO_SUFFIXES", "caption_of", "inspect_photos", "preview_photo"],
        "presets": ["QUALITIES", "make_config"],
        "runs": ["ACTIVE_STATES", "ENDED_STATES", "SUCCESS_STATES", "Preparation", "Run", "Runs"],
        "scenes": ["OBJECTS", "SCENES", "with_scene"],
        "shared_pipeline": ["Job", "SharedPipeline"],
        "suggested": ["SUGGESTED", "Suggested"],
        "temporary_files": [
            "VISITS",
            "discard_upload",
            "new_file",
            "servable_copy",
            "sweep_app_folder",
            "sweeping",
        ],
        "verdict": ["in_words"],
        "visitors": ["MAX_KEPT_PICTURES", "Visit", "Visitors"],
        "words": ["class_word", "unused_word"],
        "workspace": ["Workspace"],
        "xy_grid": ["AXES", "Axis", "Grid", "parse_axis", "strengths"],
    },
)
