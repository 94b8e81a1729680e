"""The event log: the append-only, hash-chained truth about refs, measurements, who and why.

:mod:`~deltavc.ledger.log` appends and reads, :mod:`~deltavc.ledger.state` replays
events into refs, :mod:`~deltavc.ledger.verify` looks for tampering and
:mod:`~deltavc.ledger.lock` lets one process at a time change the repository. The
written form is told in ``docs/reference/format/event-log.md``.
"""
