"""What other frameworks need to use deltavc from inside; optional extras."""
