"""Small inputs of every kind for losses, and their comparison with the plain formulas.

``test_values`` compares all losses in float64. Here are the kinds of input and of argument that are
not in it, in float32.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import reference
from cases import ONE_ACTIVATION
from scipy import ndimage

import jaxseg

PLANE, VOLUME = (2, 6, 7), (2, 4, 5, 3)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def blobs(seed: int, *shape: int) -> np.ndarray:
    """Smooth noise of standard deviation 1 on each map of ``[B, *space, C]``."""
    noise = rng(seed).standard_normal(shape)
    smooth = ndimage.gaussian_filter(noise, [0, *([0.8] * (len(shape) - 2)), 0])
    return smooth / smooth.std()


class Inputs(NamedTuple):
    """Logits (or probabilities) and labels, and the arguments that come with them."""

    x: np.ndarray
    labels: np.ndarray
    activation: str | None = "softmax"
    where: np.ndarray | None = None

    @property
    def image(self) -> tuple[int, ...]:
        """The axes of one image's map."""
        return tuple(range(1, self.x.ndim - 1))


def logits(seed: int, shape: tuple[int, ...], classes: int) -> np.ndarray:
    rough = rng(seed).standard_normal((*shape, classes))
    return (2.5 * blobs(seed + 1, *shape, classes) + 0.5 * rough).astype(np.float32)


def ids(seed: int, shape: tuple[int, ...], classes: int) -> np.ndarray:
    if classes == 1:
        return (blobs(seed, *shape, 1)[..., 0] > 0.3).astype(np.int32)
    return blobs(seed, *shape, classes).argmax(-1)


def hidden(inputs: Inputs, seed: int = 90) -> Inputs:
    """A quarter of the pixels masked; what they hold has no meaning."""
    x, labels = inputs.x, inputs.labels
    where = rng(seed).random(x.shape[:-1]) < 0.75
    nothing = True if labels.dtype == bool else np.nan if labels.dtype.kind == "f" else 255
    valid = where if labels.ndim < x.ndim else where[..., None]
    labels = np.where(valid, labels, np.array(nothing).astype(labels.dtype))
    return inputs._replace(
        x=np.where(where[..., None], x, np.float32(np.nan)), labels=labels, where=where
    )


def outside(labels: np.ndarray) -> np.ndarray:
    """No pixel of class 2, and a tenth of no class, without a mask."""
    labels = np.where(labels == 2, 0, labels)
    return np.where(rng(91).random(labels.shape) < 0.1, 255, labels).astype(np.uint8)


INPUTS = {
    "plane-2": Inputs(logits(1, PLANE, 2), ids(2, PLANE, 2)),
    "plane-3-where": hidden(Inputs(logits(4, PLANE, 3), ids(5, PLANE, 3).astype(np.uint8))),
    "plane-5-outside": Inputs(logits(7, PLANE, 5), outside(ids(8, PLANE, 5))),
    "volume-3-where": hidden(
        Inputs(logits(10, VOLUME, 3), reference.one_hot(ids(11, VOLUME, 3), 3))
    ),
    "plane-3-probs": Inputs(
        rng(13).dirichlet(np.ones(3), PLANE).astype(np.float32),
        reference.one_hot(ids(14, PLANE, 3), 3).astype(np.float32),
        None,
    ),
    "volume-2-soft": Inputs(
        logits(16, VOLUME, 2), rng(17).dirichlet(np.ones(2), VOLUME).astype(np.float32)
    ),
    "plane-1-where": hidden(Inputs(logits(19, PLANE, 1), ids(20, PLANE, 1), "sigmoid")),
    "volume-1": Inputs(logits(22, VOLUME, 1), ids(23, VOLUME, 1)[..., None] > 0, "sigmoid"),
    "plane-3-masks": Inputs(logits(25, PLANE, 3), blobs(26, *PLANE, 3) > 0.4, "sigmoid"),
}
# Of one class, these are losses of "not it", of logit 0, and "it".
OF_TWO_CLASSES = (
    "cross_entropy_loss",
    "softmax_focal_loss",
    "nacl_loss",
    "top_k_loss",
    "ohem_loss",
)


