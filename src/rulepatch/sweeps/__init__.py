"""Sweeps: plans, jobs, the engine, the store of results, and reports."""
