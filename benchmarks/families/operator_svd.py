"""Singular vectors that are learned, as NestedLoRA learns those of an operator, beside ours.

    python -m benchmarks.families.operator_svd

NestedLoRA ("Operator SVD with Neural Networks via Nested Low-Rank Approximation", arXiv 2402.03655)
finds leading singular functions of an operator by gradient descent: the best approximations of all
ranks up to r at once,

    sum_i |W - sum_{j <= i} f_j g_j^T|^2 / r,

so that f_j g_j^T becomes the j-th singular triple. It is meant for operators that can only be
sampled; a projection's weight is there, and so is LAPACK. Here it is given the whole weight in each
step, which is its best case, in double precision and by Adam with a rate that falls to 0.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from svfit_diffusion.adapter.attention import find_projections
from svfit_diffusion.adapter.basis import Basis, factorize
from svfit_diffusion.families import TOYBOX, load_base

RANK, STEPS, RATE = 16, (100, 1000, 10_000), 3e-2


def learned(W: Tensor, steps: int) -> Basis:
    """The top triples of W [out, in], after so many steps."""
    torch.manual_seed(0)
    scale = torch.linalg.matrix_norm(W, 2)
    f = (torch.randn(len(W), RANK, dtype=W.dtype) / len(W) ** 0.5).requires_grad_(True)
    g = (torch.randn(W.shape[1], RANK, dtype=W.dtype) / W.shape[1] ** 0.5).requires_grad_(True)
    weight = torch.arange(RANK, 0, -1, dtype=W.dtype) / RANK  # of the ranks that have a direction
    both = torch.minimum(weight[:, None], weight)
    optimizer = torch.optim.Adam([f, g], RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        found = weight @ (f * ((W / scale) @ g)).sum(0)
        loss = (both * (f.T @ f) * (g.T @ g)).sum() - 2 * found
        loss.backward()
        optimizer.step()
        schedule.step()
    U, V = (torch.nn.functional.normalize(x.detach(), dim=0) for x in (f, g))
    return Basis(U, scale * f.detach().norm(dim=0) * g.detach().norm(dim=0), V, torch.arange(RANK))


def error(W: Tensor, found: Basis) -> float:
    """Of an edit that adds a tenth to each singular value, against that of LAPACK's, relative."""
    U, s, Vh = torch.linalg.svd(W)
    true = (U[:, :RANK] * s[:RANK]) @ Vh[:RANK]
    edit = (found.U.double() * s[:RANK]) @ found.V.double().T
    return float((edit - true).norm() / true.norm())


def main() -> None:
    """The median over Toybox's projections of each shape: seconds of one core, and the error."""
    torch.set_num_threads(1)
    denoiser = load_base(TOYBOX).unet
    shapes: dict[tuple[int, ...], list[Tensor]] = {}
    for name in find_projections(denoiser):
        W = denoiser.get_submodule(name).weight.detach().double()
        shapes.setdefault(tuple(W.shape), []).append(W)
    print("| weight | how | seconds | error of an edit, median | largest |")
    print("|---|---|---|---|---|")
    for shape, weights in sorted(shapes.items()):
        ways = {"by factorize": lambda W: factorize(W, RANK)}
        ways |= {f"{n} steps": lambda W, n=n: learned(W, n) for n in STEPS}
        for way, find in ways.items():
            start = time.process_time()
            found = [find(W) for W in weights[:4]]
            seconds = (time.process_time() - start) / len(found)
            errors = sorted(error(W, basis) for W, basis in zip(weights, found, strict=False))
            median = errors[len(errors) // 2]
            print(f"| {shape} | {way} | {seconds:.4f} | {median:.1e} | {errors[-1]:.1e} |")


if __name__ == "__main__":
    main()
