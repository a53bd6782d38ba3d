"""layer.py and tuner.py against a dense edit of the weights, through peft and diffusers."""

import warnings

import pytest
import torch
from helpers.quantised import Quantised, QuantisedBackend
from helpers.tiny_pipelines import make_concept
from peft import PeftType, get_peft_model
from torch import nn

from svfit_diffusion.adapter.layer import SVFitLinear
from svfit_diffusion.adapter.tuner import SVFitConfig, get_deltas, layers, set_deltas
from svfit_diffusion.pipeline.loading import load_concept, swap_concept

RANKS = [3, "full", "energy=0.9"]


@pytest.fixture
def unet(pipe):
    return pipe.unet


def inputs(unet):
    g = torch.Generator().manual_seed(1)
    width = unet.config.cross_attention_dim
    return (
        torch.randn(2, 4, 16, 16, generator=g),
        torch.tensor([10, 500]),
        torch.randn(2, 5, width, generator=g),
    )


@torch.no_grad()
def run(unet):
    return unet(*inputs(unet)).sample


def test_peft_knows_the_type_by_all_its_ways():
    """Python 3.11 finds an enum's members in its map; from 3.12 on, as the class's attributes."""
    kinds = {PeftType("SVFIT"), PeftType["SVFIT"], PeftType.SVFIT, vars(PeftType)["SVFIT"]}
    assert len(kinds) == 1 and kinds <= set(PeftType)


def randomise(unet, adapter, size=0.5, seed=0):
    g = torch.Generator().manual_seed(seed)
    deltas = {
        n: size * torch.randn(d.shape, generator=g) for n, d in get_deltas(unet, adapter).items()
    }
    set_deltas(unet, adapter, deltas)


def densely_edited(unet, strengths):
    """The base's output with W + U diag(delta) V^T in place of W, by dense algebra."""
    for layer in layers(unet).values():
        w = layer.base_layer.weight
        u, _, vt = torch.linalg.svd(w.data.half().double(), full_matrices=False)
        for adapter, strength in strengths.items():
            delta = layer.svfit_delta[adapter].double()
            r = len(delta)
            w.data = (w.data.double() + strength * (u[:, :r] * delta) @ vt[:r]).float()
    unet.disable_adapters()
    out = run(unet)
    unet.enable_adapters()
    return out


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("rank", RANKS)
def test_zero_deltas_are_the_base_bit_for_bit(unet, rank):
    base = run(unet)
    unet.add_adapter(SVFitConfig(r=rank))
    assert torch.equal(run(unet), base)


@pytest.mark.parametrize("rank", RANKS)
def test_forward_is_merged_is_a_dense_edit(unet, rank):
    unet.add_adapter(SVFitConfig(r=rank, base_dtype="float16"), "a")
    base = run(unet)
    randomise(unet, "a")
    forward = run(unet)
    unet.fuse_lora()
    merged = run(unet)
    unet.unfuse_lora()
    assert distance(forward, base) > 1e-2
    assert distance(merged, forward) < 1e-5
    assert distance(run(unet), forward) < 1e-5
    assert distance(densely_edited(unet, {"a": 1}), forward) < 1e-5


def test_strength_scales_the_edit(unet):
    unet.add_adapter(SVFitConfig(r=3, base_dtype="float16"), "a")
    randomise(unet, "a")
    unet.set_adapters(["a"], [0.3])
    weak = run(unet)
    assert distance(densely_edited(unet, {"a": 0.3}), weak) < 1e-5


def test_two_concepts_add(unet):
    for i, name in enumerate("ab"):
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        unet.add_adapter(SVFitConfig(r=3 + i, base_dtype="float16"), name)
        randomise(unet, name, seed=i)
    layer = next(iter(layers(unet).values()))
    assert len(layer.svfit_U) == 1  # one basis for both
    unet.set_adapters(["a", "b"], [0.5, 0.8])
    both = run(unet)
    assert distance(densely_edited(unet, {"a": 0.5, "b": 0.8}), both) < 1e-5


