"""Which tag files make the tree a bag (RFC 8493)? They may be seen outside the encryption: no personal data in them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from services.exporter.contents import BundlePlan
from shared.vocabulary import DPV_RIGHT

PROFILE = "urn:habeas:bagit-profile:1.0"
"""Published as docs/habeas-bagit-profile-1.0.json."""
BAGIT = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
SIGNED = ("bag-info.txt", "bagit.txt", "manifest-sha256.txt")
"""What the signature covers: the manifest carries every payload file, so this is the whole answer."""
SIGNATURE = "signatures/bundle.jws"
KEYS = "signatures/jwks.json"


@dataclass(frozen=True, slots=True)
class Item:
    """A file as written. `path` is relative to the bag's root."""

    path: str
    bytes: int
    sha256: str


def bag_info(plan: BundlePlan, payload: Iterable[Item], now: datetime) -> bytes:
    """Return bag-info.txt (RFC 8493 §2.2.2); `now` gives the bagging date."""
    items = list(payload)
    organisation = plan.register.organisation
    lines = {
        "Source-Organization": organisation.name,
        "Organization-Address": organisation.address,
        "Contact-Email": organisation.contact.email,
        "External-Identifier": plan.name,
        "Bagging-Date": now.date().isoformat(),
        "Payload-Oxum": f"{sum(item.bytes for item in items)}.{len(items)}",
        "BagIt-Profile-Identifier": PROFILE,
        "Habeas-Right": DPV_RIGHT[plan.package.right],
        "Habeas-Language": plan.package.language.value,
        "Habeas-Register-Version": plan.package.register_version,
    }
    return "".join(f"{label}: {' '.join(value.split())}\n" for label, value in lines.items()).encode()


def manifest(items: Iterable[Item]) -> bytes:
    """Return a manifest, sorted by path, LF; `sha256sum -c` reads it too."""
    return "".join(f"{item.sha256}  {item.path}\n" for item in sorted(items, key=lambda item: item.path)).encode()


def statement(plan: BundlePlan, tags: Mapping[str, bytes], now: datetime) -> bytes:
    """Return the payload of the signature: who says so, when, about which package, and the digests of `SIGNED`."""
    return msgspec.json.encode(
        {
            "iss": f"urn:habeas:{plan.register.organisation.id}",
            "iat": int(now.timestamp()),
            "sub": plan.name,
            "files": {name: hashlib.sha256(tags[name]).hexdigest() for name in SIGNED},
        }
    )
