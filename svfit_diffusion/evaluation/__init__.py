"""Measuring concepts: likeness to the subject, and what else a picture shows.

features.py extracts features of pictures; measures.py computes the measures from them;
comparison.py generates pictures with concepts and measures them (`evaluate`); dreambooth.py runs
the DreamBooth benchmark, with the prompts of dreambooth_prompts.py.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "comparison": ["EvaluationPlan", "PROMPTS", "evaluate", "read_references"],
        "dreambooth": ["run_dreambooth"],
        "features": ["load_extractor"],
        "measures": ["among", "likeness"],
    },
)
