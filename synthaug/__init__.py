"""synthaug: text-to-image diffusion as training data, and what that data is worth."""

__version__ = "0.1.0"
