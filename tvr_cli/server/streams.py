"""Films transcoded on the way, for a browser that does not play the file: each by a process of its own.

It ends when the film does, when who watches goes away, and when nothing was taken for a while, as by a laptop that
sleeps. The page then asks again from the second where it stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from tvr_cli import log
from tvr_cli.errors import DataError, Interrupted
from tvr_cli.server.encoders import Encoders

_CHUNK = 1 << 16
_BEGINS_S = 60.0  # for a first picture
_IDLE_S = 60.0  # a paused player takes nothing either, and goes on by asking again
_LOOK_S = 1.0

Gone = Callable[[], Awaitable[bool]]  # whether who asked has gone


class Stream(StreamingResponse):
    """The answer that a film is transcoded into, once its first bytes are there."""

    def __init__(self, path: Path, process: asyncio.subprocess.Process, first: bytes, encoders: Encoders):
        self._path, self._process, self._encoders = path, process, encoders
        self._taken = time.monotonic()
        super().__init__(self._parts(first), media_type="video/mp4")

    @classmethod
    async def open(cls, path: Path, second: float, track: int | None, encoders: Encoders, gone: Gone) -> Stream:
        """Return a film from a second on.

        Raises DataError where it cannot be transcoded, Interrupted where `gone` says so before its first picture is
        there, and as `Encoders.take`.
        """
        await run_in_threadpool(encoders.take)
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tvr_cli.server.transcode", os.fspath(path), repr(second),
                "" if track is None else str(track),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None and process.stderr is not None
            first = await _begun(process.stdout, gone)
            if not first:
                said = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
                why = said[-1] if said else f"its process ended ({await process.wait()})"
                raise DataError(f"{str(path)!r} cannot be transcoded: {why}")
        except TimeoutError:
            await _ended(process)
            encoders.give_back()
            raise DataError(f"{str(path)!r} cannot be transcoded: no picture within {_BEGINS_S:g} seconds") from None
        except BaseException:
            await _ended(process)
            encoders.give_back()
            raise
        return cls(path, process, first, encoders)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answering = asyncio.ensure_future(super().__call__(scope, receive, send))
        try:
            while not answering.done():
                await asyncio.wait({answering}, timeout=_LOOK_S)
                if not answering.done() and time.monotonic() > self._taken + _IDLE_S:
                    log.logger.info("nobody took what is transcoded of %r for %g s; ended", str(self._path), _IDLE_S)
                    return  # with an answer that does not end, so that whoever wakes up notices
            await answering
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            await _ended(self._process)
            self._encoders.give_back()

    async def _parts(self, first: bytes) -> AsyncIterator[bytes]:
        assert self._process.stdout is not None
        part = first
        while part:
            yield part
            self._taken = time.monotonic()
            part = await self._process.stdout.read(_CHUNK)
        if code := await self._process.wait():  # not the end of the film: who watches is to notice
            raise DataError(f"{str(self._path)!r} was transcoded in part only ({code})")


async def _begun(out: asyncio.StreamReader, gone: Gone) -> bytes:
    """Return the first bytes of a film. Raises TimeoutError, and Interrupted where nobody waits for them any more."""
    reading = asyncio.ensure_future(out.read(_CHUNK))
    until = time.monotonic() + _BEGINS_S
    try:
        while not reading.done():
            if await gone():
                raise Interrupted("who asked has gone; what was being transcoded for it was ended")
            if time.monotonic() > until:
                raise TimeoutError
            await asyncio.wait({reading}, timeout=_LOOK_S)
        return await reading
    finally:
        reading.cancel()


async def _ended(process: asyncio.subprocess.Process | None) -> None:
    """End a process, whatever it does, and wait until it has gone."""
    if process is not None and process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)  # asyncio's own `kill` takes away what `wait` waits for
        await process.wait()
