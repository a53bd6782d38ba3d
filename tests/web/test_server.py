"""web.service.server: however the app ends, nothing of it is left behind."""

import os
import signal
import subprocess
import sys


def test_sigterm_ends_the_app_and_its_temporary_files(base_folder, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary), "SVFIT_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "svfit_diffusion.cli", "app", "--base", str(base_folder)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT
    ) as app:
        try:
            lines = iter(app.stdout.readline, "")
            assert any("Open http://127.0.0.1" in line for line in lines)
            assert list(temporary.glob("svfit-*"))
            app.send_signal(signal.SIGTERM)
            app.communicate(timeout=120)
        finally:  # also after a failure, which would wait for the app's end otherwise
            app.kill()
    assert not list(temporary.glob("svfit-*")), "16 MB stayed here before"
