"""Strategies: how the increments of several sides become one; pure functions of deltas."""
