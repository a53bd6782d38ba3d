"""Train a concept from a few photos; without arguments, the sample subject on Toybox.

The same as `svfit train`, for those who know diffusers' train_dreambooth_lora.py:

    accelerate launch train_dreambooth_svfit.py \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --instance_data_dir photos/rex --instance_prompt "a photo of sks dog" --output_dir rex
"""

import sys

from svfit_diffusion.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
