"""Sentences for the user of a training: what the base does not read or see, nothing learned."""

from __future__ import annotations

import numpy as np

from ..pipeline import warn_split_trigger, warn_unread_prompt
from ..settings import TrainConfig, says
from .adapted_base import AdaptedBase
from .subject import Subject


def remarks(config: TrainConfig, base: AdaptedBase, subject: Subject) -> list[str]:
    """Sentences on what of the words and photos the base reads or sees badly, or not at all."""
    prompts = [("caption", subject.examples.captions)]
    if subject.class_examples:
        prompts.append(("class prompt", subject.class_examples.captions))
    if config.validation_prompt:
        prompts.append(("validation prompt", (config.validation_prompt,)))
    found = [warn_split_trigger(base.pipe, subject.token, bool(base.tokens))]
    for what, texts in prompts:
        for text in dict.fromkeys(texts):
            found.append(warn_unread_prompt(base.pipe, text, f"{what} {text[:40]!r}"))
    found += [_about_captions(subject), _about_backgrounds(subject)]
    return [sentence for sentence in found if sentence]


def _about_captions(subject: Subject) -> str:
    """A sentence on captions that do not call the subject."""
    captions, phrase = subject.examples.captions, f"{subject.token} {subject.class_word}"
    silent = [caption for caption in captions if not says(caption, subject.token)]
    if not silent:
        return ""
    return (
        f"{len(silent)} of {len(captions)} captions lack the trigger {subject.token!r}, so that "
        f"{phrase!r} learns nothing from their photos, such as {silent[0][:60]!r}; write "
        f"{phrase!r} where the subject is meant."
    )


def _about_backgrounds(subject: Subject) -> str:
    """A sentence on photos whose background was not recognised, where that of others was."""
    found = subject.backgrounds
    if not any(found) or all(found):
        return ""
    return (
        f"what is behind the subject was not recognised on {found.count('')} of {len(found)} "
        "photos, so a prompt that names no background may show theirs. Name it in a caption, a "
        f".txt file beside the photo: 'a photo of {subject.token} {subject.class_word} on a blue "
        "to pink gradient'."
    )


def advice(
    config: TrainConfig, values: np.ndarray, steps: int, before: float, after: float
) -> list[str]:
    """Sentences for the user; none where something was learned.

    values: deltas and common vector as the file holds them. before, after: the loss at fixed noise,
    of the base and with the concept.
    """
    rate = config.learning_rate
    rates = f"--learning_rate is {'found by prodigy' if rate is None else format(rate, 'g')}"
    if steps and not np.any(values):
        if config.lr_warmup_steps >= steps:
            hint = (
                f"the rate was still rising, with --lr_warmup_steps {config.lr_warmup_steps} of "
                f"{steps} steps: pass fewer"
            )
        else:
            hint = f"{rates}: try a higher one, or more --max_train_steps"
        return [f"nothing was learned: every value of the file is zero. {hint}."]
    if not steps or after < before:
        return []
    reason = f"the loss at fixed noise did not fall ({before:.4f} -> {after:.4f})"
    if after == before:
        hint = f"Try more --max_train_steps, of which {steps} were done, or a higher rate ({rates})"
    else:
        hint = (
            f"Try a tenth of the rate ({rates}), and see that all photos and captions show the "
            "same thing"
        )
    return [f"nothing was learned: {reason}. {hint}."]
