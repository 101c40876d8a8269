"""The main job on real models: `make demo`."""
