"""The words of a training: trigger, class word and instance prompt, completed from one another.

The class word is what the subject is: the noun beside the trigger, after it ("sks stuffed animal")
or before it ("un chien sks"). It is a guess by spelling alone, so it is shown before a training
starts; where only function words stand beside the trigger, there is none, and nothing is guessed.
"""

from __future__ import annotations

import re
from itertools import pairwise

RARE_WORDS = ("sks", "zwx", "ohwx", "TOK")
MOST_WORDS = 4  # of a class word

_WORD = r"\w+(?:[-'’]\w+)*"
_PLACEHOLDER = re.compile(r"<[^<>\s]+>")  # as textual inversion writes them: <cat-toy>
# Articles, prepositions, conjunctions, pronouns and auxiliaries, which end a noun.
_FUNCTION_WORDS = (
    # English
    "a an the this that these those my your his her its our their one some any each every no "
    "of in on at by to from with without into onto over under above below near next beside besides "
    "between behind before after against among around across along through inside outside upon "
    "off up down out for as like than and or but nor so yet while when where which who whose "
    "is are was were be been being has have had does do did will would could may might must "
    "it he she they we you i him them us me there here not very "
    # German
    "ein eine einen einem einer eines der die das den dem des mein meine meinen meinem im am ans "
    "auf aus bei mit nach von vom vor zu zum zur über unter hinter neben zwischen und oder ist "
    "sind wie auf ohne durch "
    # French
    "un une le la les du de des d l au aux dans sur sous avec sans par pour chez en et ou est sont "
    "mon ma mes notre nos votre vos ce cet cette devant derrière entre "
    # Spanish, Italian, Portuguese, Dutch
    "el los las del al con sin para por sobre bajo y o e es mi mis su sus uno una unos unas il lo "
    "gli i nel nella nello nei sul sulla della dello degli delle di da tra fra senza è um uma uns "
    "umas os do da dos das no na nos nas em com sem ao à aos às het een op met zonder onder "
    "voor naar bij mijn zijn"
)
_PARTICIPLES = (
    "wearing sitting standing lying running walking holding sleeping playing eating looking flying "
    "swimming jumping placed seen shown"
)
# What a picture is, and not what is in it: "a photo sks" names no class.
_PICTURE_WORDS = (
    "photo photograph picture image portrait shot closeup close-up foto fotografie bild "
    "fotografía imagen immagine afbeelding plaatje"
)

_ENDS_NOUN = frozenset(_FUNCTION_WORDS.split())
_VERBS, _MEDIA = frozenset(_PARTICIPLES.split()), frozenset(_PICTURE_WORDS.split())


def complete_words(
    token: str | None, class_word: str | None, prompt: str | None
) -> tuple[str, str, str]:
    """(token, class word, instance prompt); ValueError where they cannot be known.

    "a photo of sks dog" alone gives the token sks and the class word dog.
    """
    token = token or find_placeholder(prompt or "")
    if token is not None:
        _check_placeholder(token)
    if prompt and token and not says(prompt, token):
        raise ValueError(
            f"the instance prompt {prompt!r} lacks the placeholder token {token!r}; write it "
            "where the subject is meant."
        )
    if prompt and not token:
        raise ValueError(
            f"the instance prompt {prompt!r} has no rare word for the subject, such as "
            f"{RARE_WORDS[0]!r}, so what calls it is not said; write one, as in 'a photo of "
            f"{RARE_WORDS[0]} dog', or name yours with --placeholder_token."
        )
    token = token or RARE_WORDS[0]
    class_word = (class_word or "").strip() or find_class_word(prompt or token, token)
    if not class_word:
        raise ValueError(_no_class_word(prompt, token))
    return token, class_word, prompt or f"a photo of {token} {class_word}"


def find_placeholder(prompt: str) -> str | None:
    """The word of a prompt that is there to call the subject: <cat-toy>, or a rare one."""
    found = _PLACEHOLDER.search(prompt)
    return found[0] if found else next((word for word in RARE_WORDS if says(prompt, word)), None)


def find_class_word(prompt: str, token: str) -> str:
    """The noun beside the token in a prompt, after it or else before it; "" if there is none."""
    before, after = re.split(_whole(token), prompt, maxsplit=1)
    return _noun_after(after) or _noun_before(before)


def says(prompt: str, word: str) -> bool:
    """Whether a prompt holds a word as a whole."""
    return bool(re.search(_whole(word), prompt))


def _whole(word: str) -> str:
    return rf"(?<!\w){re.escape(word)}(?!\w)"


def _clause(text: str) -> str:
    """A text up to the first mark that ends a clause."""
    return re.split(r"[^\w\s\-'’]", text, maxsplit=1)[0]


def _noun_after(text: str) -> str:
    """The words at a text's start, up to a function word.

    A participle belongs to what follows it: "sks dog sitting on the grass", "sks running shoe".
    """
    words = re.findall(_WORD, _clause(re.sub(r"^['’]s\b|^[\s)\]}\"”»]+", "", text)))
    found: list[str] = []
    for word, following in pairwise([*words, "of"]):
        ends = word.lower() in _VERBS and (found or _is_function_word(following))
        if ends or _is_function_word(word):
            break
        found.append(word)
    return " ".join(found[:MOST_WORDS])


def _noun_before(text: str) -> str:
    """The words at a text's end, from a function word on."""
    words = re.findall(_WORD, _clause(text[::-1])[::-1])
    found: list[str] = []
    for word in reversed(words):
        if _is_function_word(word) or word.lower() in _MEDIA:
            break
        found.insert(0, word)
    return " ".join(found[-MOST_WORDS:])


def _is_function_word(word: str) -> bool:
    plain = word.lower().replace("’", "'")
    elided = re.match(r"(?:d|l|qu|all|dell|nell|sull)'", plain)  # d'un, l'herbe
    return plain in _ENDS_NOUN or bool(elided)


def _check_placeholder(token: str) -> None:
    if not token.strip() or token != token.strip() or re.search(r"\s", token):
        raise ValueError(
            f"placeholder_token is {token!r}, but must be one word without blanks, such as sks or "
            "<cat-toy>."
        )


def _no_class_word(prompt: str | None, token: str) -> str:
    if not prompt:
        return (
            "what the photos show is not said; pass --instance_prompt 'a photo of sks dog', or "
            "--initializer_token dog."
        )
    return (
        f"the instance prompt {prompt!r} does not say what the subject is: no noun stands beside "
        f"{token!r}; write one, as in 'a photo of {token} dog', or pass --initializer_token dog."
    )
