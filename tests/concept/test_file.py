"""Concept files: what is written is read; anything else is refused in one sentence."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from svfit_diffusion.concept import Concept
from svfit_diffusion.concept.file import (
    from_bytes,
    layout_hash,
    read_concept,
    to_bytes,
    write_concept,
)


def concept(**changes):
    fields = {
        "deltas": np.arange(10, dtype=np.float16),
        "ranks": (4, 4, 2),
        "rank": "4",
        "layout": "0" * 32,
        "base": "toybox",
        "family": "sd",
        "targets": {"unet": "both", "text_encoder": "self"},
        "fingerprints": {"unet": "a" * 32, "text_encoder": "b" * 32},
        "token": "sks",
        "class_word": "dog",
        "trigger_rows": np.ones(8, np.float16),
        "trigger_shape": {"text_encoder": (2, 4)},
        "training": {"steps": 400, "learning_rate": 0.005},
        "license": "CC0-1.0",
        "created": "2026-01-02T03:04:05Z",
        "check": (0.5, -1.5, 0.0, 1e-6, 3.0, 2.0, 1.0, 7.0),
    }
    return Concept(**(fields | changes))


def same(a, b):
    return to_bytes(a) == to_bytes(b)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trigger_rows": None, "trigger_shape": {}},
        {"deltas": np.arange(10, dtype=np.float32)},
        {"ranks": (1,) * 10, "rank": "energy=0.99"},
        {"triggers": {"max": ("cat", 0, 0.25), "sks": ("dog", 2, 0.5)}},
        {"check": ()},
        {"outputs": {"text_encoder": (9, 18)}},
        {
            "outputs": {"text_encoder": ()},
            "packed": True,
            "deltas": np.zeros(10, np.float32),
            "trigger_rows": np.full(8, 3.5, np.float32),
        },
        {"class_word": "Hündchen 犬", "training": {}, "license": "", "created": ""},
    ],
)
def test_round_trip(tmp_path, changes):
    path = write_concept(concept(**changes), tmp_path / "new" / "rex.safetensors")
    again = read_concept(path)
    assert same(again, concept(**changes))
    assert again.ranks == concept(**changes).ranks
    assert again.outputs == concept(**changes).outputs
    assert set(load_file(path)) <= {"deltas", "trigger", "scales", "vectors", "vector_scales"}


def test_what_a_program_gets_that_cannot_add_to_an_output():
    shape = {"text_encoder": (2, 2), "text_encoder_3": (2, 3)}
    rows = np.arange(10, dtype=np.float16)
    both = concept(trigger_rows=rows, trigger_shape=shape, outputs={"text_encoder_3": (-2,)})
    kept = both.without_outputs()
    assert kept.rows().keys() == {"text_encoder"} and not kept.outputs and not kept.output_words
    assert kept.rows()["text_encoder"].tolist() == [[0, 1], [2, 3]]
    assert "word sks is, in part or as a whole, added to the output of the text_encoder_3" in (
        both.output_words
    )
    alone = replace(both, outputs=dict.fromkeys(shape, ())).without_outputs()
    assert not alone.learned and not alone.all_triggers()[0].rows


def test_rows_are_per_encoder():
    shape = {"text_encoder_2": (1, 3), "text_encoder": (1, 2)}
    rows = concept(trigger_rows=np.arange(5, dtype=np.float16), trigger_shape=shape).rows()
    assert rows["text_encoder"].tolist() == [[0, 1]]
    assert rows["text_encoder_2"].tolist() == [[2, 3, 4]]


def test_layout_hash_depends_on_each_part_but_not_on_order():
    entries = [("unet.a", 4, 3, 2), ("unet.b", 4, 3, 2)]
    assert layout_hash(entries) == layout_hash(entries[::-1])
    changed = [("unet.c", 4, 3, 2), ("unet.a", 5, 3, 2), ("unet.a", 4, 9, 2), ("unet.a", 4, 3, 1)]
    assert len({layout_hash([e, entries[1]]) for e in [entries[0], *changed]}) == 5


def raw(header=None, metadata=None, body=None, data=None):
    """A file's bytes with parts of the header replaced."""
    good = to_bytes(concept())
    size = int.from_bytes(good[:8], "little")
    head, content = json.loads(good[8 : 8 + size]), good[8 + size :]
    head["__metadata__"].update(metadata or {})
    head["__metadata__"] = {k: v for k, v in head["__metadata__"].items() if v is not None}
    head.update(header or {})
    head = {k: v for k, v in head.items() if v is not None}
    text = json.dumps(head).encode() if data is None else data
    return len(text).to_bytes(8, "little") + text + (content if body is None else body)


