"""The names that others build on, frozen: the public API and the method protocol. Changing one is a release note."""

import inspect

import tvr_cli
from tvr_cli import api
from tvr_cli.api import OpenWorkspace
from tvr_cli.api_showing import Showing
from tvr_cli.api_sweeping import Sweeping
from tvr_cli.methods.base import Method


def signature(f):
    return str(inspect.signature(f))


def test_the_public_api():
    assert (
        signature(tvr_cli.evaluate)
        == "(scores: 'Scores', video_of_caption: 'Ints', protocol: 'V2TProtocol' = 'max') -> 'dict[str, Any]'"
    )
    assert (
        signature(tvr_cli.load_method)
        == "(workspace: 'Path | str', *, run: 'str | None' = None, method: 'str | None' = None) -> 'Method'"
    )
    assert signature(tvr_cli.Index.open) == "(folder: 'Path') -> 'Index'"


VERBS = {
    "extract": (
        "(self, videos: 'PathLike | Sequence[PathLike]' = (), *, data: 'str | None' = None, "
        "num_frames: 'int | None' = None, fps: 'float | None' = None, "
        "detail: 'float | None' = None, max_frames: 'int | None' = None, "
        "size: 'int | None' = None, fit: 'str | None' = None, for_backbone: 'str | None' = None, "
        "quality: 'int' = 90, keep_all: 'bool' = False, segment: 'str' = 'auto', "
        "include: 'str | Sequence[str]' = (), exclude: 'str | Sequence[str]' = (), decoder: 'str' = 'auto', "
        "workers: 'int | None' = None, timeout: 'float' = 120.0, shard: 'str' = '1/1', "
        "retry_failed: 'bool' = False, overwrite: 'bool' = False, keep_truncated: 'bool' = True, "
        "forget: 'bool' = False, follow: 'bool' = False, tracks: 'str' = 'default', "
        "memory_budget: 'str | None' = None, repair: 'str | None' = None, plan_parts: 'int | None' = None, "
        "engine: 'str' = 'local', address: 'str | None' = None, dry_run: 'bool' = False, "
        "again: 'str' = '') -> 'ExtractReport | ExtractEstimate | PartListReport'"
    ),
    "features": (
        "(self, *, captions: 'PathLike | None' = None, columns: 'str | None' = None, "
        "data: 'str | None' = None, backbone: 'str | None' = None, dtype: 'str' = 'fp16', "
        "shape: 'str' = 'fixed', word_shape: 'str | None' = None, "
        "max_words: 'int | None' = None, temporal_shift: 'bool' = False, patches: 'bool' = False, "
        "word_importance: 'str' = 'none', precision: 'str' = 'fp32', batch: 'int | None' = None, "
        "repair: 'str | None' = None, shard: 'str' = '1/1', "
        "engine: 'str' = 'local', address: 'str | None' = None, device: 'str' = 'auto', offline: 'bool' = False, "
        "dry_run: 'bool' = False) -> 'PrecomputeReport | PrecomputePreview'"
    ),
    "train": (
        "(self, method: 'str | None' = None, *, recipe: 'str | None' = None, config: 'PathLike | None' = None, "
        "set: 'str | Sequence[str]' = (), run: 'str | None' = None, resume: 'bool' = False, "
        "captions: 'PathLike | None' = None, backbone: 'str | None' = None, seed: 'int | None' = None, "
        "epochs: 'int | None' = None, batch_size: 'int | None' = None, tune: 'str | None' = None, "
        "select_on: 'str | None' = None, gradients: 'str | None' = None, device: 'str' = 'auto', "
        "threads: 'int | None' = None, workers: 'int | None' = None, memory_budget: 'str' = '512MB', "
        "devices: 'int | None' = None, offline: 'bool' = False, "
        "dry_run: 'bool' = False) -> 'TrainSummary | TrainPreview'"
    ),
    "train_seeds": (
        "(self, seeds: 'str | Sequence[int]', method: 'str | None' = None, *, recipe: 'str | None' = None, "
        "config: 'PathLike | None' = None, set: 'str | Sequence[str]' = (), run: 'str | None' = None, "
        "captions: 'PathLike | None' = None, backbone: 'str | None' = None, epochs: 'int | None' = None, "
        "batch_size: 'int | None' = None, tune: 'str | None' = None, select_on: 'str | None' = None, "
        "gradients: 'str | None' = None, device: 'str' = 'auto', threads: 'int | None' = None, "
        "workers: 'int | None' = None, memory_budget: 'str' = '512MB', devices: 'int | None' = None, "
        "offline: 'bool' = False, dry_run: 'bool' = False) -> 'SeedsReport | SeedsPreview'"
    ),
    "evaluate": (
        "(self, run: 'str | None' = None, *, method: 'str | None' = None, split: 'str' = 'test', "
        "v2t_protocol: 'str' = 'max', metrics: 'str' = 'fair', post: 'str | Sequence[str]' = (), "
        "scale: 'str | None' = None, qrels: 'PathLike | None' = None, allow_missing: 'bool' = False, noise_seeds: "
        "'int' = 1, rule: 'str | None' = None, seed: 'int' = 0, save_scores: 'PathLike | None' = None, "
        "backbone: 'str | None' = None, device: 'str' = 'auto', memory_budget: 'str' = '512MB', "
        "stream: 'bool | None' = None, set: 'str | Sequence[str]' = (), dry_run: 'bool' = False) "
        "-> 'EvaluateReport | EvaluatePreview'"
    ),
    "index": (
        "(self, *, run: 'str | None' = None, method: 'str | None' = None, backbone: 'str | None' = None, "
        "first: 'str | None' = None, then: 'str | None' = None, bank: 'PathLike | None' = None, "
        "store: 'str | None' = None, coarse_memory: 'str | None' = None, "
        "device: 'str' = 'auto', overwrite: 'bool' = False, dry_run: 'bool' = False) "
        "-> 'IndexReport'"
    ),
    "ask": "(self, sentences: 'str | Sequence[str]' = (), **asked: 'Any') -> 'QueryReport'",
    "search": (
        "(self, sentences: 'str | Sequence[str]' = (), *, k: 'int' = 10, per_file: 'int' = 3, "
        "run: 'str | None' = None, method: 'str | None' = None, backbone: 'str | None' = None, "
        "first: 'str | None' = None, shortlist: 'int | None' = None, exhaustive: 'bool' = False, "
        "min_score: 'float | None' = None, min_confidence: 'float | None' = 0.95, channel: 'str | None' = None, "
        "no_head: 'bool' = False, curves: 'bool' = False, "
        "image: 'PathLike | Sequence[PathLike]' = (), like: 'str | Sequence[str]' = (), "
        "plus: 'str | Sequence[str]' = (), minus: 'str | Sequence[str]' = (), inside: 'str | Sequence[str]' = (), "
        "newer: 'str | None' = None, older: 'str | None' = None, longer: 'float | None' = None, "
        "shorter: 'float | None' = None, not_in: 'PathLike | None' = None, "
        "device: 'str' = 'auto', offline: 'bool' = False) -> 'QueryReport'"
    ),
    "require_page": "(self, to: 'PathLike', *, overwrite: 'bool' = False) -> 'None'",
    "page": ("(self, found: 'QueryReport', to: 'PathLike', *, overwrite: 'bool' = False) -> 'WrittenPage'"),
    "save_clips": (
        "(self, found: 'QueryReport', folder: 'PathLike', *, pad: 'float' = 0.0, overwrite: 'bool' = "
        "False, dry_run: 'bool' = False) -> 'QueryReport'"
    ),
    "export": (
        "(self, found: 'QueryReport', path: 'PathLike', *, overwrite: 'bool' = False, dry_run: 'bool' = "
        "False) -> 'QueryReport'"
    ),
    "require_exportable": ("(self, path: 'PathLike', *, overwrite: 'bool' = False) -> 'None'"),
    "explain": (
        "(self, sentence: 'str', video: 'str', *, run: 'str | None' = None, method: 'str | None' = None, "
        "backbone: 'str | None' = None, first: 'str | None' = None, no_head: 'bool' = False, device: "
        "'str' = 'auto', offline: 'bool' = False) -> 'ExplainReport'"
    ),
    "similar": (
        "(self, moment: 'str', *, k: 'int' = 10, backbone: 'str | None' = None, device: 'str' = 'auto', "
        "offline: 'bool' = False) -> 'SimilarReport'"
    ),
    "ask_for": "(self, verb: 'str', **asked: 'Any') -> 'Any'",
    "require_drawable": ("(self, to: 'PathLike', *, overwrite: 'bool' = False) -> 'None'"),
    "draw": ("(self, found: 'ExplainReport', to: 'PathLike', *, overwrite: 'bool' = False) -> 'Path'"),
    "train_moments": (
        "(self, *, run: 'str | None' = None, captions: 'PathLike | None' = None, backbone: 'str | None' = "
        "None, seed: 'int' = 0, device: 'str' = 'auto', offline: 'bool' = False, dry_run: 'bool' = False) "
        "-> 'HeadReport | HeadPreview'"
    ),
    "sweep": (
        "(self, file: 'PathLike | None' = None, *, methods: 'str | Sequence[str]' = (), encoders: 'str | "
        "Sequence[str]' = (), data: 'str | Sequence[str]' = (), seeds: 'str | Sequence[int]' = (), set: "
        "'str | Sequence[str]' = (), tuned: 'str | None' = None, name: 'str | None' = None, "
        "jobs: 'int' = 1, shard: 'str' = '1/1', "
        "workers: 'int | None' = None, device: 'str' = 'auto', threads: 'int | None' = None, offline: "
        "'bool' = False, dry_run: 'bool' = False) -> 'SweepReport | SweepPreview'"
    ),
    "optimise": (
        "(self, methods: 'str | Sequence[str]', *, encoders: 'str | Sequence[str]' = (), data: 'str | "
        "Sequence[str]' = (), trials: 'int' = 16, seed: 'int' = 0, ranges: 'PathLike | None' = None, config: "
        "'PathLike | None' = None, set: 'str | Sequence[str]' = (), name: 'str | None' = None, jobs: 'int' = 1, "
        "shard: 'str' = '1/1', workers: 'int | None' = None, device: 'str' = 'auto', threads: 'int | None' = "
        "None, offline: 'bool' = False, dry_run: 'bool' = False) -> 'OptimiseReport | OptimisePreview'"
    ),
    "table": (
        "(self, sweep: 'PathLike', *, baseline: 'str | None' = None, plot: 'PathLike | None' = None, "
        "cards: 'PathLike | None' = None, seed: 'int' = 0) -> 'TableReport'"
    ),
}


