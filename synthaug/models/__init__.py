"""Networks as flax modules: shapes in, shapes out. Elsewhere weights are plain nested dicts of arrays.

Letters: B images, H, W, C channels, L tokens, D embedding width, K classes.
"""
