"""Is it the subject, and is it what was asked for? Features, measures and protocols."""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "comparison": ["EvaluationPlan", "PROMPTS", "evaluate", "read_references"],
        "dreambooth": ["run_dreambooth"],
    },
)
