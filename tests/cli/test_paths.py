"""What a command writes goes to a free name; what is there is kept, or --overwrite says so."""

import json
from pathlib import Path

import pytest
import torch
from helpers.tiny_pipelines import load, make_concept
from PIL import Image

from svfit_diffusion.cli import demo
from svfit_diffusion.cli.main import main
from svfit_diffusion.concept import read_concept, write_concept
from svfit_diffusion.generation import read_parameters
from svfit_diffusion.settings import TrainConfig


@pytest.fixture
def here(base_folder, tmp_path, monkeypatch):
    """rex and mug, concepts of the tiny base, in the working folder, which is the home folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for seed, (name, token) in enumerate({"rex": "sks", "mug": "zwx"}.items()):
        concept = make_concept(load(base_folder), seed=seed, token=token)
        write_concept(concept, f"{name}.safetensors")
    return tmp_path


def run(command, *more):
    return main([*command.split(), *more])


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_pictures_of_one_seed_and_two_prompts_are_all_there(here, base_folder):
    command = f"generate --base {base_folder} --steps 1 --num 2 --prompt"
    for prompt in ("a red ball", "a blue cube"):
        assert run(command, prompt) == 0
    first = ["00000000", "00000001", "grid"]
    assert names("svfit-pictures") == sorted(f"{n}{i}.png" for n in first for i in ("", "-1"))
    prompts = [read_parameters(f"svfit-pictures/00000000{i}.png").prompt for i in ("", "-1")]
    assert prompts == ["a red ball", "a blue cube"]
    run(command, "a green cone", "--overwrite")
    assert len(names("svfit-pictures")) == 6
    assert read_parameters("svfit-pictures/00000000.png").prompt == "a green cone"


def test_exports_and_imports_keep_what_is_there(here, base_folder, capsys):
    command = f"export rex.safetensors --base {base_folder} --preview none --to kohya"
    assert run(command) == run(command) == 0
    assert {"rex-kohya.safetensors", "rex-kohya-1.safetensors"} <= set(names("."))
    assert json.loads(Path("rex-kohya-1.json").read_text())["activation text"] == (
        "rex-kohya-1-sks dog"
    )
    before = Path("rex-kohya.safetensors").read_bytes()
    for more in ("--output rex-kohya.safetensors", "--output ~/rex-kohya.safetensors"):
        assert run(f"{command} {more}") == 2
        assert "is there already; pass another name, or --overwrite" in capsys.readouterr().err
    assert Path("rex-kohya.safetensors").read_bytes() == before
    given = f"{command} --strength 0.5 --output rex-kohya.safetensors --overwrite"
    assert run(given) == 0 and Path("rex-kohya.safetensors").read_bytes() != before
    command = f"import rex-kohya.safetensors --base {base_folder} --rank 4"
    assert run(command) == run(command) == 0
    assert {"rex-kohya-svfit.safetensors", "rex-kohya-svfit-1.safetensors"} <= set(names("."))


def test_merge_and_a_fused_base_keep_what_is_there(here, base_folder, capsys):
    command = "merge rex.safetensors mug.safetensors -o rex.safetensors"
    assert run(command) == 2 and "rex.safetensors is there already" in capsys.readouterr().err
    assert run(f"{command} --overwrite") == 0
    Path("fused").mkdir()
    Path("fused/mine.txt").touch()
    command = f"export mug.safetensors --base {base_folder} --to diffusers --fuse --output fused"
    assert run(command) == 2 and names("fused") == ["mine.txt"]


def test_a_demo_does_not_write_into_a_folder_that_is_used(here, monkeypatch):
    folders = []
    monkeypatch.setattr(demo, "run_demo", lambda folder, steps: folders.append(folder) or 1 / 0)
    Path("svfit-demo").mkdir()
    Path("svfit-demo/old.png").touch()
    for command in ("demo", "demo --overwrite", "demo --output_dir=~/new"):
        with pytest.raises(ZeroDivisionError):
            run(command)
    assert folders == ["svfit-demo-1", "svfit-demo", str(here / "new")]
    assert run("demo --output_dir svfit-demo") == 2


def train_command(config, *more):
    values = {"instance_prompt": config.instance_prompt, "rank": "4", "max_train_steps": "1"}
    names = ("pretrained_model_name_or_path", "instance_data_dir")
    values |= {name: getattr(config, name) for name in names}
    return ["train", *(f"--{k}={v}" for k, v in values.items()), "--no-caption_backgrounds", *more]


def test_a_concept_that_is_there_is_not_trained_over(here, config, capsys):
    (here / "svfit-model").mkdir()
    written = write_concept(read_concept("rex.safetensors"), "svfit-model/svfit-model.safetensors")
    before = written.read_bytes()
    assert main(train_command(config, "--output_dir=svfit-model")) == 2
    said = capsys.readouterr().err
    assert "svfit-model.safetensors is there already; pass another --output_dir" in said
    assert main(train_command(config)) == 0
    assert Path("svfit-model-1/svfit-model-1.safetensors").is_file()
    assert written.read_bytes() == before


def test_a_tilde_is_the_home_folder(here, config):
    assert TrainConfig(output_dir="~/x").concept_path == here / "x" / "x.safetensors"
    assert TrainConfig(instance_data_dir="~", class_data_dir="~/c").class_data_dir == f"{here}/c"
    assert main(train_command(config, "--output_dir=~/deep/rex")) == 0
    assert (here / "deep" / "rex" / "rex.safetensors").is_file() and "~" not in names(here)
    assert run("info ~/rex.safetensors") == 0


def test_names_for_other_programs_are_plain(here, base_folder, capsys):
    Path("rex.safetensors").rename("réx (1).safetensors")
    command = f"export --base {base_folder} --preview none --to kohya"
    assert main([*command.split(), "réx (1).safetensors"]) == 0
    out = capsys.readouterr().out
    assert "rex-1-kohya.safetensors" in out and "rex-1-sks.safetensors" in out
    given = ["réx (1).safetensors", "--output", "my rex!.safetensors"]
    assert main([*command.split(), *given]) == 0
    assert Path("my rex!.safetensors").is_file() and Path("my-rex-sks.safetensors").is_file()


def test_a_validation_grid_is_kept(config):
    from helpers.tiny_pipelines import run as train

    given = {"validation_prompt": "sks dog", "num_validation_images": 1, "max_train_steps": 1}
    for _ in range(2):
        train(config, **given)
    folder = Path(config.output_dir) / "validation"
    assert names(folder) == ["000001-1.png", "000001.png"]
    assert Image.open(folder / "000001.png").width > 32


def test_of_several_trainings_it_is_asked_which_goes_on(here, config, capsys):
    """Not the first folder of our own naming, which may be another subject's."""
    for _ in range(2):
        assert main(train_command(config)) == 0
    held = {path: path.read_bytes() for path in here.rglob("svfit-model*.safetensors")}
    assert len(held) == 2
    assert main(train_command(config, "--resume_from_checkpoint=latest")) == 2
    said = capsys.readouterr().err
    assert "svfit-model, svfit-model-1: pass --output_dir to say which" in said
    assert {path: path.read_bytes() for path in held} == held


def test_two_files_of_one_name_are_used_together(here, base_folder):
    Path("other").mkdir()
    Path("mug.safetensors").rename("other/rex.safetensors")
    command = f"generate --base {base_folder} --steps 1 --num 1 --prompt"
    files = ["--concept", "rex.safetensors", "--concept", "other/rex.safetensors"]
    assert run(command, "a sks dog, a zwx dog", *files) == 0
    assert "rex" in read_parameters("svfit-pictures/00000000.png").concepts[0][0]


def test_a_full_device_is_one_sentence(here, base_folder, monkeypatch, capsys):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("svfit_diffusion.families.loading.load_base", full)
    monkeypatch.setattr("svfit_diffusion.families.load_base", full)
    assert run(f"generate --base {base_folder} --prompt", "x") == 2
    said = capsys.readouterr().err
    assert "device's memory is full (CUDA out of memory); train with --train_batch_size 1" in said
