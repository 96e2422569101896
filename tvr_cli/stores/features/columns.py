"""What a feature store keeps of every clip and every caption, by column. No torch."""

from __future__ import annotations

from tvr_cli.stores.columns import Column, Columns

_PLACE: Columns = {"shard": Column("int32"), "row": Column("int32")}
_SHARDS: Columns = {"shard.name": Column("uint8", "texts", axis="shard")}
CLIPS: Columns = {
    "id": Column("uint8", "texts"), "key": Column("int64"), "n_frames": Column("int32"), "start": Column("float64"),
    "end": Column("float64"), "span": Column("float64", width=2), "damaged": Column("int32"), "file": Column("int32"),
    **_PLACE,
    "file.id": Column("uint8", "texts", axis="file"), "file.path": Column("uint8", "texts", axis="file"),
    "file.sha256": Column("uint8", "texts", axis="file"), "file.width": Column("int32", axis="file"),
    "file.height": Column("int32", axis="file"), "file.decoder": Column("uint8", "texts", axis="file"),
    "file.truncated": Column("bool", axis="file"),
    **_SHARDS,
}  # fmt: skip
CAPTIONS: Columns = {
    "id": Column("uint8", "texts"), "text": Column("uint8", "texts"), "key": Column("int64"), "split": Column("uint8"),
    "clips": Column("int32", "lists"), "source": Column("uint8", "texts"), "start": Column("float64"),
    "end": Column("float64"), "file": Column("int32"),
    **_PLACE,
    "file.id": Column("uint8", "texts", axis="file"),
    **_SHARDS,
}  # fmt: skip
