"""Vision transformers: ViT (Dosovitskiy et al. 2021), DeiT (Touvron et al. 2021) and small ones.

Two kinds by the settings: a class token with learned positions (ViT, DeiT), or the mean over all patches with
sines and cosines as positions ("better plain ViT", Beyer et al. 2022, big_vision).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from synthaug import experiment, rng
from synthaug.models.attention import attend
from synthaug.models.batch_norm import drop_path, drop_rates
from synthaug.models.layers import DTYPES, LayerNorm, Linear, dropout, linear, standard_normal

PATCH = 16  # px, of the published ones
EPSILON = 1e-6


class Shape(NamedTuple):
    """The sizes of a transformer; `token` says whether its features are those of a class token."""

    width: int
    num_layers: int
    num_heads: int
    patch: int
    token: bool


def shape_of(settings: experiment.Classifier) -> Shape:
    """Returns the sizes that the settings ask for; a pool that is not stated is that of the publication."""
    published = settings.architecture
    if published is None:
        sizes = (settings.width, sum(settings.depths), settings.num_heads, settings.patch_size)
    else:
        sizes = (published.width, sum(published.depths), published.num_heads, PATCH)
    pool = settings.pool or ("mean" if published is None else "token")
    return Shape(*sizes, token=pool == "token")


class Layer(nnx.Module):
    """A pre-norm transformer layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, shape: Shape, *, dropout: float, drop_rate: float, rngs: nnx.Rngs):
        width = shape.width
        self.num_heads, self.dropout, self.drop_rate = shape.num_heads, dropout, drop_rate
        self.norm0 = LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.qkv = linear(width, 3 * width, rngs=rngs)
        self.out = linear(width, width, rngs=rngs)
        self.norm1 = LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.linear0 = linear(width, 4 * width, rngs=rngs)
        self.linear1 = linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool, key: jax.Array | None) -> jax.Array:
        """Returns f32[B,L,D] of x f32[B,L,D]."""
        q, k, v = jnp.split(self.qkv(self.norm0(x)), 3, axis=-1)
        x = x + self._dropped(self.out(attend(q, k, v, num_heads=self.num_heads)), 0, train, key)
        h = jax.nn.gelu(self.linear0(self.norm1(x)), approximate=False)
        return x + self._dropped(self.linear1(h), 2, train, key)

    def _dropped(self, branch: jax.Array, number: int, train: bool, key: jax.Array | None) -> jax.Array:
        keys = [None if key is None else rng.at(key, number + i) for i in range(2)]
        branch = dropout(branch, self.dropout, train=train, key=keys[0])
        return drop_path(branch, self.drop_rate, train=train, key=keys[1])


