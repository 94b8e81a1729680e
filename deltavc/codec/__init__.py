"""Codec: bytes to bytes. Digests, compressed frames, safetensors headers; no I/O policy."""
