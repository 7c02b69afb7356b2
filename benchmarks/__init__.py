"""Side by side: this project's engine and service, and what else runs the same fine-tuned weights on the same clips.

`python -m benchmarks run` measures, `python -m benchmarks report` writes docs/benchmarks.md from the last results.
Nothing here is imported by the other rooms.
"""
