"""Plans and executors: everything a login node runs. Never imports jax."""
