"""The words of a training: trigger, class word and instance prompt, completed from one another."""

from __future__ import annotations

import re

RARE_WORDS = ("sks", "zwx", "ohwx", "TOK")


def complete_words(
    token: str | None, class_word: str | None, prompt: str | None
) -> tuple[str, str, str]:
    """(token, class word, instance prompt); ValueError where they cannot be known.

    "a photo of sks dog" alone gives the token sks and the class word dog.
    """
    if prompt and not token:
        token = next((word for word in RARE_WORDS if says(prompt, word)), None)
    if prompt and token and not class_word:
        found = re.search(rf"\b{re.escape(token)}\s+(\w+)", prompt)
        class_word = found and found[1]
    token = token or RARE_WORDS[0]
    if not class_word:
        raise ValueError(
            "what the photos show is not said; pass --instance_prompt 'a photo of sks dog', or "
            "--initializer_token dog."
        )
    prompt = prompt or f"a photo of {token} {class_word}"
    if not says(prompt, token):
        raise ValueError(
            f"the instance prompt {prompt!r} lacks the placeholder token {token!r}; write it "
            "where the subject is meant."
        )
    return token, class_word, prompt


def says(prompt: str, word: str) -> bool:
    """Whether a prompt holds a word as a whole."""
    return bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt))
