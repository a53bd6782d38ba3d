"""What differs between model families: components, text encoding, prediction target, noise.

A family is one small class; it is recognised from the pipeline, never asked for. To add one: a
class here, its name in known.py, and a tiny pipeline of it in tests/tiny_families.py.
"""

from .base import Family as Family
from .bases import TOYBOX as TOYBOX
from .bases import base_folder as base_folder
from .bases import base_name as base_name
from .bases import family_of as family_of
from .bases import load_base as load_base
from .known import FAMILIES as FAMILIES
from .known import named as named
from .known import recognise as recognise
from .sd import StableDiffusion as StableDiffusion
