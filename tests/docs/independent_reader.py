"""A second reader of repositories, written from docs/reference/format alone.

It imports nothing of deltavc: the standard library, NumPy, zstandard and xxhash
do. It is slow and small on purpose: every sum is made of fractions, element by
element. Section names in the comments are those of the format's pages.
"""

from __future__ import annotations

import hashlib
import json
import struct
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
import zstandard

WIDTH = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2,
         "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}  # fmt: skip
EXPONENT = {"F16": 5, "BF16": 8, "F32": 8, "F64": 11}
MANTISSA = {"F16": 10, "BF16": 7, "F32": 23, "F64": 52}


class Tensor(NamedTuple):
    """Bit patterns as Python integers."""

    dtype: str
    shape: tuple[int, ...]
    bits: list[int]

    def data(self) -> bytes:
        return np.array(self.bits, dtype=f"<u{WIDTH[self.dtype]}").tobytes()

    def matrix_shape(self) -> tuple[int, int]:
        if not self.shape:
            return 1, 1
        return self.shape[0], len(self.bits) // self.shape[0] if self.shape[0] else 0


def unpack(data: bytes, width: int) -> list[int]:
    return np.frombuffer(data, dtype=f"<u{width}").tolist()


def tensor(dtype: str, shape: Any, data: bytes) -> Tensor:
    found = Tensor(dtype, tuple(shape), unpack(data, WIDTH[dtype]))
    assert len(found.bits) == int(np.prod(found.shape, dtype=np.int64))
    return found


