"""What goes into every evidence pack as it is: ``README.md`` and ``verify.py``.

``verify.py`` is a program of its own for whoever gets a pack: it stands on the standard
library alone and is run with ``python -I``, so nothing here imports it.
"""
