"""One file for each measure; `benchmarks.run` knows their order."""
