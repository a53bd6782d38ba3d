"""The method: the SVD of each weight, its cache, the PEFT layer and tuner, the attention patch.

    W' = W + U_r diag(delta) V_r^T

published.py finds a base's published weights (loaded_weights.py: in memory); basis.py computes
the canonical U_r, s_r and V_r of one (by truncated_svd.py), factoring.py those of many within
bounds of memory, and cache.py keeps them on disk, also those of weights that another program holds
(held.py). layer.py is the Linear with deltas (edits.py: what its edits are made of; common.py: a
vector that layers have in common; products.py: what it computes; strength.py: how strongly each
adapter acts; merging.py: into the weight and out again; placement.py: where its tensors lie),
config.py and tuner.py make it a method of peft, and attention.py puts it around the attention
projections of a model. basis_check.py tells whether a basis is the one that a concept was made in.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "attention": [
            "Projection",
            "find_projections",
            "layout",
            "patch_attention",
            "unpatch_attention",
            "values_and_outputs",
        ],
        "basis": ["Basis", "parse_rank", "resolve_rank"],
        "basis_check": ["basis_deviation", "check_table", "measure"],
        "common": ["place_index", "reading", "used_directions", "values_of"],
        "cache": ["bases_of", "cache_folder", "fingerprint", "load_bases"],
        "edits": ["Batch"],
        "factoring": ["Memory", "basis_bytes", "factoring_memory"],
        "held": ["held_weights"],
        "layer": ["SVFitLinear"],
        "loaded_weights": ["loaded_weight"],
        "published": ["find_source", "remembering"],
        "strength": ["Strengths"],
        "tuner": [
            "SVFitConfig",  # not from config.py: only tuner.py registers it with peft
            "SVFitModel",
            "common_parameter",
            "common_scale",
            "get_common",
            "get_deltas",
            "layers",
            "rms_singular_value",
            "set_common",
            "set_deltas",
            "tie_deltas",
            "tuner_layers",
        ],
    },
)
