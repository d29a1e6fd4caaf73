"""What a stage's rules chose at its entry, on disk: taken up again, a stage is entered as it was, on any machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from weft.build.choosing import ByGradients
from weft.core.sites import SiteMap
from weft.core.view import Site
from weft.errors import CheckpointError
from weft.run.files import write_text
from weft.strategy.choosing import ChoosingRule


class _Record(BaseModel):
    """``chosen.json``: scores by site, best first, by the number of the rule."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rules: dict[int, dict[str, float]] = {}


@dataclass(frozen=True, slots=True)
class Recorded:
    """Chooses as ``fresh`` does, once.

    Attributes:
        path: of the record; made when the first choice is.
        fresh: scores what nobody has chosen yet.
        sites: the network as it is entered.
    """

    path: Path
    fresh: ByGradients
    sites: SiteMap

    def __call__(self, rule: ChoosingRule, candidates: Sequence[Site], /, *, number: int) -> Sequence[str]:
        """Return what was chosen for rule ``number``, now or when the stage was first entered.

        Raises:
            CheckpointError: the record cannot be read, or names what is no candidate.
        """
        known = self._known()
        if number not in known:
            known = {**known, number: self.fresh.scores(self.sites, rule, candidates)}
            write_text(self.path, json.dumps({"rules": known}, indent=2) + "\n")
        chosen, names = tuple(known[number]), {site.path for site in candidates}
        if not names.issuperset(chosen) or len(chosen) != rule.count(len(names)):
            raise CheckpointError(
                f"{self.path}: rule {number} must have chosen {rule.count(len(names))} of its modules, but has "
                f"{', '.join(chosen) or 'none'}. Remove {self.path.parent} and resume to train the stage from its start."
            )
        return chosen

    def _known(self) -> Mapping[int, dict[str, float]]:
        if not self.path.is_file():
            return {}
        try:
            return _Record.model_validate_json(self.path.read_bytes()).rules
        except ValidationError as error:
            raise CheckpointError(
                f"{self.path}: must be as Weft wrote it, but is not. Remove {self.path.parent} and resume to train the "
                f"stage from its start."
            ) from error
