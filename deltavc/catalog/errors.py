"""What the catalog says when it cannot answer."""

from __future__ import annotations

from deltavc.errors import IntegrityError

__all__ = ["CatalogUnusable"]


class CatalogUnusable(IntegrityError):
    """The catalog cannot be used as it is; the files that it indexes are not affected.

    ``context["reason"]`` says why: ``missing``, ``damaged``, ``locked``,
    ``unwritable``, ``newer`` (schema of a later version), ``older`` (schema to be
    migrated), ``gap`` (events are missing between the catalog and those given) or
    ``diverged`` (it indexes another log).
    """

    slug = "catalog-unusable"
    exit_code = 40
    default_hint = "make it anew from the files: deltavc doctor --rebuild-catalog"
