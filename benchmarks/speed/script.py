"""The claim on training scripts: a step of ours against one of diffusers' DreamBooth LoRA script.

    python -m benchmarks.speed --only script --diffusers-script PATH/train_dreambooth_lora.py

Both train Toybox and its text encoder on the sample's photos, batch 4, 128 px. The time of a step
is the difference of a long and a short run, so loading and saving do not count. Ours recognises no
backgrounds here, as diffusers' does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.speed.setup import Row, paired
from svfit_diffusion import toybox

ROOT = Path(__file__).parents[2]
SHORT, LONG = 10, 110  # steps
FLAGS = ("--instance_data_dir", str(ROOT / "samples" / "robot" / "photos"), "--resolution", "128",
         "--instance_prompt", "a photo of sks toy", "--train_batch_size", "4",
         "--pretrained_model_name_or_path", str(toybox.path()))  # fmt: skip


def spent(steps: int, *command: str) -> float:
    """Seconds of a script with this number of steps."""
    with tempfile.TemporaryDirectory() as folder:
        end = ["--max_train_steps", str(steps), "--output_dir", str(Path(folder, "out"))]
        start = time.perf_counter()
        subprocess.run([sys.executable, *command, *FLAGS, *end], check=True, capture_output=True)
        return time.perf_counter() - start


def run(quick: bool) -> tuple[list[Row], dict]:
    """The row."""
    ours = (str(ROOT / "train_dreambooth_svfit.py"), "--no-caption_backgrounds")
    theirs = (str(Path(__file__).with_name("lora_script.py")), os.environ["DIFFUSERS_LORA_SCRIPT"],
              "--rank", "4", "--train_text_encoder")  # fmt: skip
    fixed = {command: spent(SHORT, *command) for command in (ours, theirs)}
    row = paired(
        f"whole script, {LONG} steps, Toybox",
        "diffusers' train_dreambooth_lora.py, rank 4",
        lambda: spent(LONG, *ours),
        lambda: spent(LONG, *theirs),
        None,
        1 if quick else 3,
        warm=False,
    )
    a, b = (
        (total - fixed[command]) / (LONG - SHORT)
        for total, command in ((row.ours, ours), (row.theirs, theirs))
    )
    step = Row("training step of the script, Toybox", row.against, a, b, a / b, a / b, a / b, 0.95)
    return [row, step], {}
