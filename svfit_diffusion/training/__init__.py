"""Training a concept: subject, objective, loop, checkpoints, resuming, automatic length, advice.

loop.py is where to begin: `train` and the training step. subject.py prepares the base and the
photos; objective.py is the loss; backgrounds.py completes captions; length.py decides when to
stop; checkpoints.py and resuming.py keep a training safe; result.py makes the concept.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "loop": ["Trained", "train"],
        "runtime": ["snapshot"],
        "subject": ["DTYPES", "SAMPLE", "sample_folder"],
    },
)
