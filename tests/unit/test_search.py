"""Time spans, the coarse scan, two-stage search and the index on disk."""

import pytest
import torch

from tvr_cli.engine.searching.search import SearchOptions, coarse_scan, search, time_span
from tvr_cli.errors import DataError, StoreMismatch
from tvr_cli.files import read_json, write_json
from tvr_cli.methods import base
from tvr_cli.stores.index import store as index_store
from tvr_cli.stores.index.store import Index, IndexBlock, IndexedClip, write_index
from tvr_cli.types import Sizes, TextFeatures, VideoFeatures

DIM, FRAMES = 16, 5


def features(clips):
    g = torch.Generator().manual_seed(1)
    frames = torch.randn(clips, FRAMES, DIM, generator=g)
    ts = torch.arange(FRAMES).double().expand(clips, -1) + 0.5
    return VideoFeatures(torch.arange(clips), frames, torch.full((clips,), FRAMES), ts)


def make_index(folder, clips=40, files=10):
    method = base.build("mean", Sizes(DIM, FRAMES, 8))
    video = features(clips)
    rows = [IndexedClip(f"{i % files}.mp4#{i}", f"{i % files}.mp4", f"{i % files}.mp4", 0.0, 5.0) for i in range(clips)]

    def blocks():
        for start in range(0, clips, index_store.ENCODING_ROWS):
            part = video.rows(slice(start, start + index_store.ENCODING_ROWS))
            encoded = method.encode_video(part)
            yield IndexBlock(encoded, method.coarse(encoded), part.ts, part.n_frames)

    return method, video, write_index(folder, {"method": "mean"}, rows, blocks())


def captions(video, wanted):
    pooled = video.frames[wanted].mean(1)
    return TextFeatures(torch.arange(len(wanted)), pooled, None, torch.full((len(wanted),), 3))


@pytest.mark.parametrize(
    ("weights", "span"),
    [
        ([0.1, 0.6, 0.3, 0.0], (0.5, 2.5)),  # frames 1 and 2, half-way to 0 and 3
        ([0.9, 0.1, 0.0, 0.0], (0.0, 0.5)),  # the first frame reaches to the clip's start
        ([0.0, 0.0, 0.1, 0.9], (2.5, 3.2)),  # the last one to its end
        ([0.3, 0.0, 0.3, 0.4], (1.5, 3.2)),  # frame 0 has the weight, but is not contiguous
    ],
)
def test_a_span_is_the_contiguous_frames_with_half_of_the_peak(weights, span):
    found = time_span(torch.tensor(weights), torch.arange(4).double(), 0.0, 3.2)
    assert found == pytest.approx(span)


def test_the_coarse_scan_finds_the_nearest_vectors(monkeypatch):
    monkeypatch.setattr("tvr_cli.engine.searching.search._SCAN_ROWS", 7)
    vectors = torch.nn.functional.normalize(torch.randn(50, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    query = vectors[33]
    assert coarse_scan(query, vectors, 9).tolist() == (vectors @ query).topk(9).indices.tolist()


def test_clips_of_one_file_are_one_hit(tmp_path):
    method, video, index = make_index(tmp_path / "index")
    hits = search(method, index, method.encode_text(captions(video, [23])), SearchOptions(k=20))[0]
    assert hits[0].video_id == "3.mp4" and hits[0].rank == 1
    assert len(hits) == len({h.video_id for h in hits}) == 10
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_min_score_leaves_only_confident_hits(tmp_path):
    method, video, index = make_index(tmp_path / "index")
    text = method.encode_text(captions(video, [5]))
    assert len(search(method, index, text, SearchOptions(min_score=0.9))[0]) == 1
    assert search(method, index, text, SearchOptions(min_score=1.01))[0] == []


def test_the_shortlist_gives_the_exhaustive_answer_when_it_is_long_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(index_store, "ENCODING_ROWS", 16)  # several shards
    method, video, index = make_index(tmp_path / "index", clips=60, files=60)
    text = method.encode_text(captions(video, [0, 17, 59]))
    short, full = (
        search(method, index, text, SearchOptions(k=3, **o)) for o in ({"shortlist": 30}, {"exhaustive": True})
    )
    for a, b in zip(short, full, strict=True):
        assert [h.video_id for h in a] == [h.video_id for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-6)


def test_a_flipped_bit_is_found_and_named(tmp_path):
    _, _, index = make_index(tmp_path / "index")
    path = index.folder / index.shards[0]["name"]
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"encoding-00000.*tvr index --overwrite"):
        index.encoding(torch.tensor([0]))


def test_another_format_is_refused(tmp_path):
    _, _, index = make_index(tmp_path / "index")
    head = read_json(index.folder / "store.json")
    write_json(index.folder / "store.json", {**head, "format": 99})
    with pytest.raises(StoreMismatch, match="format 99"):
        Index.open(index.folder)


def test_no_index_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match="tvr index"):
        Index.open(tmp_path)
