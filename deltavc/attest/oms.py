"""A signature over the files of a checkout, as OpenSSF model signing writes it.

The bundle is a Sigstore bundle with an in-toto statement of each file's SHA-256, signed
with an elliptic curve key; nothing is asked of the network. Whoever has the public key
verifies the folder with ``model_signing verify key``, without deltavc.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltavc.attest.extra import require
from deltavc.attest.folder import require_checkout
from deltavc.errors import SigningFailed, UsageError
from deltavc.formats.files import read_small, shown
from deltavc.repo.revisions import resolve

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["sign_checkout"]

MAX_KEY = 1 << 16
NEW_KEY = "make one: openssl ecparam -name prime256v1 -genkey -noout -out KEY"


def sign_checkout(
    repo: Repository,
    rev: str,
    *,
    folder: Path,
    key: Path,
    password: bytes | None = None,
) -> bytes:
    """Signs the files of a checkout.

    The folder's name becomes the name of the model in the bundle. The receipt
    ``deltavc.json`` is signed with the rest, so the signature also says which revision
    the files are.

    Args:
        repo: The repository.
        rev: The revision that the folder has to hold.
        folder: The checkout.
        key: An unencrypted PEM file with a private key on P-256, P-384 or P-521.
        password: What the key is encrypted with.

    Returns:
        The bundle as JSON. Two of the same folder differ: the signature is randomised.

    Raises:
        WorkspaceDirty: The folder does not hold the revision.
        SigningFailed: The key cannot sign.
        MissingExtra: The library is not installed.

    Cost:
        One read of each file beside the comparison with the version.

    Source:
        OpenSSF Model Signing v1.0.
    """
    library = require("model_signing.signing")
    hashing = require("model_signing.hashing")
    commit = resolve(repo, rev)
    if not folder.is_dir():
        raise UsageError(
            f"'{shown(folder)}' is not a folder",
            hint=f"write the files first: deltavc checkout {rev} --to DIR",
        )
    signer = _signer(library, key, password)
    require_checkout(repo, commit, folder)
    signer.set_hashing_config(
        hashing.Config().use_file_serialization(max_workers=repo.session.threads)
    )
    with tempfile.TemporaryDirectory(prefix="deltavc-") as place:
        bundle = Path(place) / "bundle"
        try:
            signer.sign(folder.absolute(), bundle)
            return bundle.read_bytes()
        except (OSError, ValueError) as error:
            raise SigningFailed(
                f"'{shown(folder)}' cannot be signed: {shown(error)}",
                hint="the folder holds regular files only, and they can be read",
                path=str(folder),
            ) from error


def _signer(library: Any, key: Path, password: bytes | None) -> Any:
    """Returns a configuration with the key; the library's errors become one sentence."""
    text = read_small(key, max_bytes=MAX_KEY)
    if b"PRIVATE KEY-----" not in text:
        raise SigningFailed(f"'{shown(key)}' is not a private key in PEM form", hint=NEW_KEY)
    if b"OPENSSH PRIVATE KEY" in text:
        raise SigningFailed(
            f"'{shown(key)}' is in OpenSSH's own form, which model signing does not read",
            hint=f"for an ECDSA key, on a copy of it: ssh-keygen -p -m PEM -f KEY; or {NEW_KEY}",
        )
    try:
        return library.Config().use_elliptic_key_signer(private_key=key, password=password)
    except Exception as error:  # of several libraries, which tell a wrong kind of key variously
        raise SigningFailed(
            f"'{shown(key)}' is not an unencrypted elliptic curve key on P-256, P-384 or P-521",
            hint=NEW_KEY,
        ) from error
