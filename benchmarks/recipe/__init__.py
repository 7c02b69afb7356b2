"""What the parts of the training recipe are worth: `python -m benchmarks training`."""
