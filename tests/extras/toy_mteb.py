"""Tasks of MTEB on a dozen small videos, as bytes in a data set: what `tvr mteb --tasks toy_mteb.ToyT2V` takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value, Video
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

ELSEWHERE = "TVR_TOY_ELSEWHERE"  # right answers of every query that no corpus has, by commas
FOLDER = "TVR_TOY_VIDEOS"  # where the videos lie, with captions.txt: a sentence a video, in the order of their names


def metadata(name: str, category: str, **changed: Any) -> TaskMetadata:
    said: dict[str, Any] = {
        "name": name, "description": "a toy", "reference": "https://example.org",
        "dataset": {"path": "toy/videos", "revision": "0" * 40}, "type": "Any2AnyRetrieval", "category": category,
        "modalities": ["text", "video"], "eval_splits": ["test"], "eval_langs": ["eng-Latn"],
        "main_score": "ndcg_at_10", "date": ("2026-01-01", "2026-01-02"), "domains": ["Entertainment"],
        "task_subtypes": [], "license": "cc0-1.0", "annotations_creators": "derived", "dialect": [],
        "sample_creation": "created", "bibtex_citation": "", "prompt": {"query": "Find the video: "},
    }  # fmt: skip
    return TaskMetadata(**{**said, **changed})


class _Toy(AbsTaskRetrieval):
    def load_data(self, num_proc: Any = None, **more: Any) -> None:
        if self.data_loaded:
            return
        folder = Path(os.environ[FOLDER])
        videos = [path.read_bytes() for path in sorted(folder.glob("*.mp4"))]
        sentences = (folder / "captions.txt").read_text(encoding="utf-8").splitlines()
        names, asked = [str(i) for i in range(len(videos))], [str(i) for i in range(len(sentences))]
        films = Dataset.from_dict(
            {"id": names, "video": [{"bytes": data, "path": None} for data in videos]},
            features=Features({"id": Value("string"), "video": Video()}),
        )
        texts = Dataset.from_dict({"id": [f"q{name}" for name in asked], "text": sentences})
        t2v = self.metadata.category == "t2v"
        corpus, queries = (films, texts) if t2v else (texts, films)
        right = {f"q{name}": {name: 1} for name in asked} if t2v else {name: {f"q{name}": 1} for name in asked}
        for name in filter(None, os.environ.get(ELSEWHERE, "").split(",")):
            right = {query: {**items, name: 1} for query, items in right.items()}
        split = RetrievalSplitData(corpus=corpus, queries=queries, relevant_docs=right, top_ranked=None)
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class ToyT2V(_Toy):
    metadata = metadata("ToyT2V", "t2v")


class ToyV2T(_Toy):
    metadata = metadata("ToyV2T", "v2t")


class WithSound(_Toy):
    metadata = metadata("WithSound", "va2t", modalities=["text", "video", "audio"])
