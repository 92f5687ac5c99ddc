"""Sweeps: plans, jobs, the engine, the store of results, and what is told of them."""
