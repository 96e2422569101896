"""The cache of the Hugging Face hub: where a repository's revision lies on this machine, and downloading one.

Nothing here touches the network but `download`. A revision is a commit of 40 digits, or the name of a branch, a tag
or a request (`refs/pr/1`), which the cache knows as a commit since the last download.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tvr_cli.errors import EnvironmentProblem, reason
from tvr_cli.log import logger

MAIN = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What a folder of a model holds that is of use here: no code, no other framework's weights.
_SMALL = ("*.json", "*.txt", "*.model", "*.jinja")
_WEIGHTS = ("*.safetensors", "*.bin")  # the second where there is none of the first


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

    def download(self) -> Path:
        """Download what is of use of it, saying its size first. Raises EnvironmentProblem when that fails."""
        from huggingface_hub import HfApi, snapshot_download

        try:
            files = HfApi().model_info(self.repository, revision=self.revision, files_metadata=True).siblings or []
            kind = next((k for k in _WEIGHTS if any(f.rfilename.endswith(k[1:]) for f in files)), _WEIGHTS[0])
            ends = tuple(pattern[1:] for pattern in (*_SMALL, kind))
            size = sum(f.size or 0 for f in files if f.rfilename.endswith(ends))
            logger.info("downloading %s: %s", self, f"{size / 1e6:.0f} MB")
            return Path(snapshot_download(self.repository, revision=self.revision, allow_patterns=[*_SMALL, kind]))
        except Exception as e:  # of the network, of the hub's client, of the disk
            raise self.missing(f"and cannot be downloaded ({type(e).__name__}: {reason(e)})") from e

    @property
    def _cache(self) -> Path:
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE) / f"models--{self.repository.replace('/', '--')}"

    def __str__(self) -> str:
        return f"hf:{self.repository}{'' if self.revision == MAIN else '@' + self.revision}"