# event-log.md -----------------------------------------------------------------


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Reads the log and checks its chain."""
    files = sorted(folder.iterdir())
    lines: list[bytes] = []
    for at, file in enumerate(files):
        assert file.name == f"{1000 * at + 1:08d}.jsonl"
        whole = file.read_bytes()
        body, _, torn = whole.rpartition(b"\n")
        assert not torn or file == files[-1]
        lines += body.split(b"\n") if body or whole.startswith(b"\n") else []
    events, prev = [], "0" * 64
    for number, line in enumerate(lines, 1):
        event = json.loads(line)
        assert canonical(event) == line
        assert event["number"] == number
        assert event["prev"] == prev
        prev = hashlib.sha256(line).hexdigest()
        events.append(event)
    return events


def canonical(value: Any) -> bytes:
    """Writes JSON in the one form that the page on the event log describes."""
    if isinstance(value, dict):
        items = sorted((k.encode(), v) for k, v in value.items())  # in UTF-8 as by code point
        inner = [canonical(k.decode()) + b":" + canonical(v) for k, v in items]
        return b"{" + b",".join(inner) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(canonical(item) for item in value) + b"]"
    if isinstance(value, float):
        return number(value).encode()
    return json.dumps(value, ensure_ascii=False).encode()


def number(value: float) -> str:
    sign, digits, power = Decimal(repr(value)).normalize().as_tuple()
    text, minus = "".join(map(str, digits)), "-" if sign else ""
    assert isinstance(power, int)
    if value == 0:
        return f"{minus}0.0"
    before = len(text) + power  # digits in front of the point
    if -5 < before <= 16:
        whole = text[: max(before, 0)].ljust(max(before, 0), "0") or "0"
        rest = "0" * max(-before, 0) + text[max(before, 0) :] or "0"
        return f"{minus}{whole}.{rest}"
    rest = f".{text[1:]}" if text[1:] else ""
    return f"{minus}{text[0]}{rest}e{before - 1}"


def refs_of(events: list[dict[str, Any]]) -> dict[str, str]:
    refs: dict[str, str] = {}
    for event in events:
        for change in event.get("refs", []):
            assert refs.get(change["name"]) == change.get("before")
            if change.get("after") is None:
                del refs[change["name"]]
            else:
                refs[change["name"]] = change["after"]
    return refs


# object.md, pack.md -----------------------------------------------------------


def read_object(data: bytes, wanted: str) -> tuple[str, bytes]:
    """Reads a stored object; returns kind and body."""
    assert data[:4] == b"DVO1"
    count, length = struct.unpack("<IQ", data[4:16])
    kind = data[16:32].rstrip(b"\0").decode("ascii")
    end = 64 + 20 * count
    assert data[32:64].hex() == wanted
    assert struct.unpack("<Q", data[end : end + 8])[0] == xxhash.xxh3_64_intdigest(data[:end])
    body, at = bytearray(), end + 8
    for entry in range(64, end, 20):
        method, width, zero, size, stored, check = struct.unpack(
            "<BBHIIQ", data[entry : entry + 20]
        )
        frame = data[at : at + stored]
        at += stored
        assert (zero, check) == (0, xxhash.xxh3_64_intdigest(frame))
        if method:
            frame = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
        assert len(frame) == size
        body += frame if method < 2 else from_planes(frame, width, rotated=method == 3)
    assert (len(body), at) == (length, len(data))
    head = f"{kind} {length}".encode() + b"\0"
    assert hashlib.sha256(head + bytes(body)).hexdigest() == wanted
    return kind, bytes(body)


def from_planes(data: bytes, width: int, *, rotated: bool) -> bytes:
    count = len(data) // width
    planes = np.frombuffer(data[: count * width], np.uint8).reshape(width, count)
    elements = np.ascontiguousarray(planes.T).reshape(-1).view(f"<u{width}")
    if rotated:
        one, top = (elements.dtype.type(n) for n in (1, 8 * width - 1))
        elements = (elements >> one) | (elements << top)
    return elements.tobytes() + data[count * width :]


class Objects:
    """All objects of a repository: the packs' indexes, and the loose ones."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, tuple[Path, int, int]] = {}
        for pack in (folder / "packs").iterdir():
            data = pack.read_bytes()
            assert pack.name == f"pack-{hashlib.sha256(data).hexdigest()}.pack"
            assert (data[:8], data[-8:]) == (b"DVCPACK1", b"DVCPEND1")
            start, count = struct.unpack("<QQ", data[-56:-40])
            index = data[start:-56]
            assert len(index) == 72 * count
            assert hashlib.sha256(index + data[-56:-40]).digest() == data[-40:-8]
            for at in range(0, len(index), 72):
                oid, _, offset, length, _ = struct.unpack("<32s16sQQQ", index[at : at + 72])
                self._places[oid.hex()] = (pack, offset, length)
        for loose in (folder / "loose").glob("??/*"):
            self._places[loose.name] = (loose, 0, loose.stat().st_size)

    def __iter__(self) -> Any:
        return iter(self._places)

    def get(self, oid: str) -> tuple[str, bytes]:
        path, offset, length = self._places[oid]
        with path.open("rb") as file:
            file.seek(offset)
            return read_object(file.read(length), oid)

    def body(self, kind: str, oid: str) -> bytes:
        found, body = self.get(oid)
        assert found == kind
        return body

    def record(self, kind: str, oid: str) -> dict[str, Any]:
        body = self.body(kind, oid)
        value: dict[str, Any] = json.loads(body)
        assert canonical(value) == body
        return value


# base.md ----------------------------------------------------------------------