def test_disable_delete_and_unmerge_give_the_base(unet):
    base = run(unet)
    unet.add_adapter(SVFitConfig(r=3), "a")
    randomise(unet, "a")
    unet.disable_adapters()
    assert torch.equal(run(unet), base)
    unet.enable_adapters()
    unet.delete_adapters("a")
    assert torch.equal(run(unet), base)
    assert not next(iter(layers(unet).values())).svfit_U


@pytest.mark.parametrize(("rank", "rows", "dense_path"), [(3, 7, False), ("full", 900, True)])
def test_only_deltas_train_and_gradients_are_those_of_the_dense_edit(unet, rank, rows, dense_path):
    unet.add_adapter(SVFitConfig(r=rank), "a")
    randomise(unet, "a")
    trained = [n for n, p in unet.named_parameters() if p.requires_grad]
    assert trained and all(".svfit_delta.a" in n for n in trained)
    layer = next(iter(layers(unet).values()))
    x = torch.randn(rows, layer.in_features)
    assert layer._dense_is_cheaper(x, ["a"]) == dense_path
    layer(x).square().mean().backward()
    delta = layer.svfit_delta["a"]
    dense = delta.detach().clone().requires_grad_()
    edit = (layer.svfit_U["|"] * dense) @ layer.svfit_V["|"].T
    nn.functional.linear(x, layer.weight + edit, layer.bias).square().mean().backward()
    assert torch.allclose(delta.grad, dense.grad, rtol=1e-4, atol=1e-5)


def test_autograd_keeps_r_numbers_a_row():
    layer = nn.Linear(64, 64).requires_grad_(False)
    model = get_peft_model(nn.Sequential(layer), SVFitConfig(r=4, target_modules=["0"]))
    x, saved = torch.randn(1000, 64, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        model(x)
    assert max(t.numel() for t in saved if t.shape[:1] == (1000,)) == 4 * 1000


def test_no_weight_is_built_where_it_would_be_rounded_or_lies_elsewhere(unet):
    unet.add_adapter(SVFitConfig(r="full"), "a")
    layer = next(iter(layers(unet).values()))
    x = torch.randn(900, layer.in_features)
    with torch.no_grad():
        assert layer._dense_is_cheaper(x, ["a"])
        with torch.autocast("cpu", torch.bfloat16):
            assert not layer._dense_is_cheaper(x, ["a"])
        layer.base_layer.forward = layer.base_layer.forward  # as accelerate's hooks leave it
        assert not layer._dense_is_cheaper(x, ["a"])
        assert not layer.half()._dense_is_cheaper(x.half(), ["a"])


@pytest.mark.slow
def test_a_compiled_block_is_one_graph_and_survives_a_swap(pipe):
    """No graph break of ours, and no recompilation when another concept takes the place."""
    one, two = make_concept(pipe, seed=1), make_concept(pipe, seed=2)
    load_concept(pipe, one, name="rex")
    block = pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0]
    x = torch.randn(2, 16, block.attn1.to_q.in_features)
    words = {"encoder_hidden_states": torch.randn(2, 5, pipe.unet.config.cross_attention_dim)}
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(x, **words), block(x, **words), atol=1e-5)
        swap_concept(pipe, "rex", two)
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert torch.allclose(compiled(x, **words), block(x, **words), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [4, 400])
def test_a_compiled_layer_takes_any_strength_without_compiling_anew(rows):
    model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), SVFitConfig(r=4, target_modules=["0"]))
    layer, x = model.base_model.model[0], torch.randn(rows, 64)
    torch._dynamo.reset()
    with torch.no_grad():
        layer.svfit_delta["default"].normal_()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        for strength in torch.linspace(0, 2, 12).tolist():  # dynamo gives up after 8 graphs
            layer.set_scale("default", strength)
            assert torch.allclose(compiled(x), layer(x), atol=1e-5)


