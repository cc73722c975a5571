"""One training loop for diffusion models and classifiers. Knows no model, no data and no stage.

`fit` in loop.py is the loop; state.py makes the update it calls; checkpoint.py is the only user of orbax.
"""
