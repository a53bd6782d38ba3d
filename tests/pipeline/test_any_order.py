"""Concepts of any ranks, at any strengths, in any order of calls: always the dense edit.

    W' = W + sum of strength * U_r (V_r diag(delta) + M)^T        over the concepts that are in use

by numpy's SVD in float64. hypothesis chooses the calls.
"""

import copy
import functools
from dataclasses import replace

import numpy as np
import torch
from helpers.dense import arrangement
from helpers.tiny_pipelines import make_concept, make_pipeline
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from svfit_diffusion.adapter.attention import layout
from svfit_diffusion.adapter.basis import Basis
from svfit_diffusion.adapter.layer import SVFitLinear
from svfit_diffusion.pipeline.fusing import fuse_concepts, unfuse_concepts
from svfit_diffusion.pipeline.loading import (
    load_concept,
    loaded_concepts,
    remove_concept,
    set_concepts,
    swap_concept,
)

WORDS = {"rex": "sks", "mug": "zwx", "toy": "beach"}
TARGETS = {"unet": "cross", "text_encoder": "self"}
STRENGTHS = st.floats(-2, 2).map(lambda x: round(x, 3))
KINDS = st.tuples(
    st.sampled_from([1, 3, "full", "energy=0.5"]),
    st.sampled_from([0, 1]),
    st.sampled_from([0, 64, 256]),
)


@functools.cache
def base():
    """A base in float32 whose weights are those of its published float16."""
    return make_pipeline().to(torch.float16).to(torch.float32)


@functools.cache
def concept_of(name, kind):
    """A concept of a rank, a seed and the size of a common vector; seed 1 has no learned word."""
    rank, seed, size = kind
    made = make_concept(
        copy.deepcopy(base()), rank, 2 * len(name) + seed, targets=TARGETS, common=size
    )
    made = replace(made, token=WORDS[name])
    return replace(made, trigger_rows=None, trigger_shape={}) if seed else made


@functools.cache
def projections():
    """Each projection of the base: its place, and U, V of its weight in float64."""
    models = {part: getattr(base(), part) for part in TARGETS}
    found = []
    for place in layout(models, TARGETS):
        weight = models[place.part].get_submodule(place.local).weight.detach().double().numpy()
        u, _, vt = np.linalg.svd(weight, full_matrices=False)
        found.append((place, weight, u, vt))
    return found


class Calls(RuleBasedStateMachine):
    """A pipeline, and what should be on it: name -> kind and strength, None where out of use."""

    def __init__(self):
        super().__init__()
        self.pipe, self.held, self.fused = copy.deepcopy(base()), {}, False

    @precondition(lambda self: len(self.held) < len(WORDS))
    @rule(data=st.data(), kind=KINDS, strength=STRENGTHS)
    def load(self, data, kind, strength):
        name = data.draw(st.sampled_from(sorted(set(WORDS) - set(self.held))))
        load_concept(self.pipe, concept_of(name, kind), strength, name)
        self.held[name] = kind, strength
        self.fused = False

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def weigh(self, data):
        drawn = data.draw(st.fixed_dictionaries(dict.fromkeys(self.held, st.none() | STRENGTHS)))
        strengths = {name: value for name, value in drawn.items() if value is not None}
        set_concepts(self.pipe, strengths)
        self.held = {name: (kind, strengths.get(name)) for name, (kind, _) in self.held.items()}
        self.fused = False

    @precondition(lambda self: self.held)
    @rule(data=st.data(), kind=KINDS)
    def swap(self, data, kind):
        name = data.draw(st.sampled_from(sorted(self.held)))
        swap_concept(self.pipe, name, concept_of(name, kind))
        self.held[name] = kind, self.held[name][1]
        self.fused = False

    @precondition(lambda self: self.held and not self.fused)
    @rule()
    def fuse(self):
        fuse_concepts(self.pipe)
        self.fused = True

    @precondition(lambda self: self.fused)
    @rule()
    def unfuse(self):
        unfuse_concepts(self.pipe)
        self.fused = False

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def remove(self, data):
        name = data.draw(st.sampled_from(sorted(self.held)))
        remove_concept(self.pipe, name)
        del self.held[name]
        self.fused = False

    @invariant()
    def every_projection_is_the_dense_edit(self):
        acting = {name: given for name, given in self.held.items() if given[1] is not None}
        deltas, commons = {}, {}
        for name, (kind, _) in acting.items():
            concept = concept_of(name, kind)
            commons[name] = concept.common
            deltas[name] = np.split(concept.deltas.astype(float), np.cumsum(concept.ranks)[:-1])
        for number, (place, weight, u, vt) in enumerate(projections()):
            wanted = weight.copy()
            for name, (_, strength) in acting.items():
                delta, common = deltas[name][number], commons[name]
                reads = vt[: len(delta)].T * delta
                if common is not None and place.part == "unet":
                    reads = reads + arrangement(place.local, u[:, : len(delta)], len(reads), common)
                wanted += strength * u[:, : len(delta)] @ reads.T
            found = weight_of(getattr(self.pipe, place.part).get_submodule(place.local))
            assert np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted), place.name

    @invariant()
    def every_word_is_read_at_its_strength(self):
        encoder, plain = self.pipe.text_encoder, base()
        table = plain.text_encoder.get_input_embeddings().weight.detach()
        noun = table[plain.tokenizer("dog", add_special_tokens=False).input_ids[0]]
        for name, word in WORDS.items():
            ids = self.pipe.tokenizer(word, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.no_grad():
                places = encoder.embeddings(inputs_embeds=torch.zeros(*ids.shape, 32))
                found = (encoder.embeddings(input_ids=ids) - places)[0]
            kind, strength = self.held.get(name, ((1, 1, 0), None))
            if strength is None or kind[1]:
                wanted = table[plain.tokenizer(word, add_special_tokens=False).input_ids]
            else:
                row = torch.from_numpy(concept_of(name, kind).trigger_rows).float()
                wanted = (noun + strength * (row - noun))[None]
            assert torch.allclose(found, wanted, atol=1e-5), name

    @invariant()
    def what_is_loaded_is_told(self):
        told = {n: e.strength if e.in_use else None for n, e in loaded_concepts(self.pipe).items()}
        assert told == {name: strength for name, (_, strength) in self.held.items()}

    def teardown(self):
        """Without concepts it is the base, to the bit."""
        for name in list(self.held):
            remove_concept(self.pipe, name)
        for part in TARGETS:
            mine, own = (getattr(one, part).state_dict() for one in (self.pipe, base()))
            assert mine.keys() == own.keys() and all(torch.equal(mine[k], own[k]) for k in own)
        assert type(self.pipe.tokenizer) is type(base().tokenizer)


@torch.no_grad()
def weight_of(module):
    """The weight [out, in] that a projection acts as, from what it makes of unit vectors."""
    unit = torch.eye(module.in_features)
    zero = torch.zeros(1, module.in_features)
    return (module(unit) - module(zero)).T.double().numpy()


Calls.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=16,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # shrinking what fails takes minutes
    derandomize=True,
)
TestCalls = Calls.TestCase


