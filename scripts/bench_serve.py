"""Measure `tvr serve`: many clients at once, a steady rate of queries, the page, and `tvr query` that asks it.

    python scripts/bench_serve.py make FOLDER --clips 10000                     (demo-tiny)
    python scripts/bench_serve.py make FOLDER --clips 10000 --model ViT-B-32    (its sizes, random values)
    python scripts/bench_serve.py load FOLDER       50 clients, 2 000 mixed requests
    python scripts/bench_serve.py rate FOLDER       5 queries a second, whether or not the last one was answered
    python scripts/bench_serve.py page FOLDER       from Enter to the first picture, in Chromium (needs playwright)
    python scripts/bench_serve.py query FOLDER      `tvr query`, from the start of the process to the answer

`make` writes a library of the toy world with one frame a clip; with `--model` the picture side has one layer only, for
a sentence needs none of it. The others start a server of their own, warm it up and end it, also where Ctrl-C or SIGTERM
ends them. Processor times are of the kernel's clock, user and system; memory is the server's proportional set size, all
of it and what belongs to no file.
Ends with 1 where a request was not answered as it should be, or memory grew beyond `--may-grow`.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from PIL import Image

RUN = "from tvr_cli.cli import main; main()"
COLOURS = ("red", "green", "blue", "yellow", "white", "orange")
SHAPES = ("circle", "square", "triangle", "star")
WAYS = ("moves to the left", "moves to the right", "moves up", "moves down", "grows", "stands still")
SENTENCES = [f"a {colour} {shape} {way}" for way in WAYS for colour in COLOURS for shape in SHAPES]
WARM = 40  # requests before anything is measured
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A server that runs. environment: of whoever asks it by the command line."""

    out: Path
    port: int
    pid: int
    environment: dict[str, str]

    def cpu_s(self) -> float:
        """Return its processor time."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def memory_mb(self) -> tuple[float, float]:
        """Return its proportional set size, and what of that is of no file; MB of 10^6 bytes."""
        said = dict(line.split()[:2] for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:])
        return int(said["Pss:"]) * 1024 / 1e6, int(said["Pss_Anon:"]) * 1024 / 1e6

    def ask(self, line: http.client.HTTPConnection, request: Request) -> int:
        line.request(request.method, request.path, request.body, dict(request.headers))
        answer = line.getresponse()
        answer.read()
        return answer.status

    def line(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)


@dataclass(frozen=True)
class Request:
    """What is asked, and the statuses that are right for it."""

    kind: str
    path: str
    right: Sequence[int] = (200,)
    method: str = "GET"
    body: bytes | None = None
    headers: Sequence[tuple[str, str]] = ()


def main() -> None:
    options = arguments()
    if options.what == "make":
        make(options)
        return
    # Else a SIGTERM ends this process at once, and the server goes on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} over the last minute")
    with served(options.folder) as server:
        {"load": load, "rate": rate, "page": page, "query": query}[options.what](server, options)


# -------------------------------------------------------------------------------------------------------- the library


def make(options: argparse.Namespace) -> None:
    from bench_query import VIDEOS, WEIGHTS

    folder, environment = options.folder.resolve(), environment_of(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", VIDEOS, folder / "videos", str(options.clips)], check=True)
    backbone = "demo-tiny"
    if options.model:
        backbone = f"local:{folder / 'weights'}"
        making = [sys.executable, "-c", WEIGHTS, folder / "weights", options.model, "1"]
        subprocess.run(making, check=True, cwd=folder, capture_output=True)
    out = folder / "out"
    size = ["--size", "64"] if backbone == "demo-tiny" else []
    for words in (
        ["extract-frames", folder / "videos", "-o", out, "--num-frames", 1, *size],
        ["precompute-features", "-o", out, "--backbone", backbone],
        ["index", "--method", "text_guided", "-o", out],
    ):
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", RUN, *map(str, words)], env=environment, check=True)
        print(f"{words[0]}: {time.monotonic() - started:.0f} s")


def environment_of(folder: Path) -> dict[str, str]:
    cache = folder.resolve() / "cache"
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache),
        "XDG_RUNTIME_DIR": str(folder.resolve()), "PYTHONPYCACHEPREFIX": str(cache / "bytecode"),
        "PYTHONDONTWRITEBYTECODE": "",
    }  # fmt: skip


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Server]:
    """Serve a library, warm."""
    out, environment = folder.resolve() / "out", environment_of(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", RUN, "serve", "-o", str(out), "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        server = Server(out, port, process.pid, environment)
        while not listens(port):
            if (code := process.poll()) is not None:
                raise SystemExit(code or 1)
            time.sleep(0.1)
        line = server.line()
        for i in range(WARM):
            server.ask(line, searching(SENTENCES[i % len(SENTENCES)]))
        yield server
    finally:
        process.terminate()
        process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def searching(sentence: str, **more: object) -> Request:
    return Request(
        "search", f"/api/search?{urlencode({'q': sentence, 'everything': 'true', 'curves': 'true', **more})}"
    )


# ------------------------------------------------------------------------------------------------------- many clients


def mixed(server: Server, number: int, seed: int) -> list[Request]:
    """Return requests as people and programs make them, a tenth of them malformed."""
    draw = random.Random(seed)
    line = server.line()
    line.request("GET", f"/api/search?{urlencode({'q': SENTENCES[0], 'k': 100, 'per_file': 1, 'everything': 'true'})}")
    hits = json.loads(line.getresponse().read())["results"][0]["hits"]
    videos = [quote(hit["video_id"]) for hit in hits]
    out = io.BytesIO()
    Image.new("RGB", (160, 120), (200, 30, 30)).save(out, "JPEG")
    form = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
        + out.getvalue()
        + b"\r\n--x--\r\n"
    )
    by_picture = Request("picture asked with", "/api/search", method="POST", body=form,
                         headers=(("Content-Type", "multipart/form-data; boundary=x"),))  # fmt: skip
    bad = [
        Request("malformed", path, range(400, 500))
        for path in ("/api/search?q=a&k=0", "/api/search?q=a&typo=1", "/media?video=../secret", "/nowhere",
                     "/api/search?q=", "/api/stream?video=none&at=0", "/api/clip?video=none&start=0&end=1")
    ]  # fmt: skip
    found = []
    for _ in range(number):
        video, what = draw.choice(videos), draw.random()
        if what < 0.40:
            found.append(searching(draw.choice(SENTENCES), k=draw.randint(1, 50)))
        elif what < 0.65:
            found.append(Request("picture of a moment", f"/api/picture?video={video}&at={draw.random():.2f}"))
        elif what < 0.80:
            headers = (("Range", f"bytes={draw.randint(0, 99)}-{draw.randint(100, 999)}"),)
            found.append(Request("part of a file", f"/media?video={video}", (206,), headers=headers))
        elif what < 0.88:
            found.append(Request("page", draw.choice(("/", "/static/page.js", "/static/cards.css", "/api/library"))))
        elif what < 0.90:
            found.append(by_picture)
        else:
            found.append(draw.choice(bad))
    for request in (Request("clip", f"/api/clip?video={videos[0]}&start=0&end=1"),
                    Request("transcoded", f"/api/stream?video={videos[0]}&at=0.2")):  # fmt: skip
        found[draw.randrange(len(found))] = request
    return found


def load(server: Server, options: argparse.Namespace) -> None:
    """Let clients ask at once, in as many rounds as memory is looked at."""
    rounds = 4
    wrong: list[str] = []
    before = first = server.memory_mb()
    began = server.cpu_s()
    print(f"before: {before[0]:.0f} MB, {before[1]:.0f} MB of no file")
    for number in range(rounds):
        requests = mixed(server, options.requests // rounds, seed=number)
        shares = [requests[i :: options.clients] for i in range(options.clients)]
        seconds: list[float] = []

        def client(share: Sequence[Request], seconds: list[float] = seconds) -> None:
            line = server.line()
            for request in share:
                started = time.monotonic()
                try:
                    status = server.ask(line, request)
                except (OSError, http.client.HTTPException) as e:
                    wrong.append(f"{request.kind}: {e!r}")
                    line = server.line()
                    continue
                seconds.append(time.monotonic() - started)
                if status not in request.right:
                    wrong.append(f"{request.kind}: {status} for {request.path[:80]}")

        threads = [threading.Thread(target=client, args=(share,), daemon=True) for share in shares]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall = time.monotonic() - started
        now = server.memory_mb()
        if number == 0:
            first = now  # what is kept after a first use of everything is no growth
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(r.kind for r in requests).most_common())
        print(
            f"{len(requests)} requests of {options.clients} clients in {wall:.1f} s, p95 "
            f"{1000 * quantile(seconds, 0.95):.0f} ms: {now[0]:.0f} MB, {now[1]:.0f} MB of no file  ({kinds})"
        )
    spent = server.cpu_s() - began
    print(f"{spent:.1f} s of processor time, {1000 * spent / options.requests:.1f} ms a request")
    grown = server.memory_mb()[1] - first[1]
    print(f"memory of no file: {grown:+.1f} MB since the first round")
    for line in wrong[:10]:
        print(f"wrong: {line}")
    if wrong or (options.may_grow is not None and grown > options.may_grow):
        raise SystemExit(1)


# ------------------------------------------------------------------------------------------------------ a steady rate


def rate(server: Server, options: argparse.Namespace) -> None:
    """Ask at even times, and measure from the time at which each was to be asked."""
    n, wrong = round(options.rate * options.seconds), 0
    seconds: list[float] = []
    began, start = server.cpu_s(), time.monotonic() + 0.5

    def ask(i: int) -> None:
        nonlocal wrong
        at = start + i / options.rate
        time.sleep(max(0.0, at - time.monotonic()))
        status = server.ask(server.line(), searching(SENTENCES[i % len(SENTENCES)], k=20))
        seconds.append(time.monotonic() - at)
        wrong += status != 200

    threads = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = (server.cpu_s() - began) / n
    middle = 1000 * statistics.median(seconds)
    print(
        f"{options.rate:g} queries a second for {options.seconds:g} s: median {middle:.0f} ms, "
        f"p95 {1000 * quantile(seconds, 0.95):.0f} ms, most {1000 * max(seconds):.0f} ms; "
        f"{1000 * spent:.0f} ms of processor time each"
    )
    if wrong:
        raise SystemExit(f"{wrong} of {n} were not answered")


# ----------------------------------------------------------------------------------------------------------- the page

ENTER = """
(sentence) => new Promise((done) => {
  document.getElementById("cards").replaceChildren();
  document.getElementById("q").value = sentence;
  const started = performance.now();
  document.getElementById("ask").requestSubmit();
  const look = () => {
    const image = document.querySelector(".card img");
    if (image && image.complete && image.naturalWidth) requestAnimationFrame(() => done(performance.now() - started));
    else requestAnimationFrame(look);
  };
  look();
})
"""


def page(server: Server, options: argparse.Namespace) -> None:
    """Ask in Chromium, and measure up to the frame in which the first picture is drawn."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(f"http://127.0.0.1:{server.port}/")
        tab.evaluate("document.getElementById('all').checked = true")
        tab.evaluate(ENTER, "a first one")
        began = server.cpu_s()
        found = [tab.evaluate(ENTER, sentence) for sentence in SENTENCES[: options.runs]]
        spent = (server.cpu_s() - began) / len(found)
        browser.close()
    print(
        f"from Enter to the first picture: median {statistics.median(found):.0f} ms, "
        f"p95 {quantile(found, 0.95):.0f} ms, most {max(found):.0f} ms of {len(found)}; "
        f"the server's processor time {1000 * spent:.0f} ms an answer of 20"
    )


# ------------------------------------------------------------------------------------------------------ a shell's query


def query(server: Server, options: argparse.Namespace) -> None:
    """Ask by the command line, with the server and alone."""
    for name, more in (("with the server", {}), ("alone", {"TVR_NO_SERVER": "1"})):
        environment = {**server.environment, **more}
        client_of(server, environment, SENTENCES[-1])
        costs = []
        began = server.cpu_s()
        for sentence in SENTENCES[: options.runs]:
            costs.append(client_of(server, environment, sentence))
        of_server = (server.cpu_s() - began) / options.runs
        client = statistics.median(costs)
        print(f"tvr query {name}: {client:.2f} s of the command and {of_server:.2f} s of the server, processor time")


def client_of(server: Server, environment: dict[str, str], sentence: str) -> float:
    """Return the processor seconds of one command."""
    command = [sys.executable, "-c", RUN, "query", sentence, "--all", "-o", str(server.out)]
    child = os.posix_spawn(
        sys.executable, command, environment, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"the query ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "load", "rate", "page", "query"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--model", help="of open_clip's names; default: demo-tiny")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--may-grow", type=float, help="MB of no file, from the first round on")
    parser.add_argument("--rate", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
