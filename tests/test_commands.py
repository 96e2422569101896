"""Command lines in messages: written in one place, and right to the letter."""

import ast
import functools
import io
import re
import tokenize
from pathlib import Path

import pytest
import typer

from tvr_cli import commands
from tvr_cli.cli import app

PACKAGE = Path(commands.__file__).parent
COMMANDS = typer.main.get_command(app).commands
FLAGS = {name: {flag for p in command.params for flag in p.opts} for name, command in COMMANDS.items()}

# A command to be typed, as against a mention of one ("not a result of tvr evaluate").
TYPED = re.compile(
    r"(: |\brun |\bwith )tvr ({0})\b|\btvr ({0}) ([-{{\"]|[A-Z])".format("|".join(map(re.escape, COMMANDS)))
)

PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b")


@functools.cache
def lines_that_are_made():
    """Every `commands.tvr("verb", …, flag=…)` of the code, as (place, call)."""
    return [
        (f"{path.relative_to(PACKAGE)}:{node.lineno}", node)
        for path in sorted(PACKAGE.rglob("*.py"))
        if "commands.tvr(" in (source := path.read_text())
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "tvr"
        if ast.unparse(node.func) == "commands.tvr"
    ]


def calls():
    """Those whose verb is known here, as (place, verb, flags)."""
    for place, node in lines_that_are_made():
        verb = node.args[0]
        if isinstance(verb, ast.Constant):  # a verb that is chosen at run time has no flags of its own
            yield place, verb.value, [k.arg for k in node.keywords if k.arg is not None]


def strings(path):
    """The string literals of a file that are no docstrings, with their lines; f-strings as they are written."""
    tree = ast.parse(source := path.read_text())
    docs = {
        node.body[0].lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    }
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        literal = token.type == tokenize.STRING or tokenize.tok_name[token.type] == "FSTRING_MIDDLE"
        if literal and token.start[0] not in docs:
            yield token.start[0], token.string


def test_every_command_in_a_message_exists_with_its_flags():
    wrong = []
    for place, verb, flags in calls():
        known = FLAGS.get(verb)
        if known is None:
            wrong.append(f"{place}: tvr {verb}")
            continue
        wanted = {"-o" if f == "workspace" else f"--{f.replace('_', '-')}" for f in flags}
        wrong += [f"{place}: tvr {verb} {flag}" for flag in sorted(wanted - known)]
    assert not wrong, wrong


def test_no_command_in_a_message_has_a_word_that_the_reader_has_to_replace():
    """`tvr extract-frames VIDEOS`, typed as it stands, is an error; an example such as `videos/` may be right."""
    wrong = []
    for place, node in lines_that_are_made():
        said = [n.value for part in (*node.args, *node.keywords) for n in ast.walk(part) if is_text(n)]
        wrong += [f"{place}: {s}" for s in said if PLACEHOLDER.search(s)]
    assert not wrong, "\n".join(wrong)


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_no_command_line_is_typed_by_hand():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "commands.py":
            continue
        for line, text in strings(path):
            if TYPED.search(text):
                wrong.append(f"{path.relative_to(PACKAGE)}:{line}: {text[:80]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("words", "flags", "line"),
    [
        (("train",), {"resume": True, "run": "a b"}, 'tvr train --resume --run "a b"'),
        (
            ("extract-frames", "videos/"),
            {"fps": 2.0, "max_frames": 12},
            "tvr extract-frames videos/ --fps 2 --max-frames 12",
        ),
        (("index",), {"overwrite": False, "method": None}, "tvr index"),
        (("train",), {"set": ["a=1", "b=2"]}, "tvr train --set a=1 --set b=2"),
        (("query", "a dog's bone"), {}, """tvr query 'a dog'"'"'s bone'"""),
    ],
)
def test_a_command_line_is_quoted_for_a_shell(words, flags, line):
    assert commands.tvr(*words, **flags) == line


def test_the_workspace_is_named_where_it_is_not_the_default(tmp_path, monkeypatch):
    assert commands.tvr("index", workspace=Path("out")) == "tvr index"
    assert commands.tvr("index", workspace=tmp_path) == f"tvr index -o {tmp_path}"
    monkeypatch.setenv("TVR_WORKSPACE", str(tmp_path))
    assert commands.tvr("index", workspace=tmp_path) == "tvr index"
    assert commands.tvr("index", workspace=Path("out")) == "tvr index -o out"