@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    rows=st.integers(1, 40),
    strength=STRENGTHS,
    data=st.data(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_layer_of_any_shape_is_its_dense_edit(shape, rows, strength, data):
    """And so is its merged weight; the gradient of each delta is u^T (dL/dW') v * strength; that of
    the common vector is what its matrix collects of U^T (dL/dW').
    """
    out, into = shape
    rank = data.draw(st.integers(1, min(shape)))
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    linear = torch.nn.Linear(into, out)
    u, s, vt = torch.linalg.svd(linear.weight.detach(), full_matrices=False)
    layer = SVFitLinear(linear)
    basis = Basis(u[:, :rank], s[:rank], vt[:rank].T, torch.arange(1, rank + 1, dtype=torch.int32))
    size = data.draw(st.sampled_from([0, 64]))
    layer.update_layer("a", basis, common=size, name="attn.to_q")
    layer.set_adapter("a")
    delta, x = torch.randn(rank, generator=random), torch.randn(rows, into, generator=random)
    layer.svfit_delta["a"].data.copy_(delta)
    reads = vt[:rank].T.double() * delta.double()
    if size:
        common = torch.randn(size, generator=random)
        layer.svfit_common["a"].data.copy_(common)
        made = [
            torch.from_numpy(arrangement("attn.to_q", u[:, :rank].double().numpy(), into, each))
            for each in (common.double().numpy(), *np.eye(size))
        ]
        reads = reads + made[0]
    layer.set_scale("a", strength)
    dense = linear.weight.detach().double()
    dense = dense + strength * u[:, :rank].double() @ reads.T
    dense.requires_grad_()
    wanted = x.double() @ dense.T + linear.bias.double()
    found = layer(x)
    assert torch.allclose(found.double(), wanted, atol=1e-4)
    if strength:
        found.square().sum().backward()
        wanted.square().sum().backward()
        by_hand = strength * torch.einsum("or,oi,ri->r", u.double()[:, :rank], dense.grad,
                                          vt.double()[:rank])  # fmt: skip
        grad = layer.svfit_delta["a"].grad.double()
        assert torch.allclose(grad, by_hand, rtol=1e-3, atol=1e-3 * (1 + by_hand.abs().max()))
        if size:
            below = strength * dense.grad.T @ u.double()[:, :rank]
            by_hand = torch.stack([(below * one).sum() for one in made[1:]])
            grad = layer.svfit_common["a"].grad.double()
            assert torch.allclose(grad, by_hand, rtol=1e-3, atol=1e-3 * (1 + by_hand.abs().max()))
    layer.merge()
    assert torch.allclose(layer.get_base_layer().weight.double(), dense.detach(), atol=1e-5)
    assert torch.allclose(layer(x).double(), wanted.detach(), atol=1e-4)
