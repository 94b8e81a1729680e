"""Store: immutable objects by id, in packs and loose files.

Start at :class:`~deltavc.store.objects.ObjectStore`.
"""

from deltavc.codec.frames import Part
from deltavc.store.objects import ObjectStore
from deltavc.store.protocol import Objects
from deltavc.store.record import Prepared
from deltavc.store.values import Finding, ObjectStat, PackInfo, Quarantined
from deltavc.store.writer import PackWriter

__all__ = [
    "Finding",
    "ObjectStat",
    "ObjectStore",
    "Objects",
    "PackInfo",
    "PackWriter",
    "Part",
    "Prepared",
    "Quarantined",
]