def test_the_public_api_of_a_workspace():
    """Adding an argument with a default is allowed; whoever changes or takes one away breaks programs."""
    assert signature(tvr_cli.open_workspace) == (
        "(path: 'PathLike', *, progress: 'log.Watcher | None' = None) -> 'OpenWorkspace'"
    )
    of_all = {**vars(Showing), **vars(Sweeping), **vars(OpenWorkspace)}
    verbs = {name: signature(f) for name, f in of_all.items() if inspect.isfunction(f) and name[0] != "_"}
    assert verbs == VERBS
    assert signature(api.judge_scores) == (
        "(path: 'PathLike', *, v2t_protocol: 'str' = 'max', metrics: 'str' = 'fair', post: 'str | Sequence[str]' = (), "
        "scale: 'str | None' = None, qrels: 'PathLike | None' = None, "
        "allow_missing: 'bool' = False, seed: 'int' = 0, data: 'str | None' = None, split: 'str' = 'test') "
        "-> 'ScoresReport'"
    )
    assert signature(api.protocol_card) == "(report: 'EvaluateReport | ScoresReport') -> 'list[str]'"


def test_the_method_protocol():
    expected = {
        "init_from_backbone": "(self, text_tower: 'Mapping[str, Tensor]', logit_scale: 'Tensor') -> 'None'",
        "encode_text": "(self, text: 'TextFeatures') -> 'Encoding'",
        "encode_video": "(self, video: 'VideoFeatures') -> 'Encoding'",
        "score": "(self, text: 'Encoding', video: 'Encoding') -> 'Tensor'",
        "loss": "(self, batch: 'Batch', *, step: 'int', draws: 'Draws') -> 'LossOutput'",
        "coarse": "(self, e: 'Encoding') -> 'Tensor'",
        "explain": "(self, text: 'Encoding', video: 'Encoding') -> 'Tensor'",
        "dead": "(self) -> 'frozenset[str]'",
    }
    assert {name: signature(getattr(Method, name)) for name in expected} == expected


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(tvr_cli, "nothing_of_this_name")