class ViT(nnx.Module):
    """Patches with positions, pre-norm transformer layers, class token or mean, a head."""

    def __init__(
        self,
        settings: experiment.Classifier,
        *,
        resolution: int,
        channels: int,
        num_classes: int,
        rngs: nnx.Rngs,
    ):
        self.settings, self.shape = settings, shape_of(settings)
        shape, side = self.shape, resolution // self.shape.patch
        self.patches = linear(shape.patch**2 * channels, shape.width, rngs=rngs)
        tokens = side * side + shape.token
        self.token = nnx.Param(jnp.zeros(shape.width)) if shape.token else None
        start = 0.02 if shape.token else 1.0 / math.sqrt(shape.width)
        self.positions = (
            nnx.Param(start * standard_normal(rngs.params(), (tokens, shape.width)))
            if settings.positions == "learned"
            else None
        )
        rates = drop_rates(settings.drop_path, shape.num_layers)
        self.layers = nnx.Dict(
            {
                f"layer{i}": Layer(shape, dropout=settings.dropout, drop_rate=rate, rngs=rngs)
                for i, rate in enumerate(rates)
            }
        )
        self.norm = LayerNorm(shape.width, epsilon=EPSILON, rngs=rngs)
        self.head = linear(shape.width, num_classes, rngs=rngs)
        if settings.kind.startswith("deit"):
            _start_as_deit(self, rngs)
        elif published := settings.architecture:
            _start_as_vit(self, published.width)

    def __call__(
        self, images: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the logits f32[B,K] and the features f32[B,D] in front of the head.

        Args:
            images: f32[B,H,W,C], normalised. Of another size than the network's own, learned positions are
                interpolated, see `resample_positions`.
            train: whether dropout and stochastic depth are on.
            key: of what is dropped.
        """
        patch, settings = self.shape.patch, self.settings
        grid = (images.shape[1] // patch, images.shape[2] // patch)
        x = self.patches(cut_patches(images.astype(DTYPES[settings.compute]), patch))
        if self.token is not None:
            first = jnp.broadcast_to(self.token[...].astype(x.dtype)[None, None], (len(x), 1, x.shape[-1]))
            x = jnp.concatenate([first, x], axis=1)
        x = x + self._positions(grid).astype(x.dtype)[None]
        for i in range(self.shape.num_layers):
            own_key = None if key is None else rng.at(key, i)
            layer = self.layers[f"layer{i}"]
            run = _train if train else _evaluate
            x = (nnx.remat(run) if settings.remat and train else run)(layer, x, own_key)
        x = self.norm(x).astype(jnp.float32)
        features = x[:, 0] if self.token is not None else jnp.mean(x, axis=1)
        return self.head(features), features

    def _positions(self, grid: tuple[int, int]) -> jax.Array:
        token = int(self.shape.token)
        if self.positions is not None:
            return resample_positions(self.positions[...], grid, token)
        made = sincos_positions(grid, self.shape.width)
        return jnp.pad(made, ((token, 0), (0, 0)))


def _train(layer: Layer, x: jax.Array, key: jax.Array | None) -> jax.Array:
    return layer(x, train=True, key=key)


def _evaluate(layer: Layer, x: jax.Array, key: jax.Array | None) -> jax.Array:
    return layer(x, train=False, key=key)


def _start_as_deit(vit: ViT, rngs: nnx.Rngs) -> None:
    """Starts every kernel at a deviation of 0.02, whatever the width."""
    for _, part in nnx.iter_modules(vit):
        if isinstance(part, Linear):
            part.kernel[...] = 0.02 * standard_normal(rngs.params(), part.kernel.shape)


def _start_as_vit(vit: ViT, width: int) -> None:
    """Starts as big_vision does: Xavier's variance, and a head of zeros."""
    xavier = math.sqrt(2.0 / (width + 4 * width))
    for layer in vit.layers.values():
        layer.linear0.kernel[...] *= xavier * math.sqrt(width)  # they were drawn with 1/sqrt(inputs)
        layer.linear1.kernel[...] *= xavier * math.sqrt(4 * width)
    vit.head.kernel[...] = jnp.zeros(vit.head.kernel.shape)


def cut_patches(images: jax.Array, side: int) -> jax.Array:
    """Returns f32[B,HW/side^2,side*side*C], the squares of f32[B,H,W,C] row by row.

    What does not fill a square at the right and at the bottom is left out.

    Example:
        >>> cut_patches(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, 1].tolist()
        [2.0, 3.0, 6.0, 7.0]
    """
    b, c = images.shape[0], images.shape[3]
    h, w = images.shape[1] // side, images.shape[2] // side
    squares = images[:, : h * side, : w * side].reshape(b, h, side, w, side, c).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(b, h * w, side * side * c)


def resample_positions(positions: jax.Array, grid: tuple[int, int], token: int) -> jax.Array:
    """Returns learned positions f32[token + h*w,D] for a grid of h x w patches.

    Bicubic (Keys, a = -0.5) with antialiasing, half-pixel centres: timm's `resample_abs_pos_embed`. The class
    token's position stays.

    Args:
        positions: f32[token + n*n,D], of a square grid.
        grid: (h, w).
        token: 1 if the first position is that of a class token, else 0.
    """
    side = math.isqrt(positions.shape[0] - token)
    if grid == (side, side):
        return positions
    squares = positions[token:].reshape(side, side, -1)
    squares = jax.image.resize(squares, (*grid, squares.shape[-1]), "cubic", antialias=True)
    return jnp.concatenate([positions[:token], squares.reshape(grid[0] * grid[1], -1)])


def sincos_positions(grid: tuple[int, int], width: int) -> jax.Array:
    """Returns f32[h*w,width], fixed positions: sines and cosines of the column, then of the row (MoCo v3).

    Args:
        grid: (h, w).
        width: a multiple of 4.
    """
    quarter = width // 4
    frequency = 1.0 / 10000.0 ** (jnp.arange(quarter, dtype=jnp.float32) / max(1, quarter - 1))
    row, column = jnp.mgrid[: grid[0], : grid[1]].astype(jnp.float32)
    x, y = (place.reshape(-1, 1) * frequency[None, :] for place in (column, row))
    return jnp.concatenate([jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)], axis=1)
