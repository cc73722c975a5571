"""The maximum of ResNet's stem: XLA's values, and XLA's gradient bit for bit, ties included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from synthaug.models.pooling import max_pool


def xlas(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def numbers(seed: int, *shape: int, dtype: str = "float32") -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "shape", [(2, 8, 8, 3), (1, 7, 8, 2), (3, 8, 5, 1), (1, 9, 9, 4), (2, 2, 1, 1), (1, 1, 1, 2)]
)
@pytest.mark.parametrize("kind", ["distinct", "ties", "negative"])
def test_gradient_is_that_of_xla_bit_for_bit(shape, dtype, kind):
    x = numbers(0, *shape, dtype=dtype)
    if kind == "ties":
        x = jnp.round(
            jnp.maximum(x, 0)
        )  # as behind a ReLU: most squares have several maxima, the first counts
    elif kind == "negative":
        x = -jnp.abs(x)  # the border never wins
    y, pull = jax.vjp(max_pool, x)
    expected, pull_xla = jax.vjp(xlas, x)
    assert y.dtype == x.dtype and np.array_equal(y, expected)
    g = numbers(1, *y.shape, dtype=dtype)
    for found, wanted in ((pull(g)[0], pull_xla(g)[0]), (jax.jit(pull)(g)[0], pull_xla(g)[0])):
        assert found.shape == x.shape and found.dtype == x.dtype
        assert np.array_equal(found, wanted)


def test_every_part_of_the_gradient_arrives_once():
    x = numbers(2, 2, 10, 12, 3)
    y, pull = jax.vjp(max_pool, x)
    assert float(pull(jnp.ones_like(y))[0].sum()) == y.size


def test_a_cpu_does_not_scatter():
    """What makes the difference in time: no select-and-scatter is left in the program."""
    step = jax.jit(jax.grad(lambda x: max_pool(x).sum()))
    assert "select_and_scatter" not in step.lower(numbers(0, 1, 8, 8, 2)).compile().as_text().replace(
        "-", "_"
    )
    theirs = jax.jit(jax.grad(lambda x: xlas(x).sum()))
    assert "select_and_scatter" in theirs.lower(numbers(0, 1, 8, 8, 2)).compile().as_text().replace("-", "_")
