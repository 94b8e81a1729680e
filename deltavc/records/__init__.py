"""Records: what deltavc writes down, as immutable typed values with one encoding."""
