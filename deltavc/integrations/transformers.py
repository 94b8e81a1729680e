"""transformers: models from revisions, and a Trainer that records its checkpoints.

::

    from deltavc.integrations.transformers import DeltavcCallback, load_pretrained

    model = load_pretrained(repo, "main")
    tokenizer = load_pretrained(repo, "main", AutoTokenizer)
    trainer.add_callback(DeltavcCallback(repo, branch="training"))

Needs the extra ``adapt``.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deltavc.errors import BaseMismatch, MissingExtra, RepositoryUnwritable, UsageError

try:
    import transformers
except ImportError as error:
    raise MissingExtra(
        "transformers is not installed", hint='pip install "deltavc[adapt]"', extra="adapt"
    ) from error

if TYPE_CHECKING:
    from deltavc.api import Repository

__all__ = ["DeltavcCallback", "load_pretrained"]

CONFIG = "config.json"
GENERATION = "generation_config.json"
_log = logging.getLogger(__name__)


def load_pretrained(
    repo: Repository, rev: str = "HEAD", auto_class: Any = None, **kwargs: Any
) -> Any:
    """Returns a model, tokenizer, processor or config as a revision has it.

    Weights are rebuilt in memory and handed over; only config and tokenizer files,
    which these classes read from a folder, are written to a temporary one.

    Args:
        repo: The repository.
        rev: The revision.
        auto_class: A class with ``from_pretrained``: ``AutoModelForCausalLM``,
            ``BertModel``, ``AutoTokenizer``, … Default: the model class that the
            revision's config names, or else ``AutoModel``.
        **kwargs: Passed on, such as ``attn_implementation`` or ``num_labels``. Without
            ``dtype`` every weight keeps the dtype that it has in the revision, and
            its bits.

    Returns:
        What ``auto_class.from_pretrained`` returns for the revision's folder.

    Raises:
        UsageError: ``state_dict`` or a folder is given, which the revision brings itself,
            or the class cannot be loaded from a folder.
        BaseMismatch: The revision has no config, or one that transformers does not know.
    """
    for name in ("state_dict", "pretrained_model_name_or_path", "gguf_file"):
        if name in kwargs:
            raise UsageError(
                f"'{name}' is what the revision brings",
                hint="leave it out: load_pretrained(repo, REV)",
            )
    auto_class = auto_class if auto_class is not None else _named_class(repo, rev)
    if not hasattr(auto_class, "from_pretrained"):
        raise UsageError(
            f"'{auto_class}' has no from_pretrained",
            hint="give a class of transformers, such as AutoModelForCausalLM",
        )
    folder = _Folder(repo, rev)
    try:
        if not _is_model(auto_class):
            made = auto_class.from_pretrained(folder.path, **kwargs)
            folder.keep_for(made)  # a slow tokenizer reads its files again when it is saved
            return made
        return _load_model(repo, rev, auto_class, folder.path, kwargs)
    finally:
        folder.close()


class _Folder:
    """The files of a revision, but for its weights, in a temporary folder."""

    def __init__(self, repo: Repository, rev: str) -> None:
        files = repo.files(rev)
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="deltavc-")
            self.path = Path(self._folder.name)
            for name, content in files.items():
                target = self.path / name  # names were checked when they were committed
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        except OSError as error:
            raise RepositoryUnwritable(
                f"no temporary folder can be written: {(error.strerror or '').lower()}"
            ) from error
        self._kept = False

    def keep_for(self, made: object) -> None:
        """Keeps the folder for as long as something that was loaded from it lives."""
        weakref.finalize(made, self._folder.cleanup)
        self._kept = True

    def close(self) -> None:
        """Removes the folder unless it is kept."""
        if not self._kept:
            self._folder.cleanup()


def _named_class(repo: Repository, rev: str) -> Any:
    """Returns transformers' own model class of the name that the config gives, or AutoModel."""
    try:
        config = json.loads(repo.files(rev).get(CONFIG, b"{}"))
        names = config.get("architectures") or []
        found = getattr(transformers, str(names[0]), None) if names else None
    except (ValueError, AttributeError, TypeError, KeyError):
        found = None
    return found if isinstance(found, type) and _is_model(found) else transformers.AutoModel


def _is_model(cls: Any) -> bool:
    auto = hasattr(cls, "from_config") and hasattr(cls, "from_pretrained")
    return auto or (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel))


def _load_model(repo: Repository, rev: str, cls: Any, folder: Path, kwargs: dict[str, Any]) -> Any:
    dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
    code = {k: kwargs[k] for k in ("trust_remote_code", "code_revision") if k in kwargs}
    config = kwargs.pop("config", None)
    if config is None:
        config, kwargs = _config(folder, kwargs)
    if not issubclass(cls, transformers.PreTrainedModel):
        with torch.device("meta"):  # an automatic class only tells which class it is
            cls = type(cls.from_config(config, **code))
    weights = repo.load(rev)
    made = cls.from_pretrained(
        None, config=config, state_dict=dict(weights), dtype=dtype or _commonest(weights), **kwargs
    )
    model = made[0] if isinstance(made, tuple) else made
    if dtype is None:
        _keep_dtypes(model, weights)
    if model.can_generate() and (folder / GENERATION).is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return made


