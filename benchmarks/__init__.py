"""Measured claims, a folder each: speed, likeness, and sizes for all families.

Run them as `python -m benchmarks.speed`, `python -m benchmarks.likeness` and
`python -m benchmarks.families.table`. Each compares SVFit with the alternatives that people use.
"""
