"""`tvr import-features`: features that somebody else computed, as a feature store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import commands
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Backbone, Device, DryRun, Json, Offline, Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.features.import_features import ImportFeaturesReport


def import_features(
    features: Annotated[
        list[Path],
        typer.Argument(help="Tars of clip-video-encode; .npy, .npz, .pt, .safetensors, a video each; folders."),
    ],
    workspace: Workspace = DEFAULT_WORKSPACE,
    backbone: Backbone = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME:ROOT[:VARIANT]", help="Data set that the videos are of.")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option("--captions", help="Captions of the videos (JSONL, JSON, CSV, TSV) instead.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="KEY=COLUMN,…", help="Which columns of --captions are what."),
    ] = None,
    texts: Annotated[
        list[Path] | None,
        typer.Option("--texts", help="Vectors of the captions, by caption or by video, not to be encoded; repeatable."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Whose features they are, in words; default: the hash of the files.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Revision of the source, as the commit of a hub's data set.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option("--fps", help="Frames of the features a second, where the files do not tell times.")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option("--num-frames", min=1, help="Take this many of a video's frames, spread evenly.")
    ] = None,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="Leave out videos that the data set does not know.")
    ] = False,
    max_words: Annotated[
        int | None,
        typer.Option("--max-words", min=1, help="Tokens a caption keeps; default 32, or the context if shorter."),
    ] = None,
    word_importance: Annotated[
        str, typer.Option("--word-importance", help="Mark content words (DMAE): none, stopwords or spacy.")
    ] = "none",
    device: Device = "auto",
    offline: Offline = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a feature store of features that somebody else computed; --backbone names what they are of.

    Example: tvr import-features features.tar --backbone clip-vit-b32 --fps 1
    """
    from tvr_cli.engine.features.import_features import ImportOptions
    from tvr_cli.engine.features.import_features import import_features as run

    options = ImportOptions(
        source=source,
        revision=revision,
        fps=fps,
        num_frames=num_frames,
        ignore_unknown=ignore_unknown,
        texts=tuple(texts or ()),
        max_words=max_words,
        word_importance=word_importance,
        device=device,
        offline=offline,
    )
    report = run(
        features,
        workspace,
        backbone=backbone,
        captions=captions,
        columns=columns,
        data=data,
        options=options,
        dry_run=dry_run,
    )
    render.result(report, as_json, lambda: _show(report, workspace))


def _show(report: ImportFeaturesReport, workspace: Workspace) -> None:
    clips, captions = report.clips, report.captions
    low, high = report.frames
    each = "one vector each" if not high else f"{low} frames each" if low == high else f"{low} to {high} frames"
    render.line(
        f"{render.count(clips.total, 'video')} ({each}, D {report.dim}): {clips.encoded} new, {clips.kept} kept"
    )
    if report.left_out:
        render.line(f"{render.count(report.left_out, 'video')} that the data set does not know left out")
    if captions.total:
        splits = ", ".join(f"{name} {n}" for name, n in report.splits.items() if n)
        aside = f"; {captions.set_aside} of other videos set aside" if captions.set_aside else ""
        render.line(f"{render.count(captions.total, 'caption')} ({splits}), {captions.encoded} new texts{aside}")
    for sentence in report.lacks:
        render.line(sentence)
    revision = report.revision or "not said"
    render.line(f"source {report.source}, revision {revision}")
    if report.dry_run:
        render.line(f"about {render.size(report.size_bytes)} would be written; nothing was")
        return
    whose = report.backbone or "an unnamed backbone"
    render.line(
        f"features of {whose} in {report.folder} ({render.size(report.size_bytes)}), {render.duration(report.seconds)}"
    )
    if method := report.train_with:
        render.line(f"next: {commands.tvr('train', method=method, backbone=report.named, workspace=workspace)}")
    elif method := report.evaluate_with:
        render.line(f"next: {commands.tvr('evaluate', method=method, workspace=workspace)}")
    elif report.backbone is not None:
        render.line(f"next: {commands.tvr('query', 'a dog surfing', backbone=report.named, index=workspace)}")
