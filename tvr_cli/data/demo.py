"""The toy world as a data set: `--data demo:FOLDER` reads what `tvr demo` made (or `demo_world.corpus.make`)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tvr_cli import commands, schema
from tvr_cli.data.demo_world.corpus import read_truth
from tvr_cli.errors import ConfigError, DataError
from tvr_cli.files import parse_json
from tvr_cli.types import SPLITS, Caption, Clip, Manifest

NOTE = "Toy world: checks the plumbing, says nothing about which method is better"
_AGAIN = f"make the toy corpus again with {commands.tvr('demo')}"
_CAPTION = {"id": schema.text, "video": schema.text, "caption": schema.text, "split": schema.one_of(*SPLITS)}


def load(root: Path, variant: str | None = None) -> Manifest:
    """Read a toy corpus. Raises ConfigError for a variant (there is none), DataError if `root` holds no toy corpus."""
    if variant is not None:
        raise ConfigError(f"the data set demo has no variants, found {variant!r}; say --data demo:{root}")
    truth = read_truth(root)
    file = root / "captions.jsonl"
    captions = []
    for number, line in enumerate(_read(file).splitlines(), start=1):
        source = f"{file}:{number}"
        try:
            record = schema.require(parse_json(line), _CAPTION)
        except ValueError as e:
            raise DataError(f"{source}: this line of the toy corpus is damaged: {e}; {_AGAIN}") from None
        captions.append(Caption(record["id"], record["video"], record["caption"], record["split"], source=source))
    present = [name for name in truth if (root / name).is_file()]
    return Manifest(
        name="demo",
        root=root,
        clips=tuple(Clip(name, root / name) for name in present),
        captions=tuple(captions),
        expected=dict(Counter(t.split for t in truth.values())),
        missing=tuple(sorted(truth.keys() - set(present))),
        annotations=(file, root / "events.jsonl"),
        notes=(NOTE,),
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"expected {str(file)!r}, found none; {_AGAIN}") from None
