"""Strategies: how changes of one parameter on several sides become one; pure functions of deltas."""
