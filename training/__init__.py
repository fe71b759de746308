"""The GPU job that makes the weights: data, losses, loop. Runs on a CPU too."""
