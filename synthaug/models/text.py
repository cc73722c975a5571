"""The frozen text encoder: a byte-level transformer whose weights come from a seed, not from a download."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from synthaug import experiment, rng
from synthaug.errors import DataError
from synthaug.models.functional import functional
from synthaug.models.layers import TransformerBlock, sinusoid, standard_normal

END = 256
"""The token behind the last byte; even an empty prompt has it."""


def encode_bytes(prompts: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens i32[N,L] of prompts and their mask bool[N,L]: the UTF-8 bytes, the end token, zeros.

    Args:
        prompts: N texts.
        max_length: L, tokens.

    Raises:
        DataError: a prompt has more than L tokens.

    Example:
        >>> encode_bytes(["ab"], 4)[0].tolist()
        [[97, 98, 256, 0]]
    """
    ids, mask = np.zeros((len(prompts), max_length), np.int32), np.zeros((len(prompts), max_length), bool)
    for i, prompt in enumerate(prompts):
        tokens = [*prompt.encode(), END]
        if len(tokens) > max_length:
            raise DataError(
                f"prompt {prompt!r} has {len(tokens)} tokens (its bytes and the end token); expected at most "
                f"text_encoder.max_length = {max_length}; raise that or shorten the name in prompts.names."
            )
        ids[i, : len(tokens)] = tokens
        mask[i, : len(tokens)] = True
    return ids, mask


class TextEncoder(nnx.Module):
    """A pre-norm transformer over bytes (positions as in Vaswani et al. 2017)."""

    def __init__(self, settings: experiment.TextEncoder, *, rngs: nnx.Rngs):
        self.settings = settings
        self.bytes = nnx.Embed(END + 1, settings.width, embedding_init=standard_normal, rngs=rngs)
        self.blocks = nnx.Dict(
            {
                f"block{i}": TransformerBlock(settings.width, settings.num_heads, dropout=0.0, rngs=rngs)
                for i in range(settings.num_layers)
            }
        )

    def __call__(
        self, ids: jax.Array, mask: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Returns f32[N,L,D] of tokens i32[N,L]: unit root mean square where the mask is True, else 0."""
        x = self.bytes(ids) + sinusoid(jnp.arange(ids.shape[1], dtype=jnp.float32), self.settings.width)[None]
        for i in range(self.settings.num_layers):
            x = self.blocks[f"block{i}"](x, mask=mask, train=train, key=key)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-6)
        return jnp.where(mask[:, :, None], x, 0.0)


def embed_prompts(settings: experiment.TextEncoder, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the embeddings f32[N,L,D] of N prompts and their mask bool[N,L]; L is `settings.max_length`.

    The weights are a function of `settings.seed` alone.

    Raises:
        DataError: a prompt is too long.
    """
    ids, mask = encode_bytes(prompts, settings.max_length)
    model = functional(lambda rngs: TextEncoder(settings, rngs=rngs))
    weights = model.init(rng.stream(rng.root(settings.seed), "text_encoder"))
    return np.asarray(jax.jit(model.apply)(weights, ids, mask)), mask
