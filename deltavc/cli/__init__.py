'''The command line: one file a verb, and one small frame around all.

The frame (this package) parses, finds out the surroundings, words the outcome
and maps it to an exit code; verbs call the library and say what there is to tell.

==================  =============================================================
:mod:`.main`        entry point; exceptions to exit codes
:mod:`.root`        the first screen; verbs are imported on use
:mod:`.verbs`       the table of verbs
:mod:`.verb`        decorators for verbs; layout of the help
:mod:`.invocation`  the global options, before and after the verb
:mod:`.options`     options and types that verbs share
:mod:`.context`     environment, settings, clock, who acts, the repository
:mod:`.output`      the sink: formats, ids, warnings, hints, questions, progress
:mod:`.failures`    every exception's slug, sentence, hint and exit code
:mod:`.reference`   generates ``docs/reference/cli``, errors and exit codes
==================  =============================================================

How to add a verb: a row in :mod:`.verbs`, and ``commands/NAME.py`` with the
attribute ``command`` (``cherry-pick`` lives in ``cherry_pick.py``)::

    """``deltavc revert``."""

    from __future__ import annotations

    from typing import TYPE_CHECKING

    from deltavc.cli import options
    from deltavc.cli.verb import argument, verb

    if TYPE_CHECKING:
        from deltavc.cli.context import Context


    @verb(
        "revert",
        mutating=True,
        examples=["deltavc revert HEAD~1", "deltavc revert HEAD~1 -n"],
        exit_codes={30: "a parameter was replaced, and cannot be taken back"},
        see=["revisions"],
    )
    @argument("revs", "Revisions to take back", nargs=-1, required=True, metavar="REV",
              type=options.REVISION)
    @options.message()
    @options.dry_run()
    def command(ctx: Context, revs: tuple[str, ...], message: str | None, dry_run: bool) -> None:
        """Take revisions back with a new commit.

        The bits are those of the history without them.
        """
        from deltavc.repo import changes  # library imports stay inside: --help is fast

        result = changes.revert(ctx.open_repository(), revs, message=message, dry_run=dry_run)
        ctx.out.data(
            result,                                      # --json: all fields of the record
            human=lambda: f"[{ctx.out.id(result.commit)}] {ctx.out.foreign(result.message)}",
            ids=[result.commit],                         # -q
        )
        ctx.out.hint("revert-undo", "take it back: deltavc undo")

A verb with subverbs is ``command = group("base", "…")`` and ``@verb("add",
group=command, …)``. A list is ``ctx.out.table([Column("commit", "id"), …], rows)`` with
``tabular=True``, which also makes ``-q``, csv, tsv and md. What a verb returns is
its exit code: nothing for 0, 1 when it worked and the answer is no. Refusals are
raised as errors of :mod:`deltavc.errors`; a confirmation is ``if not
ctx.out.confirm("Delete tag 'v1'?"): return 1``. After adding one: ``python -m
deltavc.cli.reference``, and the grammar in ``tests/cli/grammar.md``.
'''
