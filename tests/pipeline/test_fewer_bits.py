"""Bases that were loaded in fewer bits, without their files: in fp8, as GGUF."""

import warnings
from importlib.util import find_spec

import pytest
import torch
from helpers.tiny_families import save_tiny
from helpers.tiny_pipelines import load, make_concept, picture

from svfit_diffusion.adapter import layers
from svfit_diffusion.adapter.attention import find_projections
from svfit_diffusion.pipeline.fusing import fuse_concepts
from svfit_diffusion.pipeline.loading import load_concept, remove_concept


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny FLUX.1 as it is published, in bfloat16, with spectra that fall like trained ones."""
    root = tmp_path_factory.mktemp("flux")
    save_tiny("flux", root)
    pipe = load(root / "base")
    for name in find_projections(pipe.transformer):
        weight = pipe.transformer.get_submodule(name).weight
        u, s, vt = torch.linalg.svd(weight.data, full_matrices=False)
        weight.data = (u * s[0] / torch.arange(1, len(s) + 1)) @ vt
    pipe.to(torch.bfloat16).save_pretrained(root / "base")
    return root / "base"


def without_files(pipe):
    """The pipeline as a single file gives it: nothing says where its weights come from."""
    pipe.transformer.register_to_config(_name_or_path="")
    return pipe


def edits(pipe):
    """Each projection's edit [out, in] of the transformer."""
    return {name: layer.get_delta_weight("it") for name, layer in layers(pipe.transformer).items()}


def load_by_check(pipe, concept):
    """What the warning of a load says that its edit is off by, and what it is off by."""
    with pytest.warns(UserWarning, match="off by .*%, as measured by its self-check") as caught:
        load_concept(pipe, concept, name="it")
    (said,) = {str(w.message) for w in caught if "off by" in str(w.message)}
    return float(said.split("off by ")[1].split("%")[0]) / 100


def concept_of(exact, **options):
    return make_concept(exact, targets={"transformer": "both"}, trigger=False, **options)


def test_a_single_file_in_its_own_precision_is_the_base(base):
    exact = load(base)
    pipe = without_files(load(base, torch.bfloat16))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*self-check")
        load_concept(pipe, concept_of(exact), name="it")


def rounded(pipe, dtype):
    """The denoiser's projections as a file in another precision gives them."""
    for name in find_projections(pipe.transformer):
        weight = pipe.transformer.get_submodule(name).weight
        weight.data = weight.data.to(dtype).to(weight.dtype)
    return without_files(pipe)


def test_rounded_weights_are_let_in_with_the_error_that_they_have(base):
    exact, pipe = load(base), rounded(load(base), torch.float8_e4m3fn)
    concept = concept_of(exact, rank=1)
    load_concept(exact, concept, name="it")
    stated = load_by_check(pipe, concept)
    true, ours = edits(exact), edits(pipe)
    gap = sum((true[name] - ours[name]).square().sum() for name in true).sqrt()
    error = float(gap / sum(edit.square().sum() for edit in true.values()).sqrt())
    print(f"fp8: {error:.3%}, stated {stated:.3%}")
    assert 0.005 < error < 0.05 and 0.4 < stated / error < 2.5


def test_what_rounds_too_much_takes_the_published_basis(base):
    exact, pipe = load(base), rounded(load(base), torch.float8_e5m2)
    concept = concept_of(exact, rank="full")
    before = picture(pipe)
    with pytest.raises(ValueError, match="would be off by .*in fewer bits .*basis_from='tiny'"):
        load_concept(pipe, concept)
    assert torch.equal(picture(pipe), before)
    load_concept(pipe, concept, name="it", basis_from=str(base))
    load_concept(exact, concept, name="it")
    for name, edit in edits(exact).items():
        assert torch.equal(edit, edits(pipe)[name])


@pytest.mark.skipif(find_spec("gguf") is None, reason="gguf is not installed")
@pytest.mark.parametrize(("kind", "rank"), [("Q8_0", 1), ("Q4_0", "full")])
def test_gguf_weights_take_a_concept(base, kind, rank):
    """The weights and the Linear of diffusers, from the quantiser of the gguf package."""
    import gguf
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    exact, pipe = load(base), without_files(load(base))
    concept, quantised = concept_of(exact, rank=rank), gguf.GGMLQuantizationType[kind]
    for name in find_projections(pipe.transformer):
        parent, _, child = name.rpartition(".")
        linear = pipe.transformer.get_submodule(name)
        made = GGUFLinear(linear.in_features, linear.out_features, True, torch.float32)
        data = gguf.quants.quantize(linear.weight.detach().numpy(), quantised)
        made.weight = GGUFParameter(torch.from_numpy(data), quant_type=quantised)
        made.bias = linear.bias
        setattr(pipe.transformer.get_submodule(parent), child, made.requires_grad_(False))
    before = picture(pipe)
    if kind == "Q8_0":
        assert 0 < load_by_check(pipe, concept) < 0.05
        remove_concept(pipe, "it")
    else:
        with pytest.raises(ValueError, match="would be off by"):
            load_concept(pipe, concept)
    load_concept(pipe, concept, name="it", basis_from=str(base))
    load_concept(exact, concept, name="it")
    for name, layer in layers(pipe.transformer).items():
        other = layers(exact.transformer)[name]
        x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))
        ours = layer(x) - layer.base_layer(x)
        assert torch.allclose(ours, other(x) - other.base_layer(x), atol=1e-5), name
    with pytest.raises(ValueError, match="a GGUF weight cannot take a merged edit"):
        fuse_concepts(pipe)
    remove_concept(pipe, "it")
    assert torch.equal(picture(pipe), before)


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_what_differs_between_a_layer_and_an_export(base, dtype, most):
    """A layer holds U and V in the precision of its weight, and an exported LoRA in float32."""
    exact, pipe = load(base), load(base, dtype)
    concept = concept_of(exact, rank=4)
    for one in (exact, pipe):
        load_concept(one, concept, name="it")
    true, held = edits(exact), edits(pipe)
    gap = sum((true[name] - held[name]).square().sum() for name in true).sqrt()
    error = float(gap / sum(edit.square().sum() for edit in true.values()).sqrt())
    print(f"{dtype}: {error:.3%}")
    assert most / 8 < error < most
    own = next(iter(layers(pipe.transformer).values()))
    assert next(iter(own.svfit_U.values())).dtype == dtype
