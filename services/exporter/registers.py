"""Where does the exporter keep the registers that its packages cite?"""

from typing import Any

from sqlmodel import select
from sqlmodel.sql.expression import SelectOfScalar

from services.exporter.tables import RegisterCopy
from shared.cited import CitedRegisters


class Registers(CitedRegisters):
    """The versions that packages cite."""

    def _query(self, version: str) -> SelectOfScalar[Any]:
        return select(RegisterCopy.content).where(RegisterCopy.version == version)

    def _copy(self, organisation: str, version: str, content: dict[str, Any]) -> RegisterCopy:
        return RegisterCopy(organisation_id=organisation, version=version, content=content)
