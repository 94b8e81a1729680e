"""The catalog: a SQLite index over objects and event log, rebuilt from them at will.

:mod:`~deltavc.catalog.reader` answers questions through the standard library's
sqlite3 and starts fast; :mod:`~deltavc.catalog.writer` keeps the tables through
SQLAlchemy. Tables are private; the public SQL is the views told in
``docs/reference/sql-views.md``.
"""
