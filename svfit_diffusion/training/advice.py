"""What a user is told about a training: what the base does not read or see, nothing learned."""

from __future__ import annotations

import numpy as np

from ..pipeline import warn_split_trigger, warn_unread_prompt
from ..settings import TrainConfig, says
from .subject import Subject


def remarks(config: TrainConfig, subject: Subject) -> list[str]:
    """Sentences on what of the words and photos the base reads or sees badly, or not at all."""
    prompts = [("caption", subject.examples.captions)]
    if subject.class_examples:
        prompts.append(("class prompt", subject.class_examples.captions))
    if config.validation_prompt:
        prompts.append(("validation prompt", (config.validation_prompt,)))
    told = [warn_split_trigger(subject.pipe, subject.token, bool(subject.tokens))]
    for what, found in prompts:
        for prompt in dict.fromkeys(found):
            told.append(warn_unread_prompt(subject.pipe, prompt, f"{what} {prompt[:40]!r}"))
    told += [_about_captions(subject), _about_backgrounds(subject)]
    return [text for text in told if text]


def _about_captions(subject: Subject) -> str:
    """On captions that do not call the subject."""
    captions, called = subject.examples.captions, f"{subject.token} {subject.class_word}"
    silent = [caption for caption in captions if not says(caption, subject.token)]
    if not silent:
        return ""
    return (
        f"{len(silent)} of {len(captions)} captions lack the trigger {subject.token!r}, so that "
        f"{called!r} learns nothing from their photos, such as {silent[0][:60]!r}; write "
        f"{called!r} where the subject is meant."
    )


def _about_backgrounds(subject: Subject) -> str:
    """On photos whose background was not recognised, where that of others was."""
    found = subject.backgrounds
    if not any(found) or all(found):
        return ""
    return (
        f"what is behind the subject was not recognised on {found.count('')} of {len(found)} "
        "photos, so a prompt that names no background may draw theirs. Say it in a caption: a .txt "
        f"file beside the photo, such as 'a photo of {subject.token} {subject.class_word} on a "
        "blue to pink gradient'."
    )


def advice(
    config: TrainConfig, deltas: np.ndarray, steps: int, before: float, after: float
) -> list[str]:
    """Sentences for the user; none where something was learned.

    deltas: as the file holds them. before, after: the loss on held-out noise, of the base and with
    the concept.
    """
    rates = f"--learning_rate is {config.learning_rate:g}"
    if steps and not np.any(deltas):
        if config.lr_warmup_steps >= steps:
            hint = (
                f"the rate was still rising, with --lr_warmup_steps {config.lr_warmup_steps} of "
                f"{steps} steps: pass fewer"
            )
        else:
            hint = f"{rates}: try a higher one, or more --max_train_steps"
        return [f"nothing was learned: every delta of the file is zero. {hint}."]
    if not steps or after < before:
        return []
    told = f"the loss on held-out noise did not fall ({before:.4f} -> {after:.4f})"
    if after == before:
        hint = f"Try more --max_train_steps, of which {steps} were done, or a higher rate ({rates})"
    else:
        hint = (
            f"Try a tenth of the rate ({rates}), and see that all photos and captions show the "
            "same thing"
        )
    return [f"nothing was learned: {told}. {hint}."]
