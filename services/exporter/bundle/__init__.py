"""Records in, archive out: which bytes make up one package? Pure: no database, no clock, no keys, no network.

The layout is a bag (RFC 8493) whose payload is a data package, sealed by a JWS; docs/decisions/0003-wide-tables.md.
"""

from services.exporter.bundle.writer import write_bundle
from services.exporter.contents import (
    BundlePlan,
    FileEntry,
    RecordLine,
    Records,
    StoredFile,
    Tally,
    Withheld,
    not_portable,
    portable_fields,
)

__all__ = [
    "BundlePlan",
    "FileEntry",
    "RecordLine",
    "Records",
    "StoredFile",
    "Tally",
    "Withheld",
    "not_portable",
    "portable_fields",
    "write_bundle",
]
