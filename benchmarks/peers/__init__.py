"""What runs in processes of its own: one script for each contender. Imports nothing of `benchmarks` but `protocol`."""
