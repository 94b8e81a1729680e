"""Signatures as OpenSSH makes them: a thin layer over ``ssh-keygen -Y``.

Keys stay where OpenSSH keeps them, in a file or an agent; nothing here reads a private
key. The program runs without a terminal and with an environment of a few variables, so
that it never waits for a person: a locked key is refused with what to do about it.

The answer is in exit codes. Texts of the program are read for one purpose, to say why
it refused: they differ between its releases, and a text that is not known still refuses.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from deltavc.errors import MissingExtra, SigningFailed
from deltavc.formats.files import kind_of, shown

if TYPE_CHECKING:
    import subprocess

__all__ = ["NAMESPACE", "STATUSES", "Checked", "SshKeygen", "Trust"]

NAMESPACE = "deltavc"
"""The namespace of all signatures; ``allowed_signers`` can restrict a key to it."""

STATUSES = ("good", "bad", "unknown-key", "revoked", "unchecked")
"""What a check can come to; ``unchecked``: it could not be made."""

MAX_SIGNATURE = 1 << 14  # RSA with 16,384 bits takes 6 KiB; a pipe holds 64
_PASSED = ("PATH", "HOME", "SSH_AUTH_SOCK", "SSH_SK_HELPER", "SSH_SK_PROVIDER")
_FIXED = {"LC_ALL": "C", "TZ": "UTC", "SSH_ASKPASS_REQUIRE": "never"}
_LAST_TIME = 253_402_300_799_000  # the year 9999 in milliseconds


@dataclass(frozen=True)
class Trust:
    """Whose keys are believed.

    Attributes:
        allowed: The ``allowed_signers`` file; None where there is none.
        revoked: Keys that are not believed any more, a list or a KRL; None for none.
    """

    allowed: Path | None = None
    revoked: Path | None = None


@dataclass(frozen=True)
class Checked:
    """What a signature is worth.

    Attributes:
        status: One of :data:`STATUSES`.
        sentence: Why, for all but good ones.
        key: Fingerprint of the key that made it; "" where that is not known.
    """

    status: str
    sentence: str = ""
    key: str = ""


@dataclass(frozen=True)
class SshKeygen:
    """The program, and the surroundings that it gets.

    Attributes:
        environ: Variables of this process; a few are handed on.
        timeout: Seconds to wait for an answer: an agent may ask its owner, a token wants a
            touch. Less than others wait for the repository's lock.
        program: Its name or path.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 20.0
    program: str = "ssh-keygen"

    def require(self) -> None:
        """Makes sure that the program is there.

        Raises:
            MissingExtra: It is not.
        """
        self._run(("check-novalidate", "-n", NAMESPACE), b"", "")

    def sign(self, key: Path, text: bytes | BinaryIO) -> str:
        """Signs a text or an open file.

        Args:
            key: The private key's file, or a public key's whose private one an agent
                holds or lies beside it.
            text: What to sign.

        Returns:
            The signature in SSH's armour.

        Raises:
            MissingExtra: OpenSSH is not installed.
            SigningFailed: The key is missing, locked, refused, or no key.
        """
        if kind_of(key) != "file":
            raise SigningFailed(
                f"there is no signing key '{shown(key)}'",
                hint="say where it is: deltavc config set --user signing.key PATH",
                key=str(key),
            )
        # An empty passphrase on the command line keeps it from asking for one on standard input.
        arguments = ("sign", "-P", "", "-n", NAMESPACE, "-f", str(key))
        ran = self._run(arguments, text)
        signature = ran.stdout.decode("ascii", "replace")
        if ran.returncode or not signature.startswith("-----BEGIN SSH SIGNATURE-----\n"):
            raise _refusal(key, ran.stderr)
        return signature

    def check(
        self,
        text: bytes | BinaryIO,
        signature: str,
        *,
        signer: str,
        time: int | None,
        trust: Trust,
    ) -> Checked:
        """Checks a signature of a text.

        Args:
            text: What was signed.
            signature: The signature in SSH's armour.
            signer: The principal that it is said to be of.
            time: When the key must have been valid, in milliseconds; None for now.
            trust: Whose keys are believed.

        Returns:
            What it is worth.

        Raises:
            MissingExtra: OpenSSH is not installed.
        """
        moment = () if time is None else _moment(time)
        if moment is None or len(signature) > MAX_SIGNATURE or not signature.isascii():
            return Checked("bad", "the signature is malformed")
        if trust.allowed is not None:
            revoked = () if trust.revoked is None else ("-r", str(trust.revoked))
            ran = self._verify(text, signature, signer, trust.allowed, (*moment, *revoked))
            if ran.returncode == 0:
                return Checked("good", key=_fingerprint(ran.stdout))
        return self._why_not(text, signature, signer, moment, trust)

    def _why_not(
        self,
        text: bytes | BinaryIO,
        signature: str,
        signer: str,
        moment: Sequence[str],
        trust: Trust,
    ) -> Checked:
        """Finds out what is wrong with a signature that was not verified."""
        ran = self._run(("check-novalidate", "-n", NAMESPACE), text, signature)
        if ran.returncode:
            return Checked("bad", "the signature is not of this content")
        key = _fingerprint(ran.stdout)
        if trust.allowed is None:
            return Checked("unknown-key", "no file says whose keys are believed", key)
        ran = self._verify(text, signature, signer, trust.allowed, moment)
        if ran.returncode == 0:  # it was the file of revoked keys
            return Checked("revoked", "the key is among the revoked ones", key)
        told = _told(ran.stderr)
        for words, sentence in _EXPIRED.items():
            if words in told:
                return Checked("unknown-key", sentence, key)
        arguments = ("find-principals", "-f", str(trust.allowed), *moment)
        ran = self._run(arguments, b"", signature)
        names = ", ".join(_told(ran.stdout).split("; ")[:3]) if ran.returncode == 0 else ""
        if not names:
            return Checked("unknown-key", "nobody who is allowed to sign has this key", key)
        return Checked("bad", f"the key is that of '{names}', not of '{signer}'", key)

    def _verify(
        self,
        text: bytes | BinaryIO,
        signature: str,
        signer: str,
        allowed: Path,
        more: Sequence[str],
    ) -> subprocess.CompletedProcess[bytes]:
        arguments = ("verify", "-n", NAMESPACE, "-f", str(allowed), "-I", signer, *more)
        return self._run(arguments, text, signature)

    def _run(
        self, arguments: Sequence[str], text: bytes | BinaryIO, signature: str | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs the program; it reads a signature from a pipe, so that no file has to be written."""
        import subprocess  # takes longer to load than all of this module

        command = [self.program, "-Y", *arguments]
        reading: tuple[int, ...] = ()
        given: dict[str, Any] = {"input": text}
        if not isinstance(text, bytes):
            os.lseek(text.fileno(), 0, os.SEEK_SET)  # seek() may stay within the buffer
            given = {"stdin": text}
        try:
            if signature is not None:
                reading = (_pipe(signature.encode()),)
                command += ["-s", f"/dev/fd/{reading[0]}"]
            return subprocess.run(  # noqa: S603 - a list, no shell
                command,
                **given,
                capture_output=True,
                timeout=self.timeout,
                check=False,
                env={n: self.environ[n] for n in _PASSED if n in self.environ} | _FIXED,
                pass_fds=reading,
                start_new_session=True,  # no terminal to ask on
            )
        except subprocess.TimeoutExpired as error:
            raise SigningFailed(
                f"'{self.program}' gave no answer within {self.timeout:.0f} s",
                hint="confirm in the agent or touch the token, then try again",
            ) from error
        except OSError as error:
            raise MissingExtra(
                f"signatures need '{self.program}' of OpenSSH, which cannot be run",
                hint="install OpenSSH's client, such as: apt-get install openssh-client",
                program=self.program,
                reason=error.strerror or str(error),
            ) from error
        finally:
            for handle in reading:
                os.close(handle)


_EXPIRED = {
    "has expired": "the key was not valid any more at the time of the signature",
    "not yet valid": "the key was not valid yet at the time of the signature",
    "signature namespace": "the key is not allowed for signatures of deltavc",
}


def _pipe(data: bytes) -> int:
    """Returns the reading end of a pipe that holds a little data."""
    reading, writing = os.pipe()
    try:
        os.write(writing, data)
    finally:
        os.close(writing)
    return reading


def _moment(time: int) -> tuple[str, str] | None:
    """Returns the options for the time of a signature; None for what is no time."""
    if not 0 <= time <= _LAST_TIME:
        return None
    moment = datetime.fromtimestamp(max(1, time // 1000), UTC)  # OpenSSH takes 0 for no time
    # Without a Z: older releases take local time only, and the zone is set to UTC.
    return "-O", f"verify-time={moment:%Y%m%d%H%M%S}"


def _fingerprint(told: bytes) -> str:
    """Returns the fingerprint that ends the line of a good signature."""
    word = _told(told).split("; ")[0].rpartition(" ")[2]
    return word if word.startswith("SHA256:") else ""


def _told(output: bytes) -> str:
    """Returns what the program said, in one line that is safe to show."""
    lines = (line.strip() for line in output.decode("utf-8", "replace").splitlines())
    text = "; ".join(line for line in lines if line)
    return "".join(c if c.isprintable() else " " for c in text)[:500]


def _refusal(key: Path, stderr: bytes) -> SigningFailed:
    """Returns why a key cannot sign, and what to do about it."""
    told, name = _told(stderr), shown(key)
    private = shlex.quote(name.removesuffix(".pub"))
    if "passphrase" in told:
        sentence = f"the signing key '{name}' is locked by a passphrase, and no agent holds it"
        return SigningFailed(
            sentence, hint=f"unlock it for a while: ssh-add {private}", key=str(key)
        )
    if "too open" in told:
        sentence = f"the signing key '{name}' can be read by others, so OpenSSH does not use it"
        return SigningFailed(sentence, hint=f"keep it private: chmod 600 {private}", key=str(key))
    if "No private key found" in told:
        sentence = f"no agent holds the private key of '{name}', and it does not lie beside it"
        return SigningFailed(
            sentence, hint="add it to the agent: ssh-add PRIVATE_KEY", key=str(key)
        )
    if "agent" in told:
        sentence = f"the agent does not sign with '{name}'"
        return SigningFailed(sentence, hint="see what it holds: ssh-add -l", key=str(key))
    if "Couldn't load public key" in told or "invalid format" in told:
        return SigningFailed(f"'{name}' is not an SSH key", key=str(key))
    return SigningFailed(f"the signing key '{name}' cannot sign: {told[:200]}", key=str(key))
