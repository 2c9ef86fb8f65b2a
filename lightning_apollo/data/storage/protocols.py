"""Protocols of stores: which of them a recipe may name, and what an address may hold. No store is opened here.

Addresses end up in recipes, run cards and indexes, so none with a password or a signature is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, unquote

from lightning_apollo.errors import StorageError


class Library(NamedTuple):
    """Library of a protocol and the variables that hold its credentials."""

    name: str  # as pip knows it
    extra: str | None  # of this package; None: every installation has it
    credentials: str  # the end of "check ..."


_S3 = Library("s3fs", "s3", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
_GCS = Library("gcsfs", "gcs", "GOOGLE_APPLICATION_CREDENTIALS")
_AZURE = Library("adlfs", "azure", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY")
_HTTP = Library("aiohttp", "http", "~/.netrc, or the file that NETRC names")
_HF = Library("huggingface-hub", None, "HF_TOKEN")
LIBRARIES = {
    "s3": _S3,
    "gs": _GCS,
    "gcs": _GCS,
    "az": _AZURE,
    "abfs": _AZURE,
    "http": _HTTP,
    "https": _HTTP,
    "hf": _HF,
}
ALLOWED = (*LIBRARIES, "file")

# They open addresses that they are given: what is allowed for a recipe would say nothing about what is read
_WRAPPERS = {
    "reference",
    "generic",
    "dir",
    "simplecache",
    "filecache",
    "blockcache",
    "cached",
    "asyncwrapper",
    "async_wrapper",
    "dask",
    "zip",
    "tar",
    "libarchive",
}
_URL = re.compile(r"(?P<protocol>[A-Za-z][\w+.-]*)://(?P<host>[^/]*)(?P<path>.*)", re.DOTALL)
_SAFE = "/!$&'()*+,;=:@~"  # in the path of a web address, beside letters and digits
_NAME = re.compile(r"[a-z][\w+.-]*")
_MEMBER_OF = re.compile(r"(?P<shard>.+?\.tar)::.+@(?:\?|\d+\+\d+)", re.DOTALL)  # as address.py writes it
_SECRETS = re.compile(r"(?P<head>[A-Za-z][\w+.-]*://)(?:[^\s/'\"]*@)?(?P<rest>[^\s'\"?]*)(?:\?[^\s'\")]*=[^\s'\")]*)?")


@dataclass(frozen=True)
class StorageConfig:
    """Stores that a recipe may read from."""

    # allowed besides s3, gs, gcs, az, abfs, http, https, hf and file: names of stores that are registered with fsspec
    protocols: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in self.protocols:
            if name in _WRAPPERS:
                raise ValueError(
                    f"data.storage.protocols: {name} opens other addresses: name the store that keeps the files"
                )
            if not _NAME.fullmatch(name):
                raise ValueError(f"data.storage.protocols: {name!r} is no protocol: write its name alone, as in [sftp]")


def protocol_of(address: str) -> str | None:
    """The protocol that the address begins with; None for a path."""
    url = _URL.match(address)
    return url["protocol"] if url else None


def is_wrapper(protocol: str) -> bool:
    """True if a store of this protocol reads from other addresses, which it is given."""
    return protocol in _WRAPPERS


def check_form(place: str) -> None:
    """StorageError where a root or manifest is chained, or holds a password, a token or a query; it is not repeated then."""
    member = _MEMBER_OF.fullmatch(place)
    place = member["shard"] if member else place
    url = _URL.match(place)
    if url is None and not ("://" in place and "::" in place):
        return
    head, _, rest = place.partition("://")  # of which nothing is repeated that could be secret, whatever its characters
    title = f"{head}://{re.split('[?#]', rest.rpartition('@')[2])[0]}"
    protocol, host, path = (url["protocol"].lower(), url["host"], url["path"]) if url else ("", "", "::")
    if is_wrapper(protocol) or "::" in path or "::" in re.sub(r"\[[0-9a-fA-F:.]*\]", "", host):
        raise StorageError(f"{title}: addresses inside addresses are not read: name the store that keeps the files")
    is_container = protocol in ("az", "abfs") and ":" not in host  # CONTAINER@ACCOUNT.dfs.core.windows.net
    is_cut = re.search(r":(?!\d*$)", re.sub(r"\[.*\]", "", host))  # a password with a slash in it ends the host early
    if ("@" in host and not is_container) or is_cut:
        raise StorageError(f"{title}: {_no_credentials('a user or password', protocol)}")
    if re.search(r"\?.*=", path, re.DOTALL) or (protocol in ("http", "https") and re.search(r"[?#]", path)):
        raise StorageError(f"{title}: {_no_credentials('a query', protocol)}")


def local_or_url(place: str, protocols: Sequence[str] = ()) -> str:
    """The place in the spelling that addresses have: a path in the place of a file URL.

    protocols: allowed besides ALLOWED. StorageError for what check_form refuses and for all other protocols.
    """
    check_form(place)
    url = _URL.match(place)
    if url is None:
        return place
    protocol = url["protocol"].lower()
    if protocol not in (*ALLOWED, *protocols):
        more = f"data.storage.protocols=[{','.join([*protocols, protocol])}]"
        raise StorageError(f"{shown(place)}: {protocol} is none of {', '.join(ALLOWED)}: allow it with {more}")
    if protocol != "file":
        return f"{protocol}{place[len(protocol) :]}"
    if url["host"].lower() not in ("", "localhost") or not url["path"]:
        raise StorageError(f"{shown(place)}: names no folder of this machine: write file:///FOLDER, or its path")
    return unquote(url["path"])


def join(root: str, path: str) -> str:
    """The address of a normal path below a root. A name is a name: in a web address its `?`, `#` and `%` are quoted."""
    if protocol_of(root) in ("http", "https"):
        path = quote(path, safe=_SAFE)
    return f"{root.rstrip('/')}/{path}"


def shown(text: str) -> str:
    """The text with every URL in it as messages show it: without user, password and query."""
    return _SECRETS.sub(lambda url: url["head"] + url["rest"], text)


def _no_credentials(what: str, protocol: str) -> str:
    library = LIBRARIES.get(protocol)
    where = f" ({library.credentials})" if library else ""
    return f"{what} in an address would end up in recipes and indexes: leave it out, the environment has credentials{where}"
