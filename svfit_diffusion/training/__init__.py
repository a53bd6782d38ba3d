"""Training a concept: base, subject, objective, loop, checkpoints, resuming, length, advice.

loop.py is where to begin: `train`, the loop and the training step. preparing.py decides all that
summary.py shows before the first step, launcher.py with what `accelerate launch` was told and
precision.py with what fits the base. A training is made of adapted_base.py, the frozen base with
what is trained on it, and averaging.py, what the file holds of that; subject.py, words and encoded
photos; prompt_encoder.py, prompts and their cache; objective.py, the loss, which fixed_noise.py
makes comparable between steps; and previews.py.
backgrounds.py completes captions; length.py decides when the loss has settled; stopping.py ends a
training early, and checkpoints.py and resuming.py keep it safe; result.py makes the concept.
offloading.py says what is on the device when, and memory.py how much that takes, by a run without
weights (traced_memory.py).
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "adapted_base": ["DTYPES", "AdaptedBase"],
        "backgrounds": ["PHRASES"],
        "loop": ["train"],
        "memory": ["MemoryEstimate", "estimate_memory"],
        "preparing": ["dry_run"],
        "result": ["Trained"],
        "runtime": ["snapshot"],
        "subject": ["SAMPLE", "sample_folder"],
    },
)
