"""Softmax attention of random heads.

The queries q and keys k of a head are normal vectors of few channels, so that
the scores of a head stay random however wide the model is. The moments of what
leaves it are therefore means over heads, which are drawn here. For the
attention weights A of the query at p and the key at t, values v and outputs o,

    A_pt = softmax_t(scale q_p . k_t),   o_p = sum_t A_pt v_t
    E o_p o_p' = E sum_tt' A_pt A_p't' E v_t v_t'

and a gradient g of o becomes gradients of the scores S, q, k and v

    dv_t = sum_p A_pt g_p,    dS_pt = A_pt g_p . (v_t - o_p)
    dq_p = scale sum_t dS_pt k_t,    dk_t = scale sum_p dS_pt q_p

Reference: Hron et al., arXiv:2006.10540, for the limit; the gradient is
derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Head(NamedTuple):
    """Second moments of what enters attention, and its shape.

    Attributes:
        query: Array `(samples queries, samples queries)`. E q q of a channel.
        key: Array `(samples keys, samples keys)`. E k k of a channel.
        value: Array `(samples keys, samples keys)`. E v v of a channel.
        samples: int. The number of samples.
        key_channels: int. The channels of q and k.
        value_channels: int. The channels of v.
        scale: float. What multiplies the scores.
        mask: Array `(queries, keys)` or `(samples, queries, keys)` of bool, or
            None. Which keys a query sees.
    """

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    samples: int
    key_channels: int
    value_channels: int
    scale: float
    mask: np.ndarray | None


def _draws(
    rng: np.random.Generator, second: np.ndarray, channels: int, samples: int
) -> np.ndarray:
    """Returns normal channels, of shape `(samples, positions, channels)`."""
    scale, vectors = np.linalg.eigh(second)
    root = vectors * np.sqrt(np.maximum(scale, 0))
    z = root @ rng.standard_normal((len(second), channels))
    return z.reshape(samples, -1, channels)


def _weights(rng: np.random.Generator, head: Head) -> tuple[np.ndarray, ...]:
    """Returns queries, keys and attention weights of one drawn head."""
    q = _draws(rng, head.query, head.key_channels, head.samples)
    k = _draws(rng, head.key, head.key_channels, head.samples)
    scores = head.scale * q @ k.swapaxes(1, 2)
    if head.mask is not None:
        scores = np.where(head.mask, scores, -np.inf)
    scores -= scores.max(axis=2, keepdims=True)
    weights = np.exp(scores)
    return q, k, weights / weights.sum(axis=2, keepdims=True)


def _mixed(
    left: np.ndarray, second: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Returns sum_tt' L_apt K_atbt' R_bp't', as a matrix."""
    samples, positions, inner = left.shape
    tensor = second.reshape(samples, inner, samples, inner)
    half = np.einsum("apt,atbu->apbu", left, tensor, optimize=True)
    full = np.einsum("apbu,bqu->apbq", half, right, optimize=True)
    size = samples * positions
    return full.reshape(size, size)


def attended(head: Head, heads: int, seed: int) -> np.ndarray:
    """Returns E o o of a channel of the output.

    Args:
        head: Head. What enters.
        heads: int. The number of heads to draw.
        seed: int. Their seed.

    Returns:
        Array of shape `(samples queries, samples queries)`.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(head.query.shape)
    for _ in range(heads):
        *_, weights = _weights(rng, head)
        total += _mixed(weights, head.value, weights)
    return total / heads


def attended_gradients(
    head: Head, gradient: np.ndarray, heads: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns E dq dq, E dk dk and E dv dv of a channel.

    Args:
        head: Head. What enters.
        gradient: Array `(samples queries, samples queries)`. E g g of a channel
            of the output.
        heads: int. The number of heads to draw.
        seed: int. Their seed.
    """
    rng = np.random.default_rng(seed)
    sums = [np.zeros(m.shape) for m in (head.query, head.key, head.value)]
    for _ in range(heads):
        q, k, weights = _weights(rng, head)
        g = _draws(rng, gradient, head.value_channels, head.samples)
        v = _draws(rng, head.value, head.value_channels, head.samples)
        products = g @ v.swapaxes(1, 2)
        mean = (weights * products).sum(axis=2, keepdims=True)
        scores = head.scale * weights * (products - mean)
        for i, back in enumerate((scores @ k, scores.swapaxes(1, 2) @ q)):
            flat = back.reshape(-1, head.key_channels)
            sums[i] += flat @ flat.T / head.key_channels
        turned = weights.swapaxes(1, 2)
        sums[2] += _mixed(turned, gradient, turned)
    dq, dk, dv = (total / heads for total in sums)
    return dq, dk, dv