def test_half_precision_base_keeps_float32_deltas(unet):
    unet.half().add_adapter(SVFitConfig(r=3), "a")
    layer = next(iter(layers(unet).values()))
    assert layer.svfit_delta["a"].dtype == torch.float32
    assert layer(torch.randn(2, layer.in_features).half()).dtype == torch.float16


def test_safe_merge_refuses_nan_and_leaves_the_weight():
    model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), SVFitConfig(r=2, target_modules=["0"]))
    layer = model.base_model.model[0]
    before = layer.weight.clone()
    layer.svfit_delta["default"].data[0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layer.weight, before)


def test_save_and_load_through_peft(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    config = SVFitConfig(r=3, target_modules=["0", "2"], init_weights=False)
    model = get_peft_model(net, config)
    x = torch.randn(4, 8)
    want = model(x)
    model.save_pretrained(tmp_path)
    from peft import PeftModel

    plain = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    plain.load_state_dict(model.unload().state_dict())
    again = PeftModel.from_pretrained(plain, tmp_path)
    assert torch.allclose(again(x), want, atol=1e-6)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 1000
    assert torch.allclose(again.merge_and_unload()(x), want, atol=1e-5)


def test_a_second_adapter_through_peft():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    model = get_peft_model(net, SVFitConfig(r=2, target_modules=["0"]))
    model.add_adapter("b", SVFitConfig(r=3, target_modules=["0", "1"], init_weights=False))
    x = torch.randn(2, 8)
    base = model(x)
    model.set_adapter("b")
    edited = model(x)
    assert not torch.allclose(edited, base)
    model.delete_adapter("default")
    assert torch.equal(model(x), edited)
    model.merge_adapter()
    assert torch.allclose(model(x), edited, atol=1e-6)


def test_a_quantised_linear_through_pefts_interface(monkeypatch):
    def resolve(module, **_):
        return QuantisedBackend() if isinstance(module, Quantised) else None

    for module in ("svfit_diffusion.adapter.layer", "svfit_diffusion.adapter.tuner", "peft.utils"):
        monkeypatch.setattr(f"{module}.resolve_quantization_backend", resolve)
    net = nn.Sequential(Quantised(nn.Linear(12, 10)))
    dense = (net[0].weight * net[0].scale).double()
    model = get_peft_model(net, SVFitConfig(r=2, target_modules=["0"]))
    layer = model.base_model.model[0]
    layer.svfit_delta["default"].data = torch.tensor([0.4, -0.3])
    u, _, vt = torch.linalg.svd(dense, full_matrices=False)
    x = torch.randn(5, 12)
    want = x.double() @ (dense + (u[:, :2] * torch.tensor([0.4, -0.3])) @ vt[:2]).T
    assert torch.allclose(model(x).double(), want, atol=1e-5)
    model.merge_adapter()
    assert torch.allclose(model(x).double(), want, atol=0.1)
    layer.quantization_backend.supports_merge = False
    layer.merged_adapters.clear()
    with pytest.raises(ValueError, match="int8"):
        model.merge_adapter()


def test_wrong_settings_are_told():
    with pytest.raises(ValueError, match="base_dtype"):
        SVFitConfig(base_dtype="float99")
    with pytest.raises(ValueError, match="LayerNorm"):
        get_peft_model(nn.Sequential(nn.LayerNorm(4)), SVFitConfig(target_modules=["0"]))
    with pytest.raises(TypeError, match="ranks"):
        SVFitConfig(ranks=3)


def test_set_deltas_wants_all_names(unet):
    unet.add_adapter(SVFitConfig(r=2), "a")
    deltas = get_deltas(unet, "a")
    deltas.popitem()
    with pytest.raises(ValueError, match="different projections"):
        set_deltas(unet, "a", deltas)
    assert all(isinstance(layer, SVFitLinear) for layer in layers(unet).values())
