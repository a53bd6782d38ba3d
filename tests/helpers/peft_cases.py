"""A pytest plugin for PEFT's own test-suite: its lists of methods, with SVFit in their place.

The lists are changed in place before the tests are collected, so not a line of the suite is ours.
"""

import sys
import types

import pytest

from svfit_diffusion import SVFitConfig

CASES = {
    "one layer by suffix": ("MLP", {"target_modules": "lin0", "r": 2}),
    "one layer": ("MLP", {"target_modules": ["lin0"], "r": 2}),
    "the other layer": ("MLP", {"target_modules": ["lin1"], "r": 2}),
    "both layers": ("MLP", {"target_modules": ["lin0", "lin1"], "r": 2}),
    "a classifier": ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"], "r": 2}),
    "all but one": ("MLP", {"target_modules": ["lin0", "lin1"], "exclude_modules": ["lin1"]}),
    "full rank": ("MLP", {"target_modules": ["lin0", "lin1"], "r": "full"}),
    "energy": ("MLP", {"target_modules": ["lin0", "lin1"], "r": "energy=0.9"}),
    "patterns": ("MLP", {"target_modules": ["lin0", "lin1"], "rank_pattern": {"lin1": 1}}),
    "equal shapes": ("MLP2", {"target_modules": ["lin0", "lin1"], "r": 3}),
    "a common vector": ("MLP", {"target_modules": ["lin0", "lin1"], "r": 2, "common": 64}),
    "beside a norm": ("MLP_LayerNorm", {"target_modules": ["lin0", "lin1"], "r": 2}),
    "beside a convolution": ("Conv2d", {"target_modules": ["lin0"], "r": 2}),
    "beside an embedding": ("EmbConv1D", {"target_modules": ["lin0"], "r": 2}),
    "beside attention": ("MHA", {"target_modules": ["lin0"], "r": 2}),
}
PAIRS = {
    "SVFit Same": ({"target_modules": ["lin0"]}, {"target_modules": ["lin0"]}),
    "SVFit Different": ({"target_modules": ["lin0"]}, {"target_modules": ["lin1"]}),
}

HALF = "deltas are float32 whatever the base is: in half precision small updates round to nothing"
FAILING = {  # name of a test, as pytest gives it, without the case -> why it must fail
    f"test_adapter_dtype_autocast[{low}-False-dtype{dtype}": HALF
    for low in (False, True)
    for dtype in (0, 1)
}


def pytest_configure(config):
    """Put our cases into the suite's lists."""
    stub = types.ModuleType("datasets")  # imported by the suite, used by none of these tests
    stub.load_dataset = stub.Dataset = None
    sys.modules.setdefault("datasets", stub)
    from tests import test_custom_models as suite

    suite.TEST_CASES[:] = [(n, model, SVFitConfig, given) for n, (model, given) in CASES.items()]
    suite.ALL_PEFT_CONFIG_CLASSES[:] = [SVFitConfig]
    plain = {"r": 2, "init_weights": False}
    suite.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES[:] = [
        (name, "svfit", SVFitConfig, plain | one, plain | two) for name, (one, two) in PAIRS.items()
    ]


def pytest_collection_modifyitems(config, items):
    """Keep what tests a method of the lists; mark what must fail."""
    ours = [item for item in items if _about_us(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in ours])
    items[:] = ours
    for item in items:
        for name, reason in FAILING.items():
            if item.name.startswith(name):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _about_us(item):
    given = getattr(item, "callspec", None)
    return given is not None and given.params.get("config_cls") is SVFitConfig
