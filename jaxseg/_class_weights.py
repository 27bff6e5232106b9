"""Weights of classes by how frequent they are, for the losses that take ``class_weights``.

Each weighs the classes so that rare ones count more. A class that never occurs gets the largest
weight of those that do: it would be infinite otherwise, and with 0 the class would be left out if
it occurs after all.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxseg import _checks
from jaxseg._counts import Counts
from jaxseg._numerics import safe_divide
from jaxseg._scores import _floats

__all__ = ["inverse_frequency", "effective_number", "median_frequency"]


def inverse_frequency(counts: Counts) -> Array:
    r"""Class weights in inverse proportion to the pixels of each class.

    .. math:: w_c = \frac{\sum_k n_k}{K\,n_c}

    where :math:`n_c = tp_c + fn_c` are the pixels of class c in the truth, and K is the number of
    classes that occur. So each class has the same weight in all, and the mean over pixels is 1.

    Args:
      counts: ``Counts`` with leaves ``[..., C]``, summed over leading axes. Of labels alone they
        are ``counts(labels, labels, num_classes=C)``.

    Returns:
      Float array ``[C]``. A class that never occurs has the largest weight of those that do; if
      none occurs, all are 1.

    Raises:
      TypeError: anything but ``Counts``.
      ValueError: leaves of different shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.array([0, 0, 0, 0, 0, 0, 1, 1])
      >>> c = jaxseg.counts(labels, labels, num_classes=3)
      >>> jaxseg.inverse_frequency(c).tolist()
      [0.6667, 2., 2.]

    References:
      G. King, L. Zeng, "Logistic regression in rare events data", Political Analysis 2001.

    Note:
      Equal to the "balanced" class weights of scikit-learn, which refuses a class that never
      occurs.
    """
    pixels = _pixels(counts).sum(0)
    occurs = pixels > 0
    classes = jnp.maximum(occurs.sum(), 1).astype(pixels.dtype)
    return _of_all_classes(safe_divide(pixels.sum() / classes, pixels, 0.0), occurs)


def effective_number(counts: Counts, *, beta: ArrayLike) -> Array:
    r"""Class weights by the effective number of pixels, which more pixels hardly raise.

    .. math:: w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}, \qquad \sum_c w_c = C

    where :math:`n_c = tp_c + fn_c` are the pixels of class c in the truth.

    Args:
      counts: ``Counts`` with leaves ``[..., C]``, summed over leading axes. Of labels alone they
        are ``counts(labels, labels, num_classes=C)``.
      beta: in [0, 1). From about 1 / (1 - beta) pixels on, all classes weigh the same; with 0 they
        do anyway, and towards 1 the weights become those of ``inverse_frequency``. Values for
        pixels are much closer to 1 than those for images, such as ``1 - 1e-7``.

    Returns:
      Float array ``[C]``, whose sum is C. A class that never occurs has the largest weight of those
      that do; if none occurs, all are 1.

    Raises:
      TypeError: anything but ``Counts``, a ``beta`` that is not a real number.
      ValueError: leaves of different shapes, a ``beta`` outside [0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.array([0, 0, 0, 0, 0, 0, 1, 1])
      >>> c = jaxseg.counts(labels, labels, num_classes=3)
      >>> jaxseg.effective_number(c, beta=0.9).tolist()
      [0.5057, 1.2471, 1.2471]

    References:
      Y. Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019.
    """
    pixels = _pixels(counts).sum(0)
    occurs = pixels > 0
    number = _checks.check_real("beta", beta)
    if isinstance(number, int | float):
        if not 0 <= number < 1:
            raise ValueError(f"beta must be in [0, 1), got {number}.")
        # In float32 the numbers near 1 are 6e-8 apart.
        log_beta = jnp.asarray(math.log(number) if number > 0 else -math.inf, pixels.dtype)
    else:
        log_beta = jnp.log(_checks.check_scalar("beta", number).astype(pixels.dtype))
    weights = -1 / jnp.expm1(jnp.where(occurs, pixels, 1) * log_beta)
    weights = _of_all_classes(jnp.where(occurs, weights, 0), occurs)
    return weights * (weights.size / weights.sum())


def median_frequency(counts: Counts) -> Array:
    r"""Class weights by median frequency balancing.

    .. math:: w_c = \frac{\operatorname{median}_k f_k}{f_c}, \qquad
              f_c = \frac{\sum_i n_{ic}}{\sum_{i : n_{ic} > 0} N_i}

    where :math:`n_{ic} = tp_{ic} + fn_{ic}` are the pixels of class c in the truth of image i, and
    :math:`N_i` all its pixels. The median is over the classes that occur.

    Args:
      counts: ``Counts`` with leaves ``[..., C]``, in which leading axes are images: a class is
        compared with the images that it occurs in. Of labels alone they are ``counts(labels,
        labels, num_classes=C, axis=(1, 2))``. Leaves ``[C]`` are taken for one image.

    Returns:
      Float array ``[C]``. A class that never occurs has the largest weight of those that do; if
      none occurs, all are 1.

    Raises:
      TypeError: anything but ``Counts``.
      ValueError: leaves of different shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxseg
      >>> labels = jnp.array([[0, 0, 0, 1], [0, 2, 2, 2], [0, 0, 0, 0]])
      >>> c = jaxseg.counts(labels, labels, num_classes=3, axis=1)
      >>> jaxseg.median_frequency(c).tolist()
      [1., 2.6667, 0.8889]

    References:
      D. Eigen, R. Fergus, "Predicting depth, surface normals and semantic labels with a common
      multi-scale convolutional architecture", ICCV 2015.
    """
    pixels = _pixels(counts)
    all_pixels = sum(leaf.reshape(pixels.shape) for leaf in _floats(counts))
    of_images = jnp.where(pixels > 0, all_pixels, 0).sum(0)
    occurs = of_images > 0
    frequencies = safe_divide(pixels.sum(0), of_images, 0.0)
    # Classes that never occur come first.
    ordered, absent = jnp.sort(frequencies), (~occurs).sum()
    middle = absent + (occurs.sum() + jnp.array([-1, 0])) // 2
    median = ordered[jnp.clip(middle, 0, ordered.size - 1)].mean()
    return _of_all_classes(safe_divide(median, frequencies, 0.0), occurs)


def _pixels(counts: Counts) -> Array:
    """The pixels of each class in the truth, ``[n, C]``."""
    tp, _, fn, _ = _floats(counts)
    return (tp + fn).reshape(-1, tp.shape[-1])


def _of_all_classes(weights: Array, occurs: Array) -> Array:
    """The weights, with the largest one for classes that never occur; 1 if none does."""
    return jnp.where(occurs, weights, jnp.where(occurs.any(), weights.max(), 1))
