"""The report: one HTML file for those who do not use a terminal.

:mod:`~deltavc.report.gather` reads a repository into the plain values of
:mod:`~deltavc.report.data`; :mod:`~deltavc.report.render` turns these into HTML.
Neither looks at a clock: the same repository state gives the same bytes.
"""
