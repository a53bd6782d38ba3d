"""Likeness against bytes: SVFit beside the small methods of the field, on Toybox.

The subjects and their true pictures come from Toybox's recipe, whose files import one another by
their bare names: its folder joins the search path here.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "recipes" / "toybox"))
