"""Limits of what a user may ask for, the same on the page and in its API."""

from __future__ import annotations

MAX_ACTIVE_CONCEPTS = 4  # in one picture
MAX_PICTURES = 8  # of one job
MAX_STEPS = 100  # denoising steps of a picture
MAX_GUIDANCE = 20
MAX_STRENGTH = 1.5
MAX_SEED = 2**32 - 1
MAX_SIZE = 2_048  # px, a picture's side
MAX_PROMPT = 1_000  # characters
MAX_PHOTOS = 50
MAX_WORDS = 60  # characters of a trigger, and of what the photos show
MAX_TRAIN_STEPS = 20_000
