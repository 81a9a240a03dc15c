"""Procedural scenes, simulated prompts, recipes, the training loop and the evaluation."""
