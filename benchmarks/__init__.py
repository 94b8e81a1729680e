"""Benchmarks and the demo: the main job on real models, measured."""
