"""The algebra: kinds of delta, vectors of them, encoding, certified rebuild."""