class SafetensorsFile:
    """Tensors of a safetensors file in file order."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        self.header = data[:end]
        self.metadata = header.pop("__metadata__", {})
        rows = sorted(header.items(), key=lambda row: row[1]["data_offsets"])
        self.tensors = {
            name: tensor(row["dtype"], row["shape"], data[end + a : end + b])
            for name, row in rows
            for a, b in [row["data_offsets"]]
        }


# delta.md: ordinals, streams, codings, predictors ------------------------------


def parse_delta(body: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    line, _, rest = body.partition(b"\n")
    header = json.loads(line)
    assert canonical(header) == line
    streams = {}
    for info in header["streams"]:
        streams[info["name"]], rest = rest[: info["length"]], rest[info["length"] :]
    assert not rest
    return header, streams


def ordinal(u: int, n: int) -> int:
    return u ^ ((1 << (n - 1)) - 1) if u >> (n - 1) else u


def unfold(z: int) -> int:
    return -((z + 1) // 2) if z & 1 else z // 2


def positions(streams: dict[str, bytes]) -> list[int]:
    escapes = iter(unpack(streams["escapes"], 8))
    at, found = -1, []
    for gap in streams["gaps"]:
        at += 1 + (next(escapes) if gap == 255 else gap)
        found.append(at)
    return found


def residual(header: dict[str, Any], streams: dict[str, bytes], base: Tensor) -> list[int]:
    params, width = header.get("params", {}), WIDTH[base.dtype]
    if header["coding"] == "planes":
        planes, n = streams["residual"], len(base.bits)
        assert len(planes) == n * width
        folded = [
            sum(planes[byte * n + at] << (8 * byte) for byte in range(width)) for at in range(n)
        ]
    elif header["coding"] == "bands":
        folded = in_bands(params, streams, base)
    else:
        assert header["coding"] == "gaps"
        folded = [0] * len(base.bits)
        values = unpack(streams["values"], params["width"])
        assert len(values) == params["count"]
        for at, value in zip(positions(streams), values, strict=True):
            folded[at] = value
    if params.get("grouped", False):
        m, e = MANTISSA[base.dtype], EXPONENT[base.dtype]
        keys = [(u >> m) % (1 << e) for u in base.bits]
        order = sorted(range(len(keys)), key=keys.__getitem__)  # a stable sort
        own = [0] * len(folded)
        for rank, at in enumerate(order):
            own[at] = folded[rank]
        folded = own
    return folded


def in_bands(params: dict[str, Any], streams: dict[str, bytes], base: Tensor) -> list[int]:
    """Returns residuals that are ordered by bands of the base's exponent."""
    m, e, kept = MANTISSA[base.dtype], EXPONENT[base.dtype], params["width"]
    planes, n = streams["residual"], len(base.bits)
    edges: list[int] = params["bands"]
    assert len(planes) == n * kept
    assert edges == sorted(set(edges))
    keys = [sum(edge <= (u >> m) % (1 << e) for edge in edges) for u in base.bits]
    escapes = iter(unpack(streams["escapes"], WIDTH[base.dtype]))
    folded = [0] * n
    for rank, at in enumerate(sorted(range(n), key=keys.__getitem__)):
        value = sum(planes[byte * n + rank] << (8 * byte) for byte in range(kept))
        escaped = kept < WIDTH[base.dtype] and value == (1 << (8 * kept)) - 1
        folded[at] = next(escapes) if escaped else value
    assert next(escapes, None) is None
    return folded


