"""Time spans, the coarse scan, two-stage search and the index on disk."""

import errno
import io

import pytest
import torch
from indexes import DIM, blocks, captions, edit_head, head, make, method, videos

from tvr_cli.engine.searching.hits import SearchOptions, time_span
from tvr_cli.engine.searching.search import search
from tvr_cli.errors import DataError, EnvironmentProblem, StoreMismatch
from tvr_cli.files import read_json, write_json
from tvr_cli.stores.index import store as index_store
from tvr_cli.stores.index import writer
from tvr_cli.stores.index.store import Index, IndexBlock, write_index
from tvr_cli.types import Encoding, VideoFeatures


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


def of_vectors(folder, vectors):
    """An index of nothing but coarse vectors [V, D] or [V, K, D]."""
    clips = [index_store.IndexedClip(f"{i}.mp4", f"{i}.mp4", f"/{i}.mp4", 0.0, 1.0) for i in range(len(vectors))]
    one = torch.ones(len(vectors), dtype=torch.int64)
    encoding = Encoding(torch.arange(len(vectors)), {"none": torch.zeros(len(vectors), 1)})
    return write_index(folder, {}, [IndexBlock(clips, encoding, vectors, torch.zeros(len(vectors), 1), one)])


def test_the_coarse_scan_finds_the_nearest_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(index_store, "_SCAN_ROWS", 7)
    monkeypatch.setattr(index_store, "_SCAN_QUERIES", 2)
    vectors = torch.nn.functional.normalize(torch.randn(50, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    vectors = vectors.half().float()
    query = vectors[[33, 1, 49]]
    found = of_vectors(tmp_path / "index", vectors).candidates(query, 9)
    assert found.tolist() == (query @ vectors.T).topk(9).indices.tolist()


def test_a_clip_of_several_vectors_is_as_near_as_its_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr(index_store, "_SCAN_ROWS", 7)
    several = torch.nn.functional.normalize(torch.randn(20, 3, DIM, generator=torch.Generator().manual_seed(0)), dim=2)
    several = several.half().float()
    found = of_vectors(tmp_path / "index", several).candidates(several[:2, 1], 5)
    assert found.tolist() == (several[:2, 1] @ several.flatten(0, 1).T).view(2, 20, 3).amax(2).topk(5).indices.tolist()


def test_clips_of_one_file_are_one_hit(tmp_path):
    index, mean = make(tmp_path / "index"), method()
    hits = search(mean, index, mean.encode_text(captions([20])), SearchOptions(k=20))[0]
    assert hits[0].video_id == "0.mp4" and hits[0].rank == 1
    assert len(hits) == len({h.video_id for h in hits}) == 10
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_of_equal_clips_the_smaller_id_stands_first(tmp_path):
    index = of_vectors(tmp_path / "index", torch.ones(5, 1))

    class Same:
        def coarse(self, e):
            return torch.ones(len(e), 1)

        def score(self, text, video):
            return torch.ones(len(text), len(video))

        def explain(self, text, video):
            return torch.ones(len(text), len(video), 1)

    index = index.delete(["0.mp4"]).append(_zero(), identity={}, asked={})  # the first clip comes back as the last row
    hits = search(Same(), index, Encoding(torch.zeros(1), {}), SearchOptions(k=3))[0]
    assert [h.video_id for h in hits] == ["0.mp4", "1.mp4", "2.mp4"]


def _zero():
    clip = index_store.IndexedClip("0.mp4", "0.mp4", "/0.mp4", 0.0, 1.0)
    encoding = Encoding(torch.zeros(1, dtype=torch.int64), {"none": torch.zeros(1, 1)})
    yield IndexBlock([clip], encoding, torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1, dtype=torch.int64))


def test_min_score_leaves_only_confident_hits(tmp_path):
    index, mean = make(tmp_path / "index"), method()
    text = mean.encode_text(captions([20]))  # a clip of one frame: its caption has its direction
    assert len(search(mean, index, text, SearchOptions(min_score=0.99))[0]) == 1
    assert search(mean, index, text, SearchOptions(min_score=1.01))[0] == []


def test_the_shortlist_gives_the_exhaustive_answer_when_it_is_long_enough(tmp_path, monkeypatch):
    monkeypatch.setattr("tvr_cli.engine.searching.search.ENCODING_ROWS", 16)  # read in several parts
    index, mean = make(tmp_path / "index", clips=60, files=60), method()
    text = mean.encode_text(captions([0, 17, 59]))
    short, full = (
        search(mean, index, text, SearchOptions(k=3, **o)) for o in ({"shortlist": 30}, {"exhaustive": True})
    )
    for a, b in zip(short, full, strict=True):
        assert [(h.video_id, h.start, h.end) for h in a] == [(h.video_id, h.start, h.end) for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-6)


def test_an_index_without_clips_answers_with_nothing(tmp_path):
    index, mean = make(tmp_path / "index", clips=0), method()
    assert len(index) == 0 and search(mean, index, mean.encode_text(captions([1])), SearchOptions()) == [[]]


def crowded(folder, model, **options):
    """30 files of a clip each, and a film of 400 windows that all look more like the caption of clip 20."""

    def listed():
        yield from blocks(model, 30, files=30)
        film = videos(400, 100)
        like = videos(1, 20).frames[:, :1]
        frames = like + 0.01 * film.frames
        film = VideoFeatures(film.key, frames, film.n_frames, film.ts)
        encoded = model.encode_video(film)
        clips = [index_store.IndexedClip(f"film#{i:04d}", "film", "/film", float(i), i + 1.0) for i in range(400)]
        yield IndexBlock(clips, encoded, model.coarse(encoded), film.ts, film.n_frames)

    return write_index(folder, {}, listed(), **options)


@pytest.mark.parametrize("first", ["coarse", "rough"])
def test_one_film_crowds_out_no_other_file(tmp_path, first):
    model = method("gare")
    way = {"first": first, "clips": 430, "shortlist": 200, "prefilter": 0}
    index = crowded(tmp_path / "index", model, measured={"way": way})
    hits = search(model, index, model.encode_text(captions([20])), SearchOptions(k=31))[0]
    assert len(hits) == 31 and sum(hit.video_id == "film" for hit in hits) == 1


def test_of_a_prefilter_too_every_file_comes_through(tmp_path):
    model = method("gare")
    way = {"first": "coarse", "clips": 430, "shortlist": 40, "prefilter": 80}
    index = crowded(tmp_path / "index", model, measured={"way": way})
    found, true = (
        search(model, index, model.encode_text(captions([20, 3])), SearchOptions(k=31, **o))
        for o in ({}, {"exhaustive": True})
    )
    for a, b in zip(found, true, strict=True):
        assert {hit.video_id for hit in a} == {hit.video_id for hit in b} and len(a) == 31


def test_a_plan_that_scores_every_clip_gives_the_exhaustive_answer(tmp_path):
    model = method("gare")
    way = {"first": "every", "clips": 430, "shortlist": 430, "prefilter": 0}
    index = crowded(tmp_path / "index", model, measured={"way": way})
    text = model.encode_text(captions([20, 3, 7]))
    every, full = (search(model, index, text, SearchOptions(**o)) for o in ({}, {"exhaustive": True}))
    assert every == full
    alone = [search(model, index, text.rows(slice(i, i + 1)), SearchOptions())[0] for i in range(3)]
    for a, b in zip(every, alone, strict=True):
        assert [h.video_id for h in a] == [h.video_id for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-5)


def test_a_shortlist_that_is_asked_for_is_kept_to(tmp_path, monkeypatch):
    model = method("gare")
    way = {"first": "every", "clips": 430, "shortlist": 430, "prefilter": 0}
    index = crowded(tmp_path / "index", model, measured={"way": way})
    scored = []
    monkeypatch.setattr(model, "score", lambda t, v, real=model.score: scored.append(len(v)) or real(t, v))
    search(model, index, model.encode_text(captions([3])), SearchOptions(k=5, shortlist=12))
    assert scored == [12]


@pytest.mark.parametrize("clips", [1, 2])
def test_fewer_clips_than_asked_for_are_all_of_them(tmp_path, clips):
    index, mean = make(tmp_path / "index", clips=clips, files=clips), method()
    assert len(search(mean, index, mean.encode_text(captions([0])), SearchOptions(k=20))[0]) == clips


def test_identical_clips_are_answered_by_their_ids(tmp_path):
    mean = method()
    same = videos(1, 3)
    many = VideoFeatures(
        torch.arange(300), same.frames.expand(300, -1, -1), same.n_frames.expand(300), same.ts.expand(300, -1)
    )
    encoded = mean.encode_video(many)
    clips = [index_store.IndexedClip(f"{i:03d}", f"{i:03d}", f"/{i}", 0.0, 1.0) for i in range(300)]
    index = write_index(
        tmp_path / "index", {}, [IndexBlock(clips, encoded, mean.coarse(encoded), many.ts, many.n_frames)]
    )
    found = search(mean, index, mean.encode_text(captions([3, 4])), SearchOptions(k=3, exhaustive=True))
    assert [[hit.video_id for hit in hits] for hits in found] == [["000", "001", "002"]] * 2


def test_a_flipped_bit_is_found_and_named(tmp_path):
    folder = make(tmp_path / "index").folder
    part = next(p for p in head(folder)["segments"][0]["parts"] if p["name"] == "t.frames")
    path = folder / "g000001" / part["file"]
    data = bytearray(path.read_bytes())
    data[5] ^= 4
    path.write_bytes(data)
    index = Index.open(folder)
    with pytest.raises(DataError, match=rf"{part['file']}.*t\.frames.*rows 0 to .*tvr index --overwrite"):
        index.clip(0)
    with pytest.raises(DataError, match=r"t\.frames"):
        index.verify()


def test_a_file_that_is_cut_while_the_index_is_open_ends_in_a_sentence(tmp_path):
    index, mean = make(tmp_path / "index"), method()
    part = next(p for p in head(index.folder)["segments"][0]["parts"] if p["name"] == "t.frames")
    with open(index.generation / part["file"], "r+b") as f:
        f.truncate(0)
    with pytest.raises(DataError, match=r"has 0 bytes, expected .*tvr index --overwrite"):
        search(mean, index, mean.encode_text(captions([1])), SearchOptions())


def test_a_disk_that_fills_up_while_an_index_is_written_is_a_sentence(tmp_path, monkeypatch):
    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "open", lambda path, mode: io.BufferedWriter(Full(), 1 << 20), raising=False)
    with pytest.raises(EnvironmentProblem, match=r"no space left while writing '.*000001-00\.bin'"):
        make(tmp_path / "index")
    monkeypatch.undo()
    assert len(make(tmp_path / "index")) == 40


