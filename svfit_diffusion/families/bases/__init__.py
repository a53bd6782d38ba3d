"""One file a family: how its bases read prompts, encode pictures, and are trained and called.

sd.py and pixart.py are trained by diffusion, all others by flow matching. A family takes what it
needs from the room above (`from .. import Flow`), which says how to add one; it borrows
from another family where diffusers' pipelines share a part, too, such as a VAE.
"""
