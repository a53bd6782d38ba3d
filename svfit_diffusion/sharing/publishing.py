"""A concept as a repository of the Hugging Face Hub: the file, pictures, and a model card."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..concept import HUB_FILE, Concept, printable, read_concept, to_bytes
from ..generation import read_parameters

TAGS = ["text-to-image", "diffusers", "svfit"]
LICENSES = ("mit", "apache-2.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")
LICENSES += ("openrail", "creativeml-openrail-m", "openrail++")
CARD = """
# {title}

A subject for [{base}]({link}), in {size:,} bytes: {values:,} numbers, learned with
[SVFit](https://arxiv.org/abs/2409.05926) by svfit-diffusion. It is called by `{trigger}`.

```python
from diffusers import DiffusionPipeline
from svfit_diffusion import load_concept

pipe = DiffusionPipeline.from_pretrained("{base}")
load_concept(pipe, "{repo_id}", strength=1.0)
pipe("{prompt}").images[0].save("picture.png")
```

`pip install svfit-diffusion`. For ComfyUI and AUTOMATIC1111, make a LoRA of it:
`svfit export {repo_id} --to kohya --base {base}`.
"""


def write_repository(
    path: str | Path, folder: str | Path, repo_id: str, pictures: Sequence[str | Path] = ()
) -> Path:
    """Write a concept file, pictures and model card into a folder, as they are uploaded.

    pictures: PNGs that `svfit generate` wrote; their prompts become the card's examples.
    """
    concept, folder = read_concept(path), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HUB_FILE).write_bytes(to_bytes(concept))
    widget = []
    for i, picture in enumerate(pictures):
        found = None
        with contextlib.suppress(ValueError, OSError):
            found = read_parameters(picture)
        if found is None:
            raise ValueError(
                f"{picture} is not a PNG with parameters; pass one that svfit generate wrote."
            )
        name = f"images/{i}.png"
        (folder / "images").mkdir(exist_ok=True)
        shutil.copyfile(picture, folder / name)
        widget.append({"text": found.prompt, "output": {"url": name}})
    (folder / "README.md").write_text(_card(concept, repo_id, widget), encoding="utf-8")
    return folder


def push_to_hub(
    path: str | Path,
    repo_id: str,
    pictures: Sequence[str | Path] = (),
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a concept file to the Hub with a model card, in one commit; returns its URL.

    token: as for huggingface_hub, by default that of `hf auth login`. Raises ValueError, in one
    sentence, when the Hub cannot be reached or refuses the upload.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    try:
        with tempfile.TemporaryDirectory() as folder:
            write_repository(path, folder, repo_id, pictures)
            api = HfApi(token=token)
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            if url.repo_id != repo_id:  # of a name alone, the Hub knows whose it is
                write_repository(path, folder, url.repo_id, pictures)
            api.upload_folder(
                repo_id=url.repo_id, folder_path=folder, commit_message="Upload a concept"
            )
        return str(url)
    except HFValidationError:
        raise ValueError(f"{repo_id!r} is not a Hub id; write it as user/name.") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "none")
        reason = f"the Hub refused (status {status}); try `hf auth login`, or another name"
    except (OSError, HTTPError):
        reason = "the Hub cannot be reached; are you offline?"
    raise ValueError(f"{path} could not be uploaded to {repo_id!r}: {reason}.")


def _card(concept: Concept, repo_id: str, widget: list[dict]) -> str:
    from huggingface_hub import ModelCardData

    base, trigger = _plain(concept.base), _plain(concept.trigger)
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", base)
    license = concept.license.lower()
    data = ModelCardData(
        base_model=base if on_hub else None,
        instance_prompt=f"a photo of {trigger}",
        tags=TAGS,
        widget=widget or None,
        license=None if not license else license if license in LICENSES else "other",
        license_name=_plain(concept.license) if license and license not in LICENSES else None,
    )
    text = CARD.format(
        title=_plain(repo_id).rpartition("/")[2],
        base=base,
        link=f"https://huggingface.co/{base}" if on_hub else "https://arxiv.org/abs/2409.05926",
        size=len(to_bytes(concept)),
        values=concept.values,
        trigger=trigger,
        repo_id=repo_id,
        prompt=f"a photo of {trigger}",
    )
    return f"---\n{data.to_yaml()}\n---\n{text}"


def _plain(text: str) -> str:
    """Untrusted text reduced to characters that are safe in Markdown, HTML and Python strings."""
    return re.sub(r"[^\w .,/:+-]", "", printable(text, 200))