def predicted(header: dict[str, Any], streams: dict[str, bytes], base: Tensor) -> list[int]:
    """Returns the predicted ordinals."""
    params = header.get("params", {})
    n, m = 8 * WIDTH[base.dtype], MANTISSA[base.dtype]
    predictor = params.get("predictor")
    if predictor is None:
        return [ordinal(u, n) for u in base.bits]
    if predictor == "drift":
        k, table = params["bits"], unpack(streams["table"], n // 8)
        steps = [table[(u >> (m - k)) % (1 << k)] for u in base.bits]
        return [
            ordinal(u, n) + (-t if u >> (n - 1) else t)
            for u, t in zip(base.bits, steps, strict=True)
        ]
    assert predictor == "lowrank"
    rows, columns = base.matrix_shape()
    rank, p, q = params["rank"], params["left_bits"], params["right_bits"]
    left = integers(streams["left"], p)
    right = integers(streams["right"], q)
    e = [number - 500 for number in unpack(streams["left_exponents"], 2)]
    f = [number - 500 for number in unpack(streams["right_exponents"], 2)]
    found = []
    for i in range(rows):
        for j in range(columns):
            whole = sum(left[i * rank + k] * right[k * columns + j] for k in range(rank))
            x = value_of(base.bits[i * columns + j], base.dtype)
            x = value_of(round_to(x + whole * Fraction(2) ** (e[i] + f[j]), "F64"), "F64")
            y = round_to(x, "F32")
            if base.dtype != "F32":
                y = round_to(value_of(y, "F32"), base.dtype)
            found.append(ordinal(y, n))
    return found


def integers(data: bytes, bits: int) -> list[int]:
    width = 1 if bits <= 8 else 2 if bits <= 16 else 4
    return [number - (1 << (bits - 1)) for number in unpack(data, width)]


def decode_exact(header: dict[str, Any], streams: dict[str, bytes], base: Tensor) -> Tensor:
    n = 8 * WIDTH[base.dtype]
    assert (header["dtype"], tuple(header["shape"])) == (base.dtype, base.shape)
    assert hashlib.sha256(base.data()).hexdigest() == header["base"]
    pairs = zip(predicted(header, streams, base), residual(header, streams, base), strict=True)
    bits = [ordinal((o + unfold(z)) % (1 << n), n) for o, z in pairs]
    result = Tensor(base.dtype, base.shape, bits)
    assert xxhash.xxh3_64_hexdigest(result.data()) == header["check"]
    assert hashlib.sha256(result.data()).hexdigest() == header["result"]
    return result


def decode_sparse(
    header: dict[str, Any], streams: dict[str, bytes], base: Tensor | None
) -> tuple[list[int], list[int]]:
    """Returns positions, and the new bit patterns or with float values the changes'."""
    at, values = positions(streams), unpack(streams["values"], header["width"])
    assert len(at) == len(values) == header["count"]
    if header.get("values", "ordinal") == "float":
        return at, values
    assert base is not None
    assert hashlib.sha256(base.data()).hexdigest() == header["base"]
    n = 8 * WIDTH[base.dtype]
    moved = [(ordinal(base.bits[i], n) + unfold(z)) % (1 << n)
             for i, z in zip(at, values, strict=True)]  # fmt: skip
    return at, [ordinal(o, n) for o in moved]


# floats as exact numbers -------------------------------------------------------


def is_finite(u: int, dtype: str) -> bool:
    full = (1 << EXPONENT[dtype]) - 1
    return (u >> MANTISSA[dtype]) & full != full


def value_of(u: int, dtype: str) -> Fraction:
    """Returns the value of a finite bit pattern."""
    m, e = MANTISSA[dtype], EXPONENT[dtype]
    field, fraction = (u >> m) & ((1 << e) - 1), u & ((1 << m) - 1)
    whole = fraction if field == 0 else fraction | 1 << m
    size = whole * Fraction(2) ** (max(field, 1) - (1 << (e - 1)) + 1 - m)
    return -size if u >> (m + e) else size


def round_to(value: Fraction, dtype: str) -> int:
    """Returns the bit pattern nearest to a value, ties to even; +0.0 for zero."""
    m, e = MANTISSA[dtype], EXPONENT[dtype]
    size, sign = abs(value), (1 << (m + e)) if value < 0 else 0
    if size == 0:
        return 0
    bias = (1 << (e - 1)) - 1
    power = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** power > size:
        power -= 1
    power = max(power, 1 - bias)
    whole = round(size / Fraction(2) ** (power - m))  # Python rounds halves to even
    # A whole number of 2**m has the first exponent field; carries run over into it by themselves.
    pattern = whole + ((power + bias - 1) << m)
    return sign | min(pattern, ((1 << e) - 1) << m)


# manifest.md: the value of a parameter -----------------------------------------


class Base:
    """A base whose files have been found and checked."""

    def __init__(self, repository: Repository, fingerprint: str) -> None:
        record = repository.objects.record("base", fingerprint)
        self.source = repository.source_of(fingerprint)
        place = repository.work_tree / self.source["path"]
        self.folder = place if place.is_dir() else place.parent
        self.weights = {
            name: SafetensorsFile(self.folder / name) for name in self.source["weights"]
        }
        self.tensors = {k: t for file in self.weights.values() for k, t in file.tensors.items()}
        assert self.tensors.keys() == record["tensors"].keys()
        for name, row in record["tensors"].items():
            found = self.tensors[name]
            assert (found.dtype, list(found.shape)) == (row["dtype"], row["shape"])
            assert hashlib.sha256(found.data()).hexdigest() == row["sha256"]

    def files(self) -> dict[str, bytes]:
        """Returns the other files that go with the model."""
        found = {name: (self.folder / name).read_bytes() for name in self.source.get("files", {})}
        for name, info in self.source.get("files", {}).items():
            digest = hashlib.sha256(found[name]).hexdigest()
            assert (info["size"], info["sha256"]) == (len(found[name]), digest)
        return found


class Version:
    """A version of the model, rebuilt parameter by parameter."""

    def __init__(self, repository: Repository, commit: str) -> None:
        self.objects = repository.objects
        self.commit = self.objects.record("commit", commit)
        self.manifest = self.objects.record("manifest", self.commit["manifest"])
        assert self.manifest["base"] == self.commit["base"]
        self.base = repository.base(self.manifest["base"])

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Returns weights file to tensors, in the order of `The folder of a version`."""
        params = self.manifest.get("params", {})
        removed, prefix = self.manifest.get("removed", []), self.manifest.get("prefix", "")
        files = {
            name: {prefix + k: self.value(k) for k in file.tensors if k not in removed}
            for name, file in self.base.weights.items()
        }
        new = sorted(name for name in params if name not in self.base.tensors)
        list(files.values())[-1].update({name: self.value(name) for name in new})
        return files

    def files(self) -> dict[str, bytes]:
        """Returns the other files."""
        found = self.base.files()
        for name, blob in self.manifest.get("files", {}).items():
            if blob:
                found[name] = self.objects.body("blob", blob)
            else:
                found.pop(name, None)
        return found

    def value(self, name: str) -> Tensor:
        result = self._value(name)
        form = f"{result.dtype}:{','.join(map(str, result.shape))}"
        base = self.base.tensors.get(name)
        as_base = base is not None and (base.dtype, base.shape) == (result.dtype, result.shape)
        assert self.manifest.get("shapes", {}).get(name, form if as_base else None) == form
        return result

    def _delta(self, oid: str) -> tuple[dict[str, Any], dict[str, bytes]]:
        header, streams = parse_delta(self.objects.body("delta", oid))
        for name, info in header.get("tensors", {}).items():
            if "blob" in info:
                streams[name] = self.objects.body("blob", info["blob"])
        return header, streams

    def _value(self, name: str) -> Tensor:
        base = self.base.tensors.get(name)
        terms = [
            (*self._delta(oid), Fraction(text))
            for oid, text in self.manifest.get("params", {}).get(name, {}).items()
        ]
        if not terms:
            assert base is not None
            return base
        if len(terms) == 1 and terms[0][2] == 1:
            alone = single(terms[0][0], terms[0][1], base)
            if alone is not None:
                return alone
        return summed(terms, base)


def single(header: dict[str, Any], streams: dict[str, bytes], base: Tensor | None) -> Tensor | None:
    """Returns what one term with coefficient 1 gives without a sum; None if it is a sum."""
    kind = header["kind"]
    if kind == "exact":
        assert base is not None
        return decode_exact(header, streams, base)
    if kind == "sparse" and header.get("values", "ordinal") == "ordinal":
        assert base is not None
        bits = list(base.bits)
        for at, u in zip(*decode_sparse(header, streams, base), strict=True):
            bits[at] = u
        return Tensor(base.dtype, base.shape, bits)
    if kind == "dense" and base is None:
        return tensor(header["dtype"], header["shape"], streams["values"])
    if kind == "replace":
        return anchor_of([(header, streams, Fraction(1))], base)
    return None


def anchor_of(terms: list[Any], base: Tensor | None) -> Tensor:
    """Returns V: what the sum starts from."""
    replacements = [term for term in terms if term[0]["kind"] == "replace"]
    assert all(coefficient == 1 for _, _, coefficient in replacements)
    whole = [term for term in replacements if not term[0].get("rows", 0)]
    if whole:
        ((header, streams, _),) = replacements
        return tensor(header["dtype"], header["shape"], streams["values"])
    found = base
    if found is None:
        header = next(h for h, _, _ in terms if h["kind"] == "dense")
        shape = tuple(header["shape"])
        found = Tensor(header["dtype"], shape, [0] * int(np.prod(shape, dtype=np.int64)))
    bits = list(found.bits)
    columns = found.matrix_shape()[1]
    for header, streams, _ in replacements:
        values = unpack(streams["values"], WIDTH[header["dtype"]])
        for rank, row in enumerate(unpack(streams["index"], 8)):
            bits[row * columns : (row + 1) * columns] = values[
                rank * columns : (rank + 1) * columns
            ]
    return Tensor(found.dtype, found.shape, bits)


def summed(terms: list[Any], base: Tensor | None) -> Tensor:
    anchor = anchor_of(terms, base)
    additive = [term for term in terms if term[0]["kind"] != "replace"]
    if not additive:
        return anchor
    changes = [
        (coefficient, change_of(header, streams, base)) for header, streams, coefficient in additive
    ]
    minus, bits = 1 << (8 * WIDTH[anchor.dtype] - 1), []
    for at, u in enumerate(anchor.bits):
        if not is_finite(u, anchor.dtype):
            bits.append(u)
            continue
        total = value_of(u, anchor.dtype)
        total += sum((c * change.get(at, 0) for c, change in changes), Fraction(0))
        bits.append(u if total == 0 and u == minus else round_to(total, anchor.dtype))
    return Tensor(anchor.dtype, anchor.shape, bits)


def change_of(
    header: dict[str, Any], streams: dict[str, bytes], base: Tensor | None
) -> dict[int, Fraction]:
    """Returns an additive delta as position to value, zeros mostly left out."""
    kind = header["kind"]
    if kind == "lowrank":
        return product_of(header, streams)
    if "tensors" in header:
        from .independent_scaled import scaled_change  # type: ignore[import-not-found]

        return dict(scaled_change(header, streams, base))
    if kind == "dense":
        values = tensor(header["dtype"], header["shape"], streams["values"])
        return {at: value_of(u, values.dtype) for at, u in enumerate(values.bits)}
    if kind == "sparse":
        at, values = decode_sparse(header, streams, base)
        new = {i: value_of(u, header["dtype"]) for i, u in zip(at, values, strict=True)}
        if header.get("values", "ordinal") == "float":
            return new
        assert base is not None
        return {i: value - value_of(base.bits[i], base.dtype) for i, value in new.items()}
    assert kind == "exact"
    assert base is not None
    result = decode_exact(header, streams, base)
    return {
        at: value_of(u, base.dtype) - value_of(w, base.dtype)
        for at, (u, w) in enumerate(zip(result.bits, base.bits, strict=True))
        if u != w and is_finite(w, base.dtype)
    }


def product_of(header: dict[str, Any], streams: dict[str, bytes]) -> dict[int, Fraction]:
    scale = Fraction(header["scale"])
    b = tensor(header["b_dtype"], header["b_shape"], streams["b"])
    a = tensor(header["a_dtype"], header["a_shape"], streams["a"])
    rank = a.shape[0]
    left = [value_of(u, b.dtype) for u in b.bits]
    right = [value_of(u, a.dtype) for u in a.bits]
    rows, columns = len(left) // rank, len(right) // rank
    found = {}
    for i in range(rows):
        for j in range(columns):
            total = sum(
                (left[i * rank + k] * right[k * columns + j] for k in range(rank)), Fraction(0)
            )
            at = j * rows + i if header.get("transposed", False) else i * columns + j
            found[at] = scale * total
    return found


# repository-layout.md: reading a repository ------------------------------------


class Repository:
    """A repository, read from its files."""

    def __init__(self, work_tree: Path) -> None:
        folder = work_tree / ".deltavc"
        assert (folder / "format").read_text() == "deltavc 1\nsha256\n"
        self.work_tree = work_tree
        self.events = read_events(folder / "events")
        self.refs = refs_of(self.events)
        self.objects = Objects(folder / "objects")
        self._bases: dict[str, Base] = {}

    def base(self, fingerprint: str) -> Base:
        if fingerprint not in self._bases:
            self._bases[fingerprint] = Base(self, fingerprint)
        return self._bases[fingerprint]

    def commit_of(self, ref: str) -> str:
        value = self.refs[ref]
        if value.startswith("branch:"):
            return self.commit_of(value)
        kind, body = self.objects.get(value)
        if kind == "tag":
            return str(json.loads(body)["commit"])
        assert kind == "commit"
        return value

    def source_of(self, base: str) -> dict[str, Any]:
        for name, value in self.refs.items():
            if name.startswith("base:"):
                source = self.objects.record("basesource", value)
                if source["base"] == base:
                    return source
        raise AssertionError(f"base {base} is not registered")

    def version(self, ref: str = "HEAD") -> Version:
        return Version(self, self.commit_of(ref) if ":" in ref or ref == "HEAD" else ref)
