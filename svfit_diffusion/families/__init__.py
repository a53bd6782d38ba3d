"""What differs between model families: components, text encoding, prediction target, noise.

A family is one small class; it is recognised from the pipeline, never asked for. To add one: a
class here, its name in known.py, and a tiny pipeline of it in tests/helpers/tiny_families.py.
"""

from .base import Family as Family
from .loading import TOYBOX as TOYBOX
from .loading import base_folder as base_folder
from .loading import base_name as base_name
from .loading import family_of as family_of
from .loading import load_base as load_base
from .registry import FAMILIES as FAMILIES
from .registry import named as named
from .registry import recognise as recognise
from .sd import StableDiffusion as StableDiffusion