def entry(dtype="F16", shape=(10,), span=(0, 20), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span), **more}


OUTPUT = {"outputs": '{"text_encoder":[9]}'}
NAN = np.full(10, np.nan, np.float16).tobytes() + np.ones(8, np.float16).tobytes()
BAD = {
    "empty": (b"", "cut off"),
    "text": (b"hello, this is a text file", "cut off"),
    "no json": (raw(data=b"{nope"), "not valid JSON"),
    "deep json": (raw(data=b"[" * 100_000), "not valid JSON"),
    "list": (raw(data=b"[]"), "not a JSON object"),
    "key twice": (raw(data=b'{"deltas":1,"deltas":2}'), "twice"),
    "infinite constant": (raw(data=b'{"deltas":Infinity}'), "not a finite number"),
    "huge header": (raw(data=b" " * 300_000), "header has 300,000 bytes"),
    "a LoRA": (raw({"deltas": None, "lora_A": entry()}), "lora_A"),
    "no deltas": (raw({"deltas": None}), "no tensor 'deltas'"),
    "more tensors": (raw({"more": entry()}), "'more' that this version does not know"),
    "dtype": (raw({"deltas": entry("BF16")}), "F16 or F32 or U8"),
    "four bits without scales": (raw(metadata={"version": "3"}), "type that its version has"),
    "odd dtype": (raw({"deltas": entry(["F16"])}), "F16 or F32 or U8"),
    "matrix": (raw({"deltas": entry(shape=(5, 2))}), "impossible shape or offset"),
    "no values": (raw({"deltas": entry(shape=(0,), span=(0, 0))}), "impossible shape or offset"),
    "negative": (raw({"deltas": entry(shape=(-1,))}), "impossible shape or offset"),
    "wrong length": (raw({"deltas": entry(shape=(9,))}), "not have the bytes of its shape"),
    "overlap": (raw({"trigger": entry(shape=(8,), span=(4, 20))}), "do not fill the file"),
    "trailing bytes": (raw() + b"x", "do not fill the file"),
    "cut off": (raw()[:-1], "do not fill the file"),
    "extra field of a tensor": (raw({"deltas": entry(more=1)}), "described wrongly"),
    "nan": (raw(body=NAN), "NaN"),
    "another format": (raw(metadata={"format": "pt"}), "not marked"),
    "no metadata": (raw({"__metadata__": None}), "not marked"),
    "a number in metadata": (raw({"__metadata__": {"format": 1}}), "not text"),
    "newer version": (raw(metadata={"version": "6"}), "update svfit-diffusion"),
    "outputs in version 2": (raw(metadata=OUTPUT | {"version": "2"}), "unknown field 'outputs'"),
    "version 5 in half precision": (raw(metadata={"version": "5"}), "nothing of its version"),
    "version 4 without outputs": (raw(metadata={"version": "4"}), "lacks 'outputs'"),
    "outputs of nothing": (
        raw(metadata={"version": "4", "outputs": '{"text_encoder_9":[]}'}),
        "not layers of text encoders",
    ),
    "outputs no layers": (
        raw(metadata={"version": "4", "outputs": '{"text_encoder":[1.5]}'}),
        "not layers of text encoders",
    ),
    "version 1 with a check": (raw(metadata={"version": "1"}), "unknown field 'check'"),
    "no check": (raw(metadata={"check": None}), "lacks 'check'"),
    "check": (raw(metadata={"check": "AAAA"}), "not 8 numbers"),
    "check, no base64": (raw(metadata={"check": "\u00e4"}), "not 8 numbers"),
    "check nan": (raw(metadata={"check": "//////////////////////////////////////////8="}), "not 8"),
    "triggers": (raw(metadata={"triggers": '{"sks":["dog",1]}'}), "class word, rows and strength"),
    "triggers rows": (raw(metadata={"triggers": '{"sks":["dog",1,1]}'}), "add up to the rows"),
    "triggers rows -1": (raw(metadata={"triggers": '{"sks":["dog",-1,1]}'}), "class word, rows"),
    "triggers huge": (raw(metadata={"triggers": '{"sks":["dog",2,1e999]}'}), "out of range"),
    "triggers long": (raw(metadata={"triggers": '{"%s":["dog",2,1]}' % ("x" * 101)}), "words"),
    "unknown field": (raw(metadata={"run": "rm -rf"}), "unknown field 'run'"),
    "no base": (raw(metadata={"base": None}), "lacks 'base'"),
    "long text": (raw(metadata={"base": "x" * 3000}), "longer than"),
    "ranks sum": (raw(metadata={"ranks": "4 4"}), "10 deltas, but its ranks add up to 8"),
    "ranks text": (raw(metadata={"ranks": "four"}), "not whole numbers"),
    "rank zero": (raw(metadata={"ranks": "0 10"}), "out of range"),
    "rank bomb": (raw(metadata={"ranks": "1x9999999999"}), "out of range"),
    "many ranks": (raw(metadata={"ranks": "1x16384 1x16384"}), "more projections"),
    "targets": (raw(metadata={"targets": '{"unet":"all"}'}), "targets"),
    "no fingerprint": (raw(metadata={"fingerprints": '{"unet":"%s"}' % ("a" * 32)}), "fingerprint"),
    "fingerprint": (raw(metadata={"fingerprints": '{"unet":"../x","text_encoder":""}'}), "hash"),
    "trigger shape": (raw(metadata={"trigger_shape": '{"text_encoder":[9,9]}'}), "trigger tensor"),
    "trigger no shape": (raw(metadata={"trigger_shape": '{"text_encoder":4}'}), "rows and width"),
    "trigger, no token": (raw(metadata={"token": None}), "not the word"),
    "settings": (raw(metadata={"training": '{"a":{}}'}), "plain values"),
    "settings nan": (raw(metadata={"training": '{"a":NaN}'}), "not a finite number"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_from_strangers_are_refused_in_one_sentence(case, tmp_path):
    data, reason = BAD[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError) as error:
        read_concept(path)
    text = str(error.value)
    assert reason in text and "bad.safetensors" in text and "\n" not in text


def test_large_missing_and_odd_paths_are_refused(tmp_path):
    big = tmp_path / "big.safetensors"
    with big.open("wb") as file:
        file.truncate(17_000_000)
    reasons = {big: "16,000,000", tmp_path / "no": "No such file", tmp_path: "directory|denied"}
    for path, reason in reasons.items():
        with pytest.raises(ValueError, match=reason):
            read_concept(path)


def test_a_concept_that_could_not_be_read_is_not_written(tmp_path):
    broken = replace(concept(), deltas=np.full(10, np.inf, np.float16))
    with pytest.raises(ValueError, match="NaN or infinity"):
        write_concept(broken, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_mode_follows_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        path = write_concept(concept(), tmp_path / "a.safetensors")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_concept(concept(), tmp_path / "a.safetensors")
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        write_concept(concept(base="other"), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_reading_needs_no_torch():
    code = "import sys, svfit_diffusion.concept.file; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_bytes_are_the_same_for_the_same_concept():
    assert to_bytes(concept()) == to_bytes(from_bytes(to_bytes(concept()), "it"))
