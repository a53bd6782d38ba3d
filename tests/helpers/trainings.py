"""Trainings that are stopped, and where their checkpoints lie."""

from dataclasses import replace
from pathlib import Path

from svfit_diffusion.pipeline import without_vectors


def stop_at(step):
    """What `train` calls after each step, to stop it after that one."""

    def report(training, loss):
        if training.step == step:
            training.stopped = "for the test"

    return report


def empty_idle(training):
    """Put what no step needs, untrained text encoders and the VAE, on the device that holds
    nothing; returns those models.
    """
    base = training.base
    idle = base.family.text_models(base.pipe) | {"vae": base.pipe.vae}
    idle = {part: m for part, m in idle.items() if part not in {*base.targets, *base.ids}}
    for model in idle.values():
        with without_vectors(model):
            model.to("meta")
    return list(idle.values())


def last(config):
    """The newest checkpoint of a training's folder, as bytes."""
    path = max(Path(config.output_dir).glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    return (path / "state.safetensors").read_bytes()


def elsewhere(config, name):
    return replace(config, output_dir=str(Path(config.output_dir).parent / name / "rex"))
