"""The repository and its verbs, one module each.

Verbs are functions that take a :class:`~deltavc.repo.repository.Repository`
and values and return result records (:mod:`deltavc.repo.results`); they neither
print nor read the environment, the clock or the user.
"""
