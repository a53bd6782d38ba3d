"""Speed and memory beside the base itself, LoRA and diffusers' own script."""
