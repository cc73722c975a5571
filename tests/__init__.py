"""Tests and benchmarks of synthaug."""
