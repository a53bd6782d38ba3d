"""The edit of a projection by dense algebra in numpy, written from docs/concept-format.md alone."""

import hashlib

import numpy as np


def numbers(text, length):
    return np.frombuffer(hashlib.shake_256(text.encode()).digest(2 * length), "<u2").astype(int)


def arrangement(path, u, in_, common):
    """M [in, r] of a projection; path: of the module, without text_model."""
    size = len(common)
    a, b = numbers(f"{path}|rows", in_), numbers(f"{path}|columns", u.shape[1])
    turned = (numbers(f"{path}|signs", len(u)) - 32767.5) @ u < 0
    places = (a % (2 * size))[:, None] ^ np.where(turned, b ^ size, b) % (2 * size)
    return np.where(places < size, 1, -1) * common[places % size] / 32


def edit(path, weight, delta, common=None):
    """U (V diag(delta) + M)^T of a weight [out, in], which holds no equal singular values."""
    u, _, vt = np.linalg.svd(np.asarray(weight, float), full_matrices=False)
    u, reads = u[:, : len(delta)], vt[: len(delta)].T * np.asarray(delta, float)
    if common is not None:
        reads = reads + arrangement(path, u, len(reads), np.asarray(common, float))
    return u @ reads.T
