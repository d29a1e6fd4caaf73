"""What all records share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all records: frozen, unknown keys refused, written by ``model_dump_json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
