"""A concept under another word gives the same pictures, and clashes with no other concept."""

import pytest
from helpers.tiny_pipelines import load, make_concept, picture

from svfit_diffusion.cli.main import main
from svfit_diffusion.concept.file import from_bytes, read_concept, to_bytes, write_concept
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.sharing.combining import combine
from svfit_diffusion.sharing.renaming import rename

PROMPT = "a photo of {} dog and {} dog"


def same_pictures(base_folder, one, two, words):
    """Whether two concepts generate the same, each called by its words."""
    found = []
    for concept, called in zip((one, two), words, strict=True):
        pipe = load(base_folder)
        load_concept(pipe, from_bytes(to_bytes(concept), "it"), name="it")
        found.append(picture(pipe, PROMPT.format(*called)))
    return bool((found[0] == found[1]).all())


def test_the_new_word_generates_what_the_old_one_did(pipe, base_folder):
    rex = make_concept(pipe, seed=1)
    assert same_pictures(base_folder, rex, rename(rex, "mug"), [("sks", "sks"), ("mug", "mug")])


def test_each_word_of_a_combined_concept_keeps_its_rows(pipe, base_folder):
    both = combine([(make_concept(pipe, seed=1), 1), (make_concept(pipe, seed=2, token="zwx"), 1)])
    other = rename(both, "abc", old="zwx")  # its rows move before those of sks
    assert [call.word for call in other.all_triggers()] == ["abc", "sks"]
    assert same_pictures(base_folder, both, other, [("sks", "zwx"), ("sks", "abc")])
    for word, old, reason in (
        ("a", None, "say which of them"),
        ("a", "x", "not called by 'x'"),
        ("ZWX", "sks", "called by 'ZWX' already"),
    ):
        with pytest.raises(ValueError, match=reason):
            rename(both, word, old)


def test_two_peoples_concepts_of_one_word_are_used_together(pipe):
    one, two = make_concept(pipe, seed=1), make_concept(pipe, seed=2)
    load_concept(pipe, one, name="one")
    with pytest.raises(ValueError, match="both called by 'sks'"):
        load_concept(pipe, two, name="two")
    load_concept(pipe, rename(two, "kuv"), name="two")


@pytest.mark.parametrize("word", ["", "two words", "x" * 61, "a\x1b"])
def test_what_is_no_word_is_refused(pipe, word):
    with pytest.raises(ValueError, match="must be one word"):
        rename(make_concept(pipe), word)


def test_a_word_that_was_not_learned_stays(pipe):
    with pytest.raises(ValueError, match="was not learned"):
        rename(make_concept(pipe, trigger=False), "zwx")


def test_the_command_writes_a_new_file(pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = write_concept(make_concept(pipe), tmp_path / "rex.safetensors")
    before = file.read_bytes()
    assert main(["rename", "rex.safetensors", "kuv"]) == 0
    assert capsys.readouterr().out == "rex-kuv.safetensors: called by kuv dog\n"
    assert read_concept("rex-kuv.safetensors").token == "kuv" and file.read_bytes() == before
    assert main(["rename", "rex.safetensors", "kuv", "-o", "rex.safetensors"]) == 2
    assert "there already" in capsys.readouterr().err
