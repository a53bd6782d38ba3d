"""What is seen: the tabs, their forms, the pieces of HTML and how they look."""

from ..._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "base_bar": ["build_base", "describe_base"],
        "compare_tab": ["PROMPT", "build_compare"],
        "generate_tab": ["build_generate"],
        "share_tab": ["build_share"],
        "theme": ["CSS", "KEYS", "THEME"],
        "train_tab": ["Trainer", "build_train"],
    },
)
