"""words.py: what calls the subject and what it is, understood from a prompt or asked for."""

import pytest

from svfit_diffusion.settings import TrainConfig


def words(prompt, **given):
    return TrainConfig(instance_prompt=prompt, **given).words()[:2]


@pytest.mark.parametrize(
    ("prompt", "class_word"),
    [
        ("a photo of sks dog", "dog"),
        ("a photo of sks stuffed animal", "stuffed animal"),
        ("a photo of sks T-shirt on a chair", "T-shirt"),
        ("sks children's toy, on a table", "children's toy"),
        ("a photo of sks can", "can"),
        ("a photo of sks van in a street", "van"),
        ("a photo of sks dog sitting on a bench", "dog"),
        ("a photo of sks running shoe", "running shoe"),
        ("(sks) dog in the snow", "dog"),
        ("a dog sks on the grass", "dog"),
        ("un chien sks dans la neige", "chien"),
        ("chien sks dans la neige", "chien"),
        ("une photo d'un chien sks", "chien"),
        ("ein Foto von sks Hund im Schnee", "Hund"),
        ("a photo of my stuffed animal sks", "stuffed animal"),
    ],
)
def test_the_class_word_is_the_whole_noun_beside_the_trigger(prompt, class_word):
    assert words(prompt) == ("sks", class_word)


@pytest.mark.parametrize(
    "prompt",
    ["a photo of a sks in the snow", "sks dans la neige", "a photo sks on the beach", "a sks",
     "a dog of sks", "a photo of sks standing on a table"],
)  # fmt: skip
def test_a_function_word_is_no_class_word(prompt):
    with pytest.raises(ValueError, match="no noun stands beside 'sks'.*--initializer_token"):
        words(prompt)
    assert words(prompt, initializer_token="toy dog") == ("sks", "toy dog")


@pytest.mark.parametrize("token", ["<cat-toy>", "#rex", "r2-d2", "zwx"])
def test_any_placeholder_is_found_in_a_complete_prompt(token):
    assert words(f"a photo of {token} toy", placeholder_token=token) == (token, "toy")


def test_a_placeholder_in_angle_brackets_needs_no_flag():
    assert words("a photo of <cat-toy> toy") == ("<cat-toy>", "toy")


def test_a_prompt_without_a_trigger_says_so():
    with pytest.raises(ValueError, match="has no rare word for the subject.*--placeholder_token"):
        words("a photo of a dog", initializer_token="dog")
    with pytest.raises(ValueError, match="must be one word"):
        words("a my rex dog", placeholder_token="my rex")
