r"""Sums over pixels of a softmax against ids, and their derivative, written by hand.

With :math:`p = \operatorname{softmax}(x)` and the pixel's class g, the sums are

.. math:: tp_c = \sum_{g=c} p_c, \quad fn_c = \sum_{g=c} (1 - p_c), \quad
          fp_c = \sum_{g \ne c} p_c, \quad tn_c = \sum_{g \ne c} (1 - p_c), \quad
          s_c = \sum_{g=c} -\log p_c

so that only ``fp`` and ``tn`` need every class of every pixel; the others need the probability of
the pixel's own class, and are summed by segments. With the sums' cotangents (barred),
:math:`A = \bar{tp} - \bar{fn}` and :math:`B = \bar{fp} - \bar{tn}`, the gradient is

.. math:: \bar x_c = p_c \left(B_c + \bar s_g - \textstyle\sum_k p_k B_k - p_g (A_g - B_g)\right)
          + [g = c] \left(p_g (A_g - B_g) - \bar s_g\right)

which needs the probabilities alone, not the logits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxseg._labels import membership

Sums = tuple[Array, Array, Array, Array, Array]


def forward(x: Array, index: Array, where: Array | None, turned: bool) -> tuple[Sums, Array]:
    """``(tp, fp, fn, tn, s)`` ``[*others, C]``, and the probabilities.

    Args:
      x: logits ``[*others, pixels, C]`` in float32 or better, 0 where masked.
      index: each pixel's class ``[*others, pixels]``, int32; C is none.
      where: bool ``[*others, pixels]`` or None.
      turned: whether to compute with the pixels last, ``[*others, C, pixels]``: a CPU's vectors are
        filled along the last axis.
    """
    axis = -2 if turned else -1
    own = _own(x, index)
    # Barriers: XLA would turn, or take the exponential, once for each use.
    x = lax.optimization_barrier(jnp.swapaxes(x, -1, -2)) if turned else x
    top = lax.optimization_barrier(x.max(axis))
    has_class = index < x.shape[axis]
    is_own = membership(index, x.shape[axis], axis)
    # The own class apart from the others, so that 1 - p is not the difference of nearly equals.
    own_exp = jnp.where(has_class, jnp.exp(own - top), 0)
    exp = jnp.exp(x - jnp.expand_dims(top, axis))
    exp = lax.optimization_barrier(jnp.where(is_own, jnp.zeros((), x.dtype), exp))
    other_exp = _over_classes(exp, axis)
    total = other_exp + own_exp
    valid = jnp.ones_like(top) if where is None else where.astype(x.dtype)
    scale = valid / total
    p_own, p_other = own_exp * scale, jnp.where(has_class, other_exp * scale, 0)
    surprise = jnp.where(has_class, top - own + jnp.log(total), 0)
    tp, fn, s = (_by_class(v, index, x.shape[axis]) for v in (p_own, p_other, surprise))
    p = exp * jnp.expand_dims(scale, axis)
    fp = _over_pixels(exp, scale, axis)
    miss = jnp.where(is_own, jnp.zeros((), x.dtype), jnp.expand_dims(valid, axis) - p)
    tn = miss.sum(-1 if turned else -2)
    p = jnp.where(is_own, jnp.expand_dims(p_own, axis), p)
    return (tp, fp, fn, tn, s), jnp.swapaxes(p, -1, -2) if turned else p


def backward(p: Array, index: Array, cotangents: Sums, turned: bool) -> Array:
    """Gradient ``[*others, pixels, C]`` of the logits, from ``forward``'s probabilities."""
    axis = -2 if turned else -1
    tp, fp, fn, tn, s = cotangents
    b = fp - tn
    p_own = _own(p, index)
    p = lax.optimization_barrier(jnp.swapaxes(p, -1, -2)) if turned else p
    more = p_own * _of_class(tp - fn - b, index)
    s_own = _of_class(s, index)
    inner = jnp.einsum(
        "...cn,...c->...n" if turned else "...nc,...c->...n", p, b, precision="highest"
    )
    common = lax.optimization_barrier(s_own - inner - more)
    b = b[..., None] if turned else b[..., None, :]
    gradient = p * (b + jnp.expand_dims(common, axis))
    is_own = membership(index, p.shape[axis], axis)
    gradient += jnp.where(is_own, jnp.expand_dims(more - s_own, axis), jnp.zeros((), p.dtype))
    return jnp.swapaxes(gradient, -1, -2) if turned else gradient


def _own(x: Array, index: Array) -> Array:
    """``x`` of each pixel's class; of the last one where it has none."""
    index = jnp.minimum(index, x.shape[-1] - 1)[..., None]
    return jnp.take_along_axis(x, index, -1, mode="promise_in_bounds")[..., 0]


def _of_class(table: Array, index: Array) -> Array:
    """``table[..., index]``, and 0 for C, which is no class."""
    table = jnp.concatenate([table, jnp.zeros_like(table[..., :1])], -1)
    return jnp.take_along_axis(table, index, -1, mode="promise_in_bounds")


def _by_class(values: Array, index: Array, classes: int) -> Array:
    """Sum of each class's pixels ``[*others, C]``.

    By a scatter on CPU; elsewhere its order, and so its rounding, would vary from run to run.
    """

    def scatter(values: Array, index: Array) -> Array:
        def one(values: Array, index: Array) -> Array:
            return jnp.zeros(classes, values.dtype).at[index].add(values, mode="drop")

        for _ in range(index.ndim - 1):
            one = jax.vmap(one)
        return one(values, index)

    def select(values: Array, index: Array) -> Array:
        is_own = membership(index, classes)
        return jnp.where(is_own, values[..., None], jnp.zeros((), values.dtype)).sum(-2)

    return lax.platform_dependent(values, index, cpu=scatter, default=select)


def _over_classes(exp: Array, axis: int) -> Array:
    """Sum over the classes; on CPU by a product with ones where they are last."""
    if axis == -2:
        return exp.sum(axis)

    def product(exp: Array) -> Array:
        ones = jnp.ones(exp.shape[-1], exp.dtype)
        return jnp.einsum("...nc,c->...n", exp, ones, precision="highest")

    return lax.platform_dependent(exp, cpu=product, default=lambda exp: exp.sum(-1))


def _over_pixels(exp: Array, scale: Array, axis: int) -> Array:
    """``sum_n exp_nc scale_n``; on CPU as a product, without an array of the terms."""

    def product(exp: Array, scale: Array) -> Array:
        form = "...cn,...n->...c" if axis == -2 else "...nc,...n->...c"
        return jnp.einsum(form, exp, scale, precision="highest")

    def plain(exp: Array, scale: Array) -> Array:
        return (exp * jnp.expand_dims(scale, axis)).sum(-1 if axis == -2 else -2)

    return lax.platform_dependent(exp, scale, cpu=product, default=plain)
