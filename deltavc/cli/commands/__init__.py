"""The verbs, one module each; see :mod:`deltavc.cli` for how to write one."""