class Case(NamedTuple):
    """A loss, an input and the arguments; its name is the test's."""

    loss: str
    inputs: str
    options: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.loss}-{self.inputs}"


def case(loss: str, inputs: str, *, per_image: bool = False, **options: Any) -> Case:
    """A case with the activation and the mask of its inputs, where the loss takes them."""
    given, taken = INPUTS[inputs], inspect.signature(getattr(jaxseg, loss)).parameters
    if "activation" in taken and loss not in ONE_ACTIVATION:
        options["activation"] = given.activation
    if given.where is not None:
        options["where"] = given.where
    if per_image:
        options["axis"] = given.image
    return Case(loss, inputs, options)


def arrays(options: dict[str, Any]) -> dict[str, Any]:
    """Options as jaxseg takes them: lists as arrays."""
    return {k: np.float32(v) if isinstance(v, list) else v for k, v in options.items()}


def plain(loss: str, classes: int) -> Callable[..., Any]:
    """The loss's plain form; of one class, some are those of two."""
    function = getattr(reference, loss)
    if classes > 1 or loss not in OF_TWO_CLASSES:
        return function
    return lambda x, labels, **options: function(*reference.two_classes(x, labels), **options)


def with_gradient(function: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, np.ndarray]]:
    """Value of a function, and the gradient of its sum: compiled once."""

    def total(x):
        value = function(x)
        return value.sum(), value

    run = jax.jit(jax.grad(total, has_aux=True))

    def both(x):
        gradient, value = run(x)
        return np.asarray(value), np.asarray(gradient)

    return both


def assert_as_plain_formula(case: Case, rtol: float = 1e-5, atol: float = 2e-6) -> None:
    """Value of the float64 formula; gradient of its central differences in three directions."""
    x, labels = INPUTS[case.inputs].x, INPUTS[case.inputs].labels
    x64, formula = x.astype(np.float64), plain(case.loss, x.shape[-1])
    expected = np.asarray(formula(x64, labels, **case.options))
    weights = rng(95).uniform(0.5, 1.5, expected.shape).astype(np.float32)
    function = functools.partial(getattr(jaxseg, case.loss), **arrays(case.options))

    def total(x):
        value = function(x, labels)
        assert value.dtype == jnp.float32
        assert value.shape == expected.shape
        return (value * weights).sum(), value

    gradient, value = jax.jit(jax.grad(total, has_aux=True))(x)
    np.testing.assert_allclose(value, expected, rtol=rtol, atol=atol)
    gradient, where = np.asarray(gradient, np.float64), case.options.get("where")
    assert np.isfinite(gradient).all()
    if where is not None:
        assert (gradient[~where] == 0).all()
    step = 1e-6
    for direction in rng(96).standard_normal((3, *x.shape)):
        ahead, behind = (
            (weights * formula(x64 + h * direction, labels, **case.options)).sum()
            for h in (step, -step)
        )
        terms = gradient * direction
        tolerance = 3 * rtol * np.abs(terms).sum() + atol
        slope = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(terms.sum(), slope, rtol=0, atol=tolerance)


SIDES = (0, 1, 2, 3, 6)


def false_positives(loss: Callable[..., Any], classes: int = 1) -> list[float]:
    """Sums of a loss of an image without an object, of which squares are predicted as class 1."""
    run, values = with_gradient(lambda x: loss(x, jnp.zeros((1, 6, 6), jnp.int32))), []
    for side in SIDES:
        positive = np.zeros((1, 6, 6, 1), bool)
        positive[:, :side, :side] = True
        x = np.where(positive, 4.0, -9.0)
        rest = np.full((1, 6, 6, classes - 2), -9.0) if classes > 2 else x[..., :0]
        x = x if classes == 1 else np.concatenate([-x, x, rest], -1)
        value, gradient = run(x.astype(np.float32))
        assert np.isfinite(value).all()
        assert np.isfinite(gradient).all()
        values.append(float(value.sum()))
    return values
