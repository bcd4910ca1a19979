"""What the tests of encryption share."""

import base64
import hashlib

from helpers import pattern

KEY, OTHER = pattern(32, 101), pattern(32, 102)


def b64(data):
    return base64.b64encode(data).decode()


def with_key(key, prefix="SSECustomer"):
    return {f"{prefix}Algorithm": "AES256", f"{prefix}Key": b64(key), f"{prefix}KeyMD5": b64(hashlib.md5(key).digest())}


def from_key(key):
    return with_key(key, "CopySourceSSECustomer")


def on_disk(node, needle):
    return any(needle in path.read_bytes() for path in node.data.rglob("*") if path.is_file())