def test_another_format_is_refused(tmp_path):
    folder = make(tmp_path / "index").folder
    write_json(folder / "current", {**read_json(folder / "current"), "format": 99})
    with pytest.raises(StoreMismatch, match="format 99, this tvr reads 2"):
        Index.open(folder)


def test_no_index_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match="tvr index"):
        Index.open(tmp_path)


@pytest.mark.parametrize("missing", ["store.json", "000001-04.bin", "000001.sums"])
def test_a_missing_file_is_named(tmp_path, missing):
    folder = make(tmp_path / "index").folder
    (folder / "g000001" / missing).unlink()
    with pytest.raises(DataError, match=missing):
        Index.open(folder)


# ------------------------------------------------------------------------------------------------------------ precision


def test_larger_tensors_are_kept_in_half_precision_and_come_back_in_full(tmp_path):
    big = 256
    half, full = (make(tmp_path / s, 30, name="text_guided", dim=big, stored=s) for s in ("float16", "float32"))
    a, b = half.encoding(torch.arange(30)), full.encoding(torch.arange(30))
    assert a["frames"].dtype == torch.float32 and half.size_bytes() < 0.6 * full.size_bytes()
    assert torch.equal(a["frames"], b["frames"].half().float()) and torch.equal(a["mean"], b["mean"].half().float())
    assert torch.equal(a["gram"], b["gram"])  # 25 numbers a clip


