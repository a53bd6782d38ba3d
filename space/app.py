"""The public page on Toybox, with the sample concept: the app of a Hugging Face Space."""

import os
import sys

from svfit_diffusion.cli.main import main
from svfit_diffusion.training import sample_folder

if __name__ == "__main__":
    # Visitors come through the Space's proxy alone, which names their addresses.
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "*")
    sample = str(sample_folder().parent / "robot.safetensors")
    address = ["--host", "0.0.0.0", "--port", os.environ.get("GRADIO_SERVER_PORT", "7860")]
    sys.exit(main(["app", "--public", "--concept", sample, *address]))
