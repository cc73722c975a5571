"""Parity with public implementations; needs the extra `peers`."""
