"""SVFit concepts in ComfyUI: the nodes read the files of a few KB themselves.

What they need of svfit_diffusion (the file's format, the basis) lies beside them in `vendor`, where
pack.py puts it, or two folders up, in a clone of the repository. Nothing of it imports diffusers,
transformers or peft.
"""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
for _folder in (_HERE / "vendor", _HERE.parents[1]):
    if (_folder / "svfit_diffusion").is_dir():
        sys.path.insert(0, str(_folder))
        import svfit_diffusion  # noqa: F401, from here and no other place

        sys.path.remove(str(_folder))
        break

from . import folders  # noqa: E402
from .nodes import ConceptInfo, LoadConcept, SeveralConcepts  # noqa: E402

folders.register()

NODE_CLASS_MAPPINGS = {
    "SVFitLoadConcept": LoadConcept,
    "SVFitSeveralConcepts": SeveralConcepts,
    "SVFitConceptInfo": ConceptInfo,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "SVFitLoadConcept": "Load SVFit Concept",
    "SVFitSeveralConcepts": "Several Concepts",
    "SVFitConceptInfo": "Concept Info",
}
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
