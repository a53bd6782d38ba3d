"""Any number of concepts beside a pipeline, of which each picture of a batch can have its own.

    delta of picture i = sum of strength[i, c] * delta[c]        over its concepts c

All concepts of a base share one basis, so that they differ in vectors alone: pool.py keeps those
(resident.py), once they are known to fit the base (admission.py). The room pipeline puts those of a
batch on its models, words included.
"""

from .._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, {"pool": ["ConceptPool"]})
