"""Deltas in four bits: what is rounded, how near, and what a reader takes."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.tiny_pipelines import make_concept

from svfit_diffusion.concept.file import from_bytes, to_bytes
from svfit_diffusion.concept.packing import pack, round_to_four_bits, unpack

RANKS = (5, 1, 16, 3)


def deltas(seed=0, scale=1.0):
    random = np.random.default_rng(seed)
    parts = [
        round_to_four_bits((scale * random.standard_normal(rank)).astype(np.float32))
        for rank in RANKS
    ]
    return np.concatenate(parts)


def test_rounding_is_the_nearest_of_fifteen_levels():
    values = np.random.default_rng(1).standard_normal(400).astype(np.float32)
    held = round_to_four_bits(values)
    assert len(np.unique(held)) <= 15
    found = np.unique(np.abs(held))
    step = found[1]
    inside = np.abs(values) <= found[-1]
    assert np.abs(held - values)[inside].max() <= step / 2 * (1 + 1e-6)
    assert np.square(held - values).mean() < 0.015 * np.square(values).mean()


def test_an_outlier_does_not_take_all_levels():
    values = np.append(np.random.default_rng(1).standard_normal(400), 8.0).astype(np.float32)
    plain = (8 / 7) * (values / (8 / 7)).round()
    error = np.square(round_to_four_bits(values) - values).sum()
    assert error < 0.8 * np.square(plain - values).sum()


@pytest.mark.parametrize("scale", [0.0, 1e-9, 2e-7, 1e-6, 1e-4, 1.0, 3e4])
def test_rounding_twice_is_rounding_once_and_a_file_holds_it(scale):
    held = deltas(scale=scale)
    parts = np.split(held, np.cumsum(RANKS)[:-1])
    assert all(np.array_equal(round_to_four_bits(part), part) for part in parts)
    data, scales = pack(held, RANKS)
    assert (data.dtype, data.size, scales.size) == (np.uint8, 13, len(RANKS))
    assert np.array_equal(unpack(data, scales, RANKS), held)


def test_equal_deltas_stay_equal_and_zeros_stay_zero():
    held = round_to_four_bits(np.array([0.3, 0.3, 0, -0.3, 0.011, 1], np.float32))
    assert held[0] == held[1] == -held[3] and held[2] == 0


def test_what_was_not_rounded_is_not_written(pipe):
    concept = make_concept(pipe, packed=True)
    with pytest.raises(ValueError, match="not rounded to four bits"):
        to_bytes(replace(concept, deltas=concept.deltas * np.float32(1.01) + np.float32(1e-3)))


def test_a_file_holds_four_bits_a_delta(pipe):
    plain, packed = (make_concept(pipe, rank=16, packed=flag) for flag in (False, True))
    saved = len(to_bytes(plain)) - len(to_bytes(packed))
    count = plain.deltas.size
    assert saved > 1.5 * count - 2 * len(plain.ranks) - 100
    read = from_bytes(to_bytes(packed), "it")
    assert read.packed and np.array_equal(read.deltas, packed.deltas)
    assert to_bytes(read) == to_bytes(packed)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"version":"3"', b'"version":"2"', "not of the type that its version has"),
        (b'"U8"', b'"I8"', "not of type"),
        (b'"scales"', b'"scaled"', "does not know"),
        (b'"deltas":{"dtype":"U8"', b'"deltas":{"dtype":"F8"', "not of type"),
    ],
)
def test_headers_that_do_not_agree_are_refused(pipe, old, new, message):
    data = to_bytes(make_concept(pipe, packed=True, common=0))
    changed = data.replace(old, new)
    length = int.from_bytes(data[:8], "little") + len(changed) - len(data)
    with pytest.raises(ValueError, match=message):
        from_bytes(length.to_bytes(8, "little") + changed[8:], "it")


def test_levels_that_no_writer_makes_are_refused(pipe):
    data = bytearray(to_bytes(make_concept(pipe, packed=True)))
    data[-1] &= 0xF0  # the lower half byte becomes level -8
    with pytest.raises(ValueError, match="not levels and scales"):
        from_bytes(bytes(data), "it")


def test_a_scale_without_its_top_level_is_refused(pipe):
    data = bytearray(to_bytes(make_concept(pipe, rank=2, packed=True)))
    data[-1] = 0x88  # both levels of the last projection become 0
    with pytest.raises(ValueError, match="not levels and scales"):
        from_bytes(bytes(data), "it")


def test_negative_scales_are_refused(pipe):
    concept = make_concept(pipe, packed=True)
    data = to_bytes(concept)
    start = 8 + int.from_bytes(data[:8], "little")
    changed = bytearray(data)
    changed[start + 1] |= 0x80
    with pytest.raises(ValueError, match="not levels and scales"):
        from_bytes(bytes(changed), "it")
