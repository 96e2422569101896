"""`tvr precompute-features`: features of frames and captions, once for all methods."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvr_cli import api, commands
from tvr_cli.cli import render
from tvr_cli.cli.options import DEFAULT_WORKSPACE, Backbone, Device, DryRun, Json, Offline, Workspace

if TYPE_CHECKING:
    from tvr_cli.engine.features.precompute import PrecomputePreview, PrecomputeReport


def precompute_features(
    workspace: Workspace = DEFAULT_WORKSPACE,
    captions: Annotated[
        Path | None,
        typer.Option("--captions", help="Captions (JSONL, JSON, CSV, TSV); default: captions.jsonl beside the videos."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns", metavar="KEY=COLUMN,…", help="Which columns are what: video=video_id,caption=sentence."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME:ROOT[:VARIANT]", help="Captions of a data set instead.")
    ] = None,
    backbone: Backbone = None,
    dtype: Annotated[str, typer.Option("--dtype", help="How features are stored: fp16, bf16 or fp32.")] = "fp16",
    shape: Annotated[
        str, typer.Option("--shape", help="fixed keeps missing frames and pad tokens; ragged the real ones only.")
    ] = "fixed",
    words: Annotated[
        str | None, typer.Option("--word-shape", help="The same for tokens alone; default: as --shape.")
    ] = None,
    max_words: Annotated[
        int | None,
        typer.Option("--max-words", min=1, help="Tokens a caption keeps; default 32, or the context if shorter."),
    ] = None,
    temporal_shift: Annotated[
        bool, typer.Option("--temporal-shift", help="Shift patches between frames (EagleNet); needs a ViT.")
    ] = False,
    patches: Annotated[
        bool,
        typer.Option("--patches", help="Keep patches of frames too (TS2-Net): 50 times the bytes. Needs a ViT."),
    ] = False,
    word_importance: Annotated[
        str, typer.Option("--word-importance", help="Mark content words (DMAE): none, stopwords or spacy.")
    ] = "none",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="Arithmetic of the backbone: fp32; bf16 or fp16, where a short trial finds them faster than fp32.",
        ),
    ] = "fp32",
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Frames a forward pass.")] = None,
    repair: Annotated[
        str | None,
        typer.Option(
            "--repair",
            metavar="NAME",
            help="Make one damaged shard again, nothing else; or what a store, by its fingerprint, lacks.",
        ),
    ] = None,
    shard: Annotated[
        str,
        typer.Option("--shard", metavar="I/N", help="Only part I of N of the clips, no captions; auto/N in an array."),
    ] = "1/1",
    engine: Annotated[
        str, typer.Option("--engine", help="ray runs all parts of a list on a cluster; local is this process.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option("--address", help="With --engine ray: of the cluster; default one of this machine.")
    ] = None,
    device: Device = "auto",
    offline: Offline = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Compute per-frame features of the extracted clips and token features of captions, and keep them.

    Only what is new is computed. Example: tvr precompute-features --captions captions.jsonl
    """
    from tvr_cli.engine.features.precompute import PrecomputeReport

    report = api.open_workspace(workspace).features(
        captions=captions,
        columns=columns,
        data=data,
        backbone=backbone,
        dtype=dtype,
        shape=shape,
        word_shape=words,
        max_words=max_words,
        temporal_shift=temporal_shift,
        patches=patches,
        word_importance=word_importance,
        precision=precision,
        batch=batch,
        repair=repair,
        shard=shard,
        engine=engine,
        address=address,
        device=device,
        offline=offline,
        dry_run=dry_run,
    )
    human = (
        (lambda: _show(report, workspace)) if isinstance(report, PrecomputeReport) else lambda: _show_preview(report)
    )
    render.result(report, as_json, human)


def _show(report: PrecomputeReport, workspace: Workspace) -> None:
    clips, captions = report.clips, report.captions
    render.line(f"{render.count(clips.total, 'clip')}: {clips.encoded} encoded, {clips.kept} kept")
    if captions.total:
        texts = f"{captions.encoded} encoded, {captions.texts - captions.encoded} kept"
        different = render.count(captions.texts, "different text")
        render.line(f"{render.count(captions.total, 'caption')} ({different}): {texts}")
    render.line(
        f"features of {report.backbone} in {report.folder} ({render.size(report.size_bytes)}), "
        f"{render.duration(report.seconds)}"
    )
    if captions.total and (method := report.train_with):
        render.line(f"next: {commands.tvr('train', method=method, backbone=report.named, workspace=workspace)}")
    elif method := report.evaluate_with:
        render.line(f"next: {commands.tvr('evaluate', method=method, workspace=workspace)}")
    else:
        query = commands.tvr("query", "a dog surfing", backbone=report.named, index=workspace)
        render.line(f"next: {query}")


def _show_preview(preview: PrecomputePreview) -> None:
    clips, captions, sizes = preview.clips, preview.captions, preview.sizes
    render.line(f"{clips.total} clips, {clips.encoded} of them to encode with {preview.backbone}")
    if captions.total:
        render.line(f"{captions.total} captions, {captions.encoded} different texts to encode")
    vectors = f"{sizes.clips} clips + " if sizes.clips else ""
    values = (
        f"({sizes.frames} frames + {vectors}{sizes.tokens} tokens) x {sizes.dim} values x {sizes.bytes_a_value} bytes"
    )
    render.line(f"{values} = {render.size(preview.size_bytes)}")
    render.line(f"about {render.duration(preview.seconds)} on this device; nothing was written")
    if preview.weights is None:
        render.line("the weights are not on this machine: they would be downloaded first")