def test_numbers_too_large_for_half_precision_are_not_bent_to_it(tmp_path):
    model = method("text_guided", 256)
    with pytest.raises(index_store.DoesNotFit, match="'frames' has numbers too large"):
        write_index(tmp_path / "index", {}, _loud(model), stored="float16")
    assert write_index(tmp_path / "index", {}, _loud(model)).encoding(torch.tensor([0]))["frames"].max() > 65504


def _loud(model):
    from indexes import blocks

    for block in blocks(model, 2):
        loud = Encoding(block.encoding.key, {**block.encoding.tensors, "frames": block.encoding["frames"] * 1e6})
        yield index_store.IndexBlock(block.clips, loud, block.coarse, block.ts, block.n_frames)


@pytest.mark.parametrize(
    ("near", "same"),
    [
        ([10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0.0], True),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0.0], True),  # the order among the ten is nobody's loss
        ([10, 9, 8, 7, 6, 5, 4, 3, 2, 0.9, 1.0], False),
    ],
)
def test_half_precision_must_find_the_same_ten_files(near, same):
    from tvr_cli.engine.searching.precision import same_best

    exact = torch.tensor([10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0.0])
    assert same_best(exact, torch.tensor(near)) is same


def test_files_whose_scores_lie_close_may_change_places():
    from tvr_cli.engine.searching.precision import same_best

    exact = torch.tensor([9, 8, 7, 6, 5, 4, 3, 2, 1, 0.50005, 0.5])
    swapped = torch.tensor([9, 8, 7, 6, 5, 4, 3, 2, 1, 0.5, 0.50005])
    assert same_best(exact, swapped) and not same_best(exact - torch.tensor([0.0] * 10 + [0.001]), swapped)


