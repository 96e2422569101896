"""The cache of the Hugging Face hub: where a repository's revision lies on this machine.

Nothing here touches the network (`backbones/hub.py` does). A revision is a commit of 40 digits, or the name of a
branch, a tag or a request (`refs/pr/1`), which the cache knows as a commit since the last download.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tvr_cli.errors import EnvironmentProblem

MAIN = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Place:
    """A repository `ORG/NAME` at a revision."""

    repository: str
    revision: str = MAIN

    @property
    def pinned(self) -> bool:
        """Whether the revision means the same weights for ever."""
        return bool(_COMMIT.fullmatch(self.revision))

    @property
    def commit(self) -> str | None:
        """The commit that the revision is on this machine, None where it is unknown."""
        if self.pinned:
            return self.revision
        try:
            found = (self._cache / "refs" / self.revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return found if _COMMIT.fullmatch(found) else None

    @property
    def folder(self) -> Path | None:
        """The folder of its files on this machine, None while there is none."""
        folder = self._cache / "snapshots" / self.commit if self.commit else None
        return folder if folder is not None and (folder / "config.json").is_file() else None

    @property
    def expected_at(self) -> str:
        """Say where its files would be found, for people."""
        where = self._cache / "snapshots" / (self.commit or "COMMIT")
        return f"{str(where)!r} ('config.json', weights and tokenizer), or a copy named by --backbone local:FOLDER"

    def missing(self, why: str) -> EnvironmentProblem:
        return EnvironmentProblem(
            f"{self} is not on this machine {why}: expected {self.expected_at}. Fetch it on a machine with a network: "
            f"hf download {self.repository} --revision {self.revision}"
        )

    @property
    def _cache(self) -> Path:
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE) / f"models--{self.repository.replace('/', '--')}"

    def __str__(self) -> str:
        return f"hf:{self.repository}{'' if self.revision == MAIN else '@' + self.revision}"
