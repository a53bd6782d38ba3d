"""processes.py with two real processes: shared work, failures of one that both raise, one exchange
a step.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from helpers.tiny_pipelines import run
from helpers.two_processes import two_processes
from PIL import Image

from svfit_diffusion.concept.file import read_concept

TRAIN = """
import json
from svfit_diffusion import TrainConfig, train
from svfit_diffusion.generation import pictures
config = TrainConfig(**json.loads(sys.argv[1]))
"""

COUNTED = (
    TRAIN
    + """
from svfit_diffusion.data import class_images
from svfit_diffusion.training import previews
drawn, exchanges = [], []
def counted(room, name):
    inner = getattr(room, name)
    def call(*arguments, **more):
        drawn.append(name)
        return inner(*arguments, **more)
    setattr(room, name, call)
counted(class_images, "save_png")
counted(previews, "generate")
from accelerate import Accelerator
reduce = Accelerator.reduce
Accelerator.reduce = lambda *arguments, **more: exchanges.append(1) or reduce(*arguments, **more)
train(config, progress=False)
print(json.dumps([drawn.count("save_png"), drawn.count("generate"), len(exchanges)]))
"""
)


@pytest.fixture
def shared(config, tmp_path):
    """A training with class images and validation, in a folder of its own."""
    return replace(
        config, output_dir=str(tmp_path / "two" / "rex"), max_train_steps=2,
        with_prior_preservation=True, class_data_dir=str(tmp_path / "class"), num_class_images=5,
        sample_batch_size=2, validation_prompt="a photo of sks dog", validation_steps=2,
        num_validation_images=3, gradient_accumulation_steps=2, train_batch_size=1,
    )  # fmt: skip


def pictures(folder):
    return {path.name: np.asarray(Image.open(path)) for path in sorted(Path(folder).glob("*.png"))}


def test_the_work_is_shared_and_the_same_as_that_of_one_process(shared, tmp_path):
    found = two_processes(COUNTED, json.dumps(asdict(shared)))
    assert [status for status, _, _ in found] == [0, 0], found
    counts = [json.loads(out.splitlines()[-1]) for _, out, _ in found]
    assert [count[:2] for count in counts] == [[3, 2], [2, 1]]
    assert [count[2] for count in counts] == [2, 2]  # one a step, whatever is accumulated
    alone = replace(shared, output_dir=str(tmp_path / "one" / "rex"),
                    class_data_dir=str(tmp_path / "alone"), train_batch_size=2)  # fmt: skip
    run(alone)
    folders = [(c.class_data_dir, f"{c.output_dir}/validation") for c in (shared, alone)]
    for two, one in zip(*folders, strict=True):
        ours, theirs = pictures(two), pictures(one)
        assert ours.keys() == theirs.keys() and ours
        for name, picture in ours.items():
            assert np.abs(picture.astype(int) - theirs[name]).max() <= 2, name
    deltas = [read_concept(c.concept_path).deltas for c in (shared, alone)]
    assert np.allclose(*deltas, atol=1e-3)


def test_a_folder_that_is_taken_ends_both(shared):
    folder = Path(shared.output_dir)
    folder.mkdir(parents=True)
    with FileLock(folder / ".training.lock"):
        found = two_processes(TRAIN + "train(config, progress=False)", json.dumps(asdict(shared)))
    for status, _, errors in found:
        assert status == 1 and "another training is writing into" in errors
    assert "ValueError: process 0 of the training failed: another" in found[1][2]


@pytest.mark.slow
def test_what_fails_in_one_process_ends_both(shared):
    """A class image that the second cannot store, a concept that the first cannot write."""
    broken = """
from accelerate import PartialState
from svfit_diffusion.data import class_images
from svfit_diffusion.training import loop
def full(*_):
    raise OSError("no space left")
if PartialState().process_index == 1 and sys.argv[2] == "1":
    class_images.save_png = full
if PartialState().process_index == 0 and sys.argv[2] == "0":
    loop.write_concept = full
train(config, progress=False)
"""
    for number in (1, 0):
        found = two_processes(TRAIN + broken, json.dumps(asdict(shared)), str(number))
        assert "OSError: no space left" in found[number][2]
        other = found[1 - number]
        assert other[0] == 1
        assert f"process {number} of the training failed: no space left" in other[2]


STOPPED = (
    TRAIN
    + """
from accelerate import PartialState
def report(training, loss):
    if PartialState().process_index == 1 and training.step == 2:
        training.stopped = "enough"
trained = train(config, progress=False, report=report)
print(json.dumps([trained.steps, trained.stopped]))
"""
)


@pytest.mark.slow
def test_both_stop_after_the_same_step(shared):
    """The other learns of it in the exchange of the next step."""
    endless = replace(shared, max_train_steps=50, with_prior_preservation=False,
                      validation_prompt=None, class_data_dir=None)  # fmt: skip
    found = two_processes(STOPPED, json.dumps(asdict(endless)))
    said = [json.loads(out.splitlines()[-1]) for _, out, _ in found]
    assert said == [[3, "another process was interrupted"], [3, "enough"]]
    held = sorted(path.name for path in Path(shared.output_dir).glob("checkpoint-*"))
    assert held == ["checkpoint-3"]