# ------------------------------------------------------------------------------------------------ growing and shrinking


def answers(index, **options):
    mean = method()
    text = mean.encode_text(captions([0, 3, 17, 44, 59]))
    return [
        [(h.video_id, h.path, h.start, h.end) for h in hits]
        for hits in search(mean, index, text, SearchOptions(k=8, **options))
    ]


def scores(index, **options):
    mean = method()
    text = mean.encode_text(captions([0, 3, 17, 44, 59]))
    return [h.score for hits in search(mean, index, text, SearchOptions(k=8, **options)) for h in hits]


@pytest.mark.parametrize("options", [{}, {"shortlist": 20}, {"exhaustive": True}], ids=str)
def test_an_index_that_grew_and_shrank_answers_as_one_that_was_built(tmp_path, options):
    from indexes import blocks, indexed

    built = make(tmp_path / "built", clips=60, files=20)
    index = make(tmp_path / "index", clips=50, files=20)
    mean = method()
    index = index.append(blocks(mean, 15, first=50, files=20), identity={"method": "mean"}, asked={"method": "mean"})
    index = index.delete([indexed(i, 20).id for i in range(60, 65)])  # in the new segment
    index = index.delete([indexed(i, 20).id for i in (3, 17)])  # in the old one; they come back
    assert len(index) == 58 and index.head.asked == {"method": "mean"}
    index = index.append((b for i in (3, 17) for b in blocks(mean, 1, first=i, files=20)), identity={}, asked={})
    assert len(index) == len(built) == 60 and len(index.head.segments) == 3
    assert answers(index, **options) == answers(built, **options)
    assert scores(index, **options) == scores(built, **options)
    assert {row.id for _, row in index.listing()} == {row.id for _, row in built.listing()}
    assert index.count_files() == built.count_files() == 20
    index.verify()


def test_an_index_grows_after_clips_were_deleted(tmp_path):
    """The bits of the deleted are those of fewer rows then; what came later is not deleted."""
    from indexes import blocks, indexed

    index = make(tmp_path / "index", clips=12).delete([indexed(3, 10).id])
    index = index.append(blocks(method(), 9, first=12), identity={}, asked={})
    assert index.rows().tolist() == [i for i in range(21) if i != 3]
    index.delete([indexed(20, 10).id])
    assert Index.open(tmp_path / "index").rows().tolist() == [i for i in range(20) if i != 3]


def test_growing_links_what_was_there_and_leaves_who_reads_it(tmp_path):
    from indexes import blocks

    index = make(tmp_path / "index", clips=60)
    before = answers(index)
    inode = (index.generation / "000001-00.bin").stat().st_ino
    grown = index.append(blocks(method(), 5, first=60), identity={}, asked={})
    assert (grown.generation / "000001-00.bin").stat().st_ino == inode
    assert not index.generation.exists() and answers(index) == before  # mapped before it went
    assert len(index) == 60 and len(grown) == 65


def test_where_there_are_no_links_growing_copies(tmp_path, monkeypatch):
    import os

    from indexes import blocks

    def refuse(source, target):
        raise OSError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    grown = make(tmp_path / "index", clips=20).append(blocks(method(), 5, first=20), identity={}, asked={})
    grown.verify()
    assert len(grown) == 25


