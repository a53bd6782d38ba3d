"""Likeness against bytes: SVFit compared with other small methods, on Toybox.

The subjects and their true pictures come from Toybox's recipe, whose files import each other
without a package name, so its folder is added to the import path here.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "recipes" / "toybox"))