def _config(folder: Path, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns the revision's config with the options that it takes, and the other options."""
    if not (folder / CONFIG).is_file():
        raise BaseMismatch(
            f"the revision has no {CONFIG}, which says what class of model it is",
            hint="pass one: load_pretrained(repo, REV, CLASS, config=CONFIG)",
        )
    try:
        found: tuple[Any, dict[str, Any]] = transformers.AutoConfig.from_pretrained(
            folder, return_unused_kwargs=True, **kwargs
        )
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise BaseMismatch(
            f"transformers does not know the model of this revision: {reason}",
            hint="pass a config: load_pretrained(repo, REV, CLASS, config=CONFIG)",
        ) from error
    return found


def _commonest(weights: Mapping[str, torch.Tensor]) -> torch.dtype:
    """Returns the floating dtype that most elements have."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in weights.values():
        if tensor.is_floating_point():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.get_default_dtype())


def _keep_dtypes(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Gives tensors their own dtype back where the library made all of them one."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        own = weights.get(name)
        if own is not None and own.dtype is not tensor.dtype and own.shape == tensor.shape:
            tensor.data = own


class DeltavcCallback(transformers.TrainerCallback):
    """Commits every checkpoint that a Trainer saves, and never breaks the training run.

    Each saved checkpoint, adapter or full model, becomes a commit: the metrics of its
    step as KPIs, step and epoch as labels. What goes wrong is logged as a
    warning of ``deltavc.integrations.transformers`` and kept in :attr:`failures`.

    Args:
        repo: The repository.
        branch: Branch to record on, made when missing; HEAD stays where it is. Default:
            the branch that HEAD stands on.
        base: Name of the base, where there are several.
        stack: The adapter is trained on the branch's model: add it to that one.
        labels: Labels of every commit.
        run: The training run, such as ``mlflow:RUN``.
        metrics: Only these metrics; default: all that were logged at the step.
        **options: Passed on to :meth:`deltavc.Repository.commit`, such as ``rel_error``.

    Attributes:
        commits: Commits that were made, oldest first.
        failures: Errors that were met, oldest first.
    """

    def __init__(
        self,
        repo: Repository,
        *,
        branch: str | None = None,
        base: str | None = None,
        stack: bool = False,
        labels: Mapping[str, str] | None = None,
        run: str | None = None,
        metrics: tuple[str, ...] | None = None,
        **options: Any,
    ) -> None:
        self._repo = repo
        self._metrics = metrics
        self._labels = dict(labels or {})
        self._options = {"branch": branch, "base": base, "stack": stack, "run": run, **options}
        self.commits: list[str] = []
        self.failures: list[Exception] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Commits the checkpoint that was just saved.

        Args:
            args: The Trainer's arguments.
            state: Its state: step, epoch, what was logged.
            control: Its switches; left alone.
            **kwargs: Not looked at.
        """
        try:
            if state.is_world_process_zero:
                self._record(Path(args.output_dir) / f"checkpoint-{state.global_step}", state)
        except Exception as error:  # a training run is worth more than one commit of it
            self.failures.append(error)
            _log.warning(
                "the checkpoint at step %s was not recorded: %s%s",
                getattr(state, "global_step", "?"),
                error,
                f" (hint: {hint})" if (hint := getattr(error, "hint", "")) else "",
            )

    def _record(self, folder: Path, state: Any) -> None:
        epoch = f", epoch {state.epoch:g}" if state.epoch is not None else ""
        labels = {"step": str(state.global_step), **self._labels}
        if state.epoch is not None:
            labels.setdefault("epoch", f"{state.epoch:g}")
        done = self._repo.commit(
            folder,
            message=f"checkpoint at step {state.global_step}{epoch}",
            labels=labels,
            kpis=self._measured(state),
            **self._options,
        )
        if done.commit is not None and done.changed:
            self.commits.append(done.commit)

    def _measured(self, state: Any) -> dict[str, float]:
        """Returns what was logged at this step; what is not a finite number becomes NaN."""
        found: dict[str, float] = {}
        for entry in state.log_history:
            if entry.get("step") != state.global_step:
                continue
            for name, value in entry.items():
                number = isinstance(value, int | float) and not isinstance(value, bool)
                wanted = self._metrics is None or name in self._metrics
                if number and wanted and name not in ("step", "epoch"):
                    found[name] = float(value) if math.isfinite(value) else math.nan
        return found
