"""Miniature data sets: 20 tiny videos in the exact layout of each benchmark, same files, same field names."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from videos import make_video

from tvr_cli.data.registry import find, shipped

TRAIN, VAL, TEST = range(0, 12), range(12, 16), range(16, 20)
_NOUNS = ("red star", "blue box", "green ring", "dotted heart", "white cross")
_VERBS = ("moves left", "grows", "spins", "blinks")


def sentence(video: int, i: int = 0) -> str:
    """A sentence that no other video has."""
    return f"a {_NOUNS[video % 5]} {_VERBS[video // 5]}" + f" for the {['first', 'second', 'third'][i % 3]} time" * (
        i > 0
    )


def write_dataset(name: str, root: Path, variant: str | None = None) -> Path:
    """Write a data set into `root` unless it is there, and return it."""
    if not (root / "videos").exists():
        root.mkdir(parents=True, exist_ok=True)
        globals()[f"_{name}"](root, variant)
    return root


def kinds() -> list[tuple[str, str | None]]:
    """Every (name, variant) of the shipped data sets that can be written here."""
    return [(n, v) for n in shipped() if f"_{n}" in globals() for v in find(n).variants or (None,)]


def _video(root: Path, name: str, number: int) -> None:
    path = root / "videos" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = np.array([40 + 10 * number, 250 - 11 * number, (number * 37) % 255], dtype=np.uint8)
    pictures = []
    for t in range(6):
        picture = np.full((64, 64, 3), colour, dtype=np.uint8)
        picture[8 + 6 * t : 20 + 6 * t, (number * 2) % 44 : (number * 2) % 44 + 20] = 255 - colour
        pictures.append(picture)
    made = path.with_name(f"making-{number}.mp4")  # the container follows the suffix; some ids have none
    make_video(made, 6, fps=2, size=(64, 64), pictures=pictures)
    made.rename(path)


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def _msrvtt(root: Path, variant: str | None) -> None:
    ids = [f"video{7000 + i}" for i in range(20)]
    splits = ["train"] * 12 + ["validate"] * 4 + ["test"] * 4
    videos = [
        {"video_id": v, "url": "", "split": s, "start time": 0.0, "end time": 3.0, "category": 1, "id": i}
        for i, (v, s) in enumerate(zip(ids, splits, strict=True))
    ]
    sentences = [
        {"video_id": v, "caption": sentence(n, i), "sen_id": 2 * n + i} for n, v in enumerate(ids) for i in (0, 1)
    ]
    _json(root / "MSRVTT_data.json", {"info": {}, "videos": videos, "sentences": sentences})
    _lines(root / "MSRVTT_train.9k.csv", ["video_id", *ids[:16]])
    _lines(root / "MSRVTT_train.7k.csv", ["video_id", *ids[:12]])
    _lines(root / "train_list_miech.txt", ids[:14])
    _lines(root / "test_list_miech.txt", ids[14:])
    rows = [f"ret{i},msr{ids[n][5:]},{ids[n]},{sentence(n)}" for i, n in enumerate(TEST)]
    _lines(root / "MSRVTT_JSFUSION_test.csv", ["key,vid_key,video_id,sentence", *rows])
    for n, v in enumerate(ids):
        _video(root, f"{v}.mp4", n)


def _msvd(root: Path, variant: str | None) -> None:
    ids = [f"-{i}wsuPCjDBc_{i}_{i + 7}" for i in range(20)]
    for split, numbers in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        _lines(root / f"{split}_list.txt", [ids[n] for n in numbers])
    captions = {v: [sentence(n, i).split() for i in range(2 + n % 2)] for n, v in enumerate(ids)}
    (root / "raw-captions.pkl").write_bytes(pickle.dumps(captions))
    for n, v in enumerate(ids):
        _video(root, f"{v}.avi", n)


def _didemo(root: Path, variant: str | None) -> None:
    suffixes = (".mov", ".avi", "", ".mp4", ".3gp")
    ids = [f"{60000 + i}@N0{i % 10}_52{i}.7_ab{suffixes[i % 5]}" for i in range(20)]
    for split, numbers in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        records = [
            {"video": ids[n], "description": sentence(n, i), "times": [[0, 0]], "annotation_id": 10 * n + i}
            for n in numbers
            for i in range(2)
        ]
        _json(root / f"{split}_data.json", records)
        _lines(root / f"{split}_list.txt", [ids[n] for n in numbers])
    for n, v in enumerate(ids):
        _video(root, v, n)


def _activitynet(root: Path, variant: str | None) -> None:
    ids = [f"v_{i:02d}abcDEF-_{i}" for i in range(20)]
    for file, listed, numbers in (
        ("train.json", "train_ids.json", range(0, 16)),
        ("val_1.json", "val_ids.json", TEST),
        ("val_2.json", None, TEST[1:]),
    ):
        data = {
            ids[n]: {
                "duration": 3.0,
                "timestamps": [[0, 1.5], [1.5, 3.0]],
                "sentences": [sentence(n, "2" in file), sentence(n, 1 + ("2" in file))],
            }
            for n in numbers
        }
        _json(root / file, data)
        if listed:
            _json(root / listed, list(data))
    for n, v in enumerate(ids):
        _video(root, f"{v[2:]}.mkv", n)


def _vatex(root: Path, variant: str | None) -> None:
    ids = [f"Ptf_2VRj-V{i}_0000{i:02d}_0000{i + 10}" for i in range(20)]
    if variant == "official":
        for file, numbers in (
            ("vatex_training_v1.0.json", TRAIN),
            ("vatex_validation_v1.0.json", VAL),
            ("vatex_public_test_english_v1.1.json", TEST),
        ):
            _json(root / file, [{"videoID": ids[n], "enCap": [sentence(n, i) for i in range(3)]} for n in numbers])
    else:
        _json(root / "ref_captions.json", {v: [sentence(n, i) for i in range(3)] for n, v in enumerate(ids)})
        if variant == "lists":
            _lines(root / "train_list.txt", ids[:16])
            _lines(root / "test_list.txt", ids[16:])
        else:
            for prefix, numbers in (("trn", TRAIN), ("val", VAL), ("tst", TEST)):
                np.save(root / f"{prefix}_names.npy", np.array([ids[n] for n in numbers]))
    for n, v in enumerate(ids):
        _video(root, f"{v}.mp4", n)


def _lsmdc(root: Path, variant: str | None) -> None:
    movie = "1012_Unbreakable"
    ids = [f"{movie}_00.0{i // 10}.{i % 10}6.065-00.0{i // 10}.{i % 10}9.941" for i in range(19)]
    ids.append(f"{movie}_00.05.16.065-00.05.21.941")  # the one that some code bases leave out
    for file, numbers in (
        ("LSMDC16_annos_training.csv", TRAIN),
        ("LSMDC16_annos_val.csv", VAL),
        ("LSMDC16_challenge_1000_publictect.csv", TEST),
    ):
        rows = [f"{ids[n]}\t0\t1\t0\t1\t{sentence(n)}" for n in numbers]
        if file.endswith("training.csv"):
            rows.append(f'{ids[0]}\t1\t2\t1\t2\t"{sentence(0, 1)}')  # a repeated id and a stray quote
        _lines(root / file, rows)
    for n, v in enumerate(ids):
        _video(root, f"{movie}/{v}.avi", n)


def _birds(root: Path, variant: str | None) -> None:
    """The data set of docs/add-a-dataset.md, which is not shipped."""
    rows = [
        f"{n}.mp4,{split},{sentence(n)}"
        for split, numbers in (("train", TRAIN), ("val", VAL), ("test", TEST))
        for n in numbers
    ]
    _lines(root / "birds.csv", ["video,split,caption", *rows])
    for n in range(20):
        _video(root, f"{n}.mp4", n)


def _jsonl(root: Path, variant: str | None) -> None:
    records = [
        {"video": f"videos/{n}.mp4", "caption": sentence(n), "split": split}
        for split, numbers in (("train", TRAIN), ("val", VAL), ("test", TEST))
        for n in numbers
    ]
    _lines(root / "captions.jsonl", [json.dumps(r) for r in records])
    for n in range(20):
        _video(root, f"{n}.mp4", n)
