"""Whether the folder that an environment serves from is what the record says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltavc.errors import DeltavcError
from deltavc.repo import target as targets
from deltavc.repo.serving import Served

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["out_of_step"]


def out_of_step(repo: Repository, name: str) -> tuple[str, ...]:
    """Says how an environment's folder differs from the record.

    Args:
        repo: The repository.
        name: The environment.

    Returns:
        Sentences; none where link and receipt are as recorded, or there is no folder.

    Cost:
        Reads the link and the receipt, which has the digests of all files; ``audit verify``
        and ``deploy`` compare the files with these.
    """
    try:
        served = Served(repo, name)
        current, target = served.current, served.target
        if target is None:
            return ()
        wanted = None if current is None else current.record.folder
        link = targets.linked(target)
        if link != wanted:
            there = "leads nowhere" if link is None else f"leads to '{link}'"
            told = "nothing" if wanted is None else f"'{wanted}'"
            return (f"the link '{targets.CURRENT}' {there}, the record says {told}",)
        if wanted is None or current is None or current.record.commit is None:
            return ()
        if not (target / wanted).is_dir():
            return (f"the folder '{wanted}' is not there",)
        receipt = served.receipt_of(current.record.commit, wanted)
        if receipt is not None and targets.receipt_sha256(target / wanted) != receipt:
            return (f"the receipt in '{wanted}' is not the one that was recorded",)
    except DeltavcError as error:
        return (error.message,)
    return ()
