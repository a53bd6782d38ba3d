"""cli.completion: what a shell completes, in a real one."""

import shutil
import subprocess

import pytest

from svfit_diffusion.cli.main import main


def completed(script, *words):
    """What bash offers for the last of these words."""
    line = " ".join(f"'{word}'" for word in words)
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_svfit; echo ${{COMPREPLY[@]}}"
    command = ["bash", "--norc", "-c", f"{script}\n{ask}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_flags_choices_and_files(capsys, tmp_path, monkeypatch):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert completed(script, "svfit", "tr") == ["train"]
    assert "doctor" in completed(script, "svfit", "")
    assert completed(script, "svfit", "train", "--max_train_st") == ["--max_train_steps"]
    assert completed(script, "svfit", "train", "--preset", "pa") == ["paper"]
    (tmp_path / "rex.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    assert completed(script, "svfit", "info", "re") == ["rex.safetensors"]
    assert completed(script, "svfit", "train", "--instance_data_dir", "re") == ["rex.safetensors"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_a_script_too(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "max_train_steps" in capsys.readouterr().out
