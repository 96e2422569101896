"""The command line: the app, the global options and the only error boundary. One file a command."""

from __future__ import annotations

import shlex
import signal
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tvr_cli import log, os_errors
from tvr_cli.cli import broken_maps, streams, values
from tvr_cli.cli.lazy import Commands, about
from tvr_cli.errors import Interrupted, MethodNotNamed, TvrError, reason

_EPILOG = (
    "Exit codes: 0 done; 1 a bug; 2 a bad flag or configuration; 3 input missing, unreadable or mismatched; "
    "4 the machine lacks something; 5 finished, but some items failed; 130 interrupted, the state is saved. "
    "tvr is about text-video retrieval; it has nothing to do with the data set of the same name (TVR)."
)
_TYPED = "tvr.typed"  # where a context keeps the words of the command line
_GLOBAL_OPTIONS = ("-q", "--quiet", "--debug", "--version")


class _Boundary(TyperGroup):
    """Turns a `TvrError` of any command into one line on stderr and its exit code."""

    def __init__(self, **attributes: Any):
        super().__init__(**{**attributes, "commands": Commands()})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_TYPED] = tuple(args)
        values.leave_out(self.get_params(ctx))
        try:
            return super().parse_args(ctx, args)
        except Exception as e:
            _make_printable(e)
            raise

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands without making the flags of each, which would take as long as all the rest."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about(name)) for name in self.commands])

    def invoke(self, ctx: Any) -> Any:
        debug = bool(ctx.params.get("debug"))
        try:
            result = super().invoke(ctx)
            streams.end()
            return result
        except TvrError as e:
            if debug:
                raise
            command = self._naming(ctx, e) if isinstance(e, MethodNotNamed) else ""
            raise _said(e, command) from e
        except BrokenPipeError as e:  # `tvr query … | head`
            streams.give_up()
            raise typer.Exit(0) from e
        except (OSError, MemoryError) as e:  # what the machine refuses and no file's own boundary has met
            refusal = os_errors.refusal(e) if isinstance(e, OSError) else os_errors.no_memory()
            if debug or refusal is None:
                raise self._bug(ctx, e, debug) from e
            raise _said(refusal) from e
        except Exception as e:
            _hint_at_place(e, ctx.invoked_subcommand)
            _make_printable(e)
            if hasattr(e, "exit_code"):  # a usage error or an exit, which Typer words
                raise
            raise self._bug(ctx, e, debug) from e
        except KeyboardInterrupt as e:
            log.logger.error("interrupted; run the same command again to continue")
            raise typer.Exit(130) from e
        finally:
            log.finish()

    def _bug(self, ctx: Any, e: Exception, debug: bool) -> Exception:
        """Say that something is a bug in tvr and return the exit; with --debug the error itself, to be shown whole."""
        if debug:
            return e
        log.logger.error(
            "error: a bug in tvr: %s: %s; please report it, with what this shows: tvr --debug %s …",
            type(e).__name__, reason(e), ctx.invoked_subcommand,
        )  # fmt: skip
        return typer.Exit(1)

    def _naming(self, ctx: Any, error: MethodNotNamed) -> str:
        """Return what was typed with the method (and its run) named, for a command that can name one."""
        typed, name = list(ctx.meta[_TYPED]), ctx.invoked_subcommand
        place = typed.index(name) + 1
        command = self.commands[name]
        known = {p.name: p for p in command.params}
        if "method" not in known:
            return ""
        given = command.make_context(name, typed[place:], parent=ctx, resilient_parsing=True).params
        naming = [] if given["method"] else ["--method", error.method]
        if error.run is not None and not given["run"]:
            naming = [*(["--run"] if known["run"].param_type_name == "option" else []), error.run, *naming]
        return ": " + shlex.join(["tvr", *typed[:place], *naming, *typed[place:]])


def _said(e: TvrError, behind: str = "") -> typer.Exit:
    """Say an error of ours and return the exit that goes with it. behind: what stands after the message."""
    log.logger.error("%s: %s%s", "interrupted" if isinstance(e, Interrupted) else "error", e.args[0], behind)
    for row in e.example:
        log.logger.error("%s", row)
    return typer.Exit(e.exit_code)


def _hint_at_place(error: Any, command: str | None) -> None:
    """Add to "no such option" that a global option stands before the command."""
    if (option := getattr(error, "option_name", None)) in _GLOBAL_OPTIONS:
        error.message += f"; it stands before the command: tvr {option} {command} …"


def _make_printable(error: Any) -> None:
    """Let a usage error, which Typer shows, repeat what was typed without steering the terminal."""
    if hasattr(error, "format_message"):
        message = log.printable(error.format_message())
        error.format_message = lambda: message


app = typer.Typer(
    name="tvr",
    cls=_Boundary,
    no_args_is_help=True,
    epilog=_EPILOG,
    pretty_exceptions_show_locals=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from tvr_cli.cli.version import show_versions

        show_versions()
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors on stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show details and the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None:
    """Search videos by text, and train and compare eleven published text-video retrieval methods.

    \b
    tvr demo                                   everything on a toy world, no data needed
    tvr extract-frames videos/                 frames of your own videos
    tvr query "a dog surfing" --index out/     search them
    """
    log.set_up(quiet=quiet, debug=debug)


def _run() -> None:
    """Run the command that was typed, and write its last words. Ends by SystemExit."""
    try:
        app()
    finally:
        try:
            streams.end()
        except BrokenPipeError:
            streams.give_up()


def main() -> None:
    """Entry point of the `tvr` command. SIGTERM ends a command the way Ctrl-C does: the state is saved."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    broken_maps.say_so()
    streams.set_up()
    try:
        _run()
    except streams.Undelivered as e:  # of `--help` and `--version`, which end before a command begins
        log.logger.error("error: %s", e)
        sys.exit(e.exit_code)
    except Exception:  # with --debug; names in a traceback may hold any character too
        for row in traceback.format_exc().splitlines():
            log.logger.error("%s", row)
        sys.exit(1)
