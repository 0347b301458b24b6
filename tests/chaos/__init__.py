"""Chaos: a fleet of processes under a random, seeded mix of all faults, and an audit of what the processors wrote down.

``python -m tests.chaos --seconds 600 --seed 1234``; ``make chaos``; ``make soak SECONDS=7200 SEED=7``.
"""
