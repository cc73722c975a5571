"""Labelled images: where they come from, how they lie on disk, and how they reach a training step."""
