"""A resident torch model that moves between versions in place."""