def test_clips_of_another_shape_are_not_appended(tmp_path):
    from indexes import blocks

    index = make(tmp_path / "index", clips=20)
    with pytest.raises(index_store.DoesNotFit):
        index.append(blocks(method("mean", 24), 5, first=20), identity={}, asked={})
    assert len(Index.open(index.folder)) == 20


def test_an_index_is_worn_by_many_segments_or_deleted_clips(tmp_path, monkeypatch):
    from indexes import blocks, indexed

    monkeypatch.setattr(index_store, "_MOST_SEGMENTS", 2)
    index = make(tmp_path / "index", clips=10)
    assert not index.worn and index.delete([indexed(i, 10).id for i in range(3)]).worn
    again = make(tmp_path / "again", clips=10)
    assert again.append(blocks(method(), 1, first=10), identity={}, asked={}).worn


def test_what_an_index_says_of_itself_can_be_changed_by_appending_nothing(tmp_path):
    index = make(tmp_path / "index", clips=10).append([], identity={"content": "new"}, asked={"method": "mean"})
    assert index.identity == {"content": "new"} and len(index.head.segments) == 1


def test_the_head_keeps_what_was_measured_and_room_for_more(tmp_path):
    recall = {"at": {"10": 0.99}, "sentences": 5, "of": "captions", "clips": 10, "mends": None}
    index = make(tmp_path / "index", clips=10, measured={"recall": recall})
    edit_head(index.folder, lambda found: found.update(second={"identity": {"store": "b"}}))
    again = Index.open(index.folder).append([], identity={}, asked={})
    assert again.head.measured == {"recall": recall}
    assert again.head.second == {"identity": {"store": "b"}}


class Sum:
    """Scores a clip by the first number that is kept of it."""

    def score(self, text, video):
        return video["x"][:, 0].expand(len(text), -1)


def sample(values):
    """A block whose clips are a file each, with 200 numbers to keep, which is more than 512 bytes."""
    x = torch.tensor(values)[:, None].expand(-1, 200).contiguous()
    clips = [index_store.IndexedClip(f"{i}.mp4", f"{i}.mp4", f"/{i}.mp4", 0.0, 1.0) for i in range(len(x))]
    return IndexBlock(clips, Encoding(torch.arange(len(x)), {"x": x}), torch.ones(len(x), 4), x, x)


@pytest.mark.parametrize(
    ("values", "stored", "said"),
    [
        ([i / 7 for i in range(30)], "float16", "the ten best files of 3 of 3 sentences are those of full precision"),
        ([1000 - i / 100 for i in range(30)], "float32", "the ten best files of 0 of 3 sentences"),
        ([1e6 - i for i in range(30)], "float32", "'x' has numbers too large for half precision"),
    ],
)
def test_half_precision_is_taken_where_the_best_files_stay(values, stored, said):
    from tvr_cli.engine.searching.precision import measure

    found = measure(Sum(), Encoding(torch.arange(3), {}), "captions", sample(values[::-1]))
    assert found.stored == stored and said in found.reason


@pytest.mark.parametrize("vectors", [1, 3])
def test_one_sentence_gets_the_rows_that_it_gets_among_others(tmp_path, vectors):
    """Alone it is scanned in half precision first; the vectors here lie closer than that tells apart."""
    g = torch.Generator().manual_seed(0)
    near = torch.randn(DIM, generator=g) + 2e-3 * torch.randn(300, vectors, DIM, generator=g)
    near = torch.nn.functional.normalize(near, dim=2)
    index = of_vectors(tmp_path / "index", near).delete(["7.mp4", "200.mp4"])
    query = torch.nn.functional.normalize(near[:9, 0] + 0.3 * torch.randn(9, DIM, generator=g), dim=1)
    together = index.candidates(query, 20)
    exact = (query @ near.half().float().flatten(0, 1).T).view(9, 300, vectors).amax(2)
    exact[:, [7, 200]] = -1
    for one, rows, scores in zip(query, together, exact, strict=True):
        alone = index.candidates(one[None], 20)[0]
        best = scores.topk(20).values  # compared as scores: fp32 sums in another order may swap equals
        assert torch.allclose(scores[alone], best, atol=1e-6) and torch.allclose(scores[rows], best, atol=1e-6)
