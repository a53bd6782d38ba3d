"""What `svfit train` makes of the suite's photos: deltas and a learned word, measured by its code.

The suite trains a PEFT method on the transformer, with prompts that are encoded once, so a word
that is learned in the text encoder's output is no row of its table. This row has the same photos,
captions, base, number of steps, batch and resolution, and is measured by the suite's functions on
the same prompts and seeds; rates are those of `svfit train`. The word lives in the states of
layers 9, 18 and 27 that the pipeline reads by default, where the suite takes 10, 20 and 30.
"""

from __future__ import annotations

import datetime
import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SUBJECT, CLASS_WORD = "sks", "cat"  # of the suite's prompts
PIXEL = 255 / 2  # of a value in [-1, 1]


@dataclass
class Run:
    """A training that is done: the concept's file, its values, seconds, and bytes on the device at
    its peak (0 where the device does not count).
    """

    path: Path
    values: int
    seconds: float
    memory: int


def run_word(experiment: Path, output: Path) -> Path:
    """Train, measure, and write a result in the suite's schema into `output`.

    experiment: a folder with training_params.json, in the suite's form. Raises ValueError when the
    output already has a concept.
    """
    utils, data = importlib.import_module("utils"), importlib.import_module("data")
    begun = time.perf_counter()
    date = datetime.datetime.now(tz=datetime.UTC).replace(microsecond=0).isoformat()
    config = utils.get_train_config(str(experiment / utils.FILE_NAME_TRAIN_PARAMS))
    output = output.resolve()
    if (output / "photos").exists():
        raise ValueError(f"{output} already has photos of a run; pass another --output.")
    photos, _, tests = data.get_train_valid_test_datasets(train_config=config)
    write_photos(photos, output / "photos")
    done = train_word(config, output)
    metrics, peft_config, total = measure(config, done.path, tests)
    result = utils.TrainResult(
        status=utils.TrainStatus.SUCCESS,
        train_time=done.seconds,
        accelerator_memory_reserved_log=[],
        accelerator_memory_max_train=done.memory,
        losses=[],
        metrics=[{"step": config.max_steps} | metrics],
        error_msg="",
        num_trainable_params=done.values,
        num_total_params=total,
    )
    before = set(output.glob("*.json"))
    utils.log_results(
        experiment_name=f"{experiment.parent.name}/{experiment.name}",
        train_result=result,
        time_total=time.perf_counter() - begun,
        file_size=done.path.stat().st_size,
        model_info=utils.get_base_model_info(config.model_id),
        dataset_info=utils.get_dataset_info(config.dataset_id),
        start_date=date,
        train_config=config,
        peft_config=peft_config,
        print_fn=print,
        save_dir=str(output),
    )
    (written,) = set(output.glob("*.json")) - before
    return written


def write_photos(photos: dict[str, Any], folder: Path) -> None:
    """The suite's training photos [3, side, side] in [-1, 1] as PNG, each with its caption."""
    from PIL import Image

    folder.mkdir(parents=True)
    for i, (pixels, prompt) in enumerate(
        zip(photos["pixel_values"], photos["prompts"], strict=True)
    ):
        values = ((pixels + 1) * PIXEL).round().to(torch.uint8).permute(1, 2, 0)
        Image.fromarray(values.numpy()).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(prompt, encoding="utf-8")


def train_word(config: Any, output: Path) -> Run:
    """`svfit train` with the suite's steps, batch, resolution and seed."""
    from svfit_diffusion import TrainConfig, train

    precision = {"bfloat16": "bf16", "float16": "fp16", "float32": "no"}
    settings = TrainConfig(
        pretrained_model_name_or_path=config.model_id,
        instance_data_dir=str(output / "photos"),
        instance_prompt=f"a photo of {SUBJECT} {CLASS_WORD}",
        placeholder_token=SUBJECT,
        initializer_token=CLASS_WORD,
        output_dir=str(output / "concept"),
        resolution=config.resolution,
        train_batch_size=config.batch_size,
        max_train_steps=config.max_steps,
        gradient_checkpointing=config.use_gc,
        mixed_precision=precision[config.dtype],
        offload="model",
        seed=config.seed,
    )
    counted = torch.cuda.is_available()
    if counted:
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    result = train(settings)
    seconds = time.perf_counter() - begun
    return Run(
        path=Path(result.path),
        values=result.concept.values,
        seconds=seconds,
        memory=torch.cuda.max_memory_reserved() if counted else 0,
    )


@torch.no_grad()
def measure(config: Any, path: Path, tests: list[dict]) -> tuple[dict[str, float], Any, int]:
    """The suite's similarity and drift of a concept, the edit as a PEFT configuration, and the
    number of the transformer's parameters.
    """
    from peft.utils import infer_device

    from svfit_diffusion import load_concept

    run, utils = importlib.import_module("run"), importlib.import_module("utils")
    device = infer_device()
    pipe = utils.get_pipeline(
        model_id=config.model_id,
        dtype=config.dtype,
        compile=config.compile,
        peft_config=None,
        autocast_adapter_dtype=config.autocast_adapter_dtype,
        use_gc=False,
        device_type=device,
    )
    name = load_concept(pipe, path)
    asked = [sample["prompt"] for sample in tests] + config.drift_image_prompts
    *_, cache = run.precompute_prompt_caches(
        pipe, train_prompts=[], eval_prompts=asked, device_type=device, train_config=config
    )
    peft_config = as_peft_model(pipe, name)
    pipe.text_encoder = None
    pipe.transformer.to(device).eval()
    shared = {"pipeline": pipe, "prompt_cache": cache, "config": config} | dict(
        zip(
            ("processor", "dino_model"),
            utils.get_dino_encoder(config.dino_model_id, config.dino_image_size),
            strict=True,
        )
    )
    found = {
        "test dino_similarity": run.evaluate(ds_eval=tests, num_repeats=3, **shared),
        "drift": run.measure_drift(**shared),
    }
    return found, peft_config, pipe.transformer.get_nb_trainable_parameters()[1]


def as_peft_model(pipe: Any, name: str) -> Any:
    """Give a pipeline a PeftModel with a concept's values for its transformer, since the suite
    turns an adapter off only there; returns the adapter's configuration.
    """
    from peft import get_peft_model

    from svfit_diffusion.adapter.tuner import get_common, get_deltas, set_common, set_deltas
    from svfit_diffusion.pipeline import remove_concept

    transformer = pipe.transformer
    deltas, config = get_deltas(transformer, name), transformer.peft_config[name]
    common = get_common(transformer, name)
    remove_concept(pipe, name)
    pipe.transformer = get_peft_model(transformer, config)
    set_deltas(pipe.transformer.get_base_model(), "default", deltas)
    if common is not None:
        set_common(pipe.transformer.get_base_model(), "default", common)
    return config
