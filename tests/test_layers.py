"""Who may import whom (docs/concepts.md): read from the source with `ast`, nothing is imported."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tvr_cli"
KERNELS = ROOT / "kernels" / "tvr_kernels"
LEAVES = {
    *("version", "commands", "workspace", "config", "defaults", "plans", "preset_loader", "plugins", "runs", "results"),
    *(
        "metrics",
        "relevance",
        "significance",
        "clip4clip",
        "log",
        "errors",
        "files",
        "os_errors",
        "removal",
        "schema",
        "imported",
        "scale",
        "types",
        "user_cache",
        "yaml_text",
    ),
}

# layer -> the layers below that it may import (besides itself, for files of one package).
MAY_IMPORT = {
    "cli": {"api", "server", "watching", "engine", "testing", "verify", *LEAVES},
    "__main__": {"cli"},
    "server": {
        *("api", "watching", "engine", "stores", "workspace", "results", "commands", "errors", "files", "log"),
        "version",
    },
    "watching": {
        *("engine", "stores", "plans", "workspace", "results", "commands", "errors", "files", "log", "os_errors"),
    },
    "verify": {"api", "testing", "engine", "methods", "stores", "data", "backbones", *LEAVES, "tvr_kernels"},
    "api_showing": {"engine", "results", "workspace", "errors", "files", "log"},
    "api_sweeping": {"api_flags", "engine", "workspace", "log"},
    "api_flags": {"engine", "relevance", "errors"},
    "api_scores": {"api_flags", "engine"},
    "api": {
        *(
            "api_scores",
            "api_showing",
            "api_sweeping",
            "api_flags",
            "plans",
            "engine",
            "workspace",
            "commands",
            "config",
            "errors",
            "files",
            "results",
            "log",
        ),
        *("defaults", "relevance"),
    },
    "testing": {"engine", "methods", "nn", "stores", "data", "backbones", *LEAVES, "tvr_kernels"},
    "engine": {"methods", "nn", "stores", "data", "backbones", *LEAVES, "tvr_kernels"},
    "methods": {"nn", "tvr_kernels", "types", "scale", "config", "errors", "log", "commands", "plugins"},
    "nn": {"tvr_kernels", "types", "config", "errors", "log", "commands"},
    "stores": {
        *("types", "plans", "imported", "scale", "config", "errors", "log", "files", "os_errors", "removal", "schema"),
        *("commands", "defaults"),
    },
    "data": {"types", "config", "errors", "log", "files", "removal", "schema", "preset_loader", "commands", "plugins"},
    "backbones": {
        *("types", "config", "defaults", "errors", "log", "files", "preset_loader", "commands", "plugins"),
        *("user_cache", "version"),
    },
    "workspace": {"stores", "runs", "commands", "errors", "files"},
    "metrics": {"types", "errors"},
    "relevance": {"metrics", "errors", "files"},
    "significance": {"metrics", "errors"},
    "clip4clip": {"metrics", "errors"},
    "results": {"types", "errors", "metrics", "files"},
    "runs": {"config", "types", "errors", "log", "files", "removal", "schema", "version"},
    "log": {"errors"},
    "files": {"errors", "os_errors"},
    "os_errors": {"errors"},
    "user_cache": {"files", "errors"},
    "removal": {"errors", "files"},
    "schema": {"errors", "files"},
    "config": {"types", "errors", "preset_loader", "yaml_text"},
    "yaml_text": {"errors"},
    "plans": {"types", "imported", "config", "defaults", "commands", "errors"},
    "preset_loader": {"errors"},
    "plugins": {"errors"},
    "types": set(),
    "imported": set(),
    "scale": set(),
    "commands": set(),
    "version": set(),
    "errors": set(),
}
HEAVY = {"torch", "open_clip", "decord", "av", "triton", "numba", "torchvision"}
# These must be importable without torch: `tvr --help`, decoding workers and the referee start through them.
LIGHT = (
    "cli",
    "api",
    "api_showing",
    "api_sweeping",
    "api_flags",
    "commands",
    "workspace",
    "types",
    "config",
    "plans",
    "errors",
    "files",
    "removal",
    "schema",
    "log",
    "metrics",
    "relevance",
    "significance",
    "clip4clip",
    "runs",
    "results",
    "preset_loader",
    "plugins",
    "data",
)
LIGHT_FILES = (
    "backbones/registry.py",
    "engine/whole/backbone_catalogue.py",
    "stores/frames/store.py",
    "stores/run_header.py",
    "stores/decoding/choose.py",
    "stores/frames/writer.py",
    "engine/extraction/extract.py",
    "engine/features/augment.py",
    "engine/features/frame_loader.py",
    "engine/evaluation/evaluate_result.py",
    "engine/whole/recipes.py",
    *(
        f"engine/evaluation/{name}.py"
        for name in ("judge", "post", "score_file", "digits", "ground", "shifted", "row", "verdict")
    ),
    "engine/training/train_result.py",
    "engine/training/seeds.py",
    "engine/evaluation/audit.py",
    "engine/evaluation/compare.py",
    # A query of a method of a few matrix products is answered by these.
    *(f"engine/searching/{name}.py" for name in ("asked", "curves", "hits", "light", "light_search", "query", "way")),
    *(f"engine/showing/page/{name}.py" for name in ("chart", "markup", "peaks", "pictures", "text", "write")),
    "engine/features/cut.py",
    "methods/_light.py",
    *(f"stores/{name}.py" for name in ("columns", "listing", "mapped", "parts")),
    *(f"stores/index/{name}.py" for name in ("arrays", "head", "opened", "place", "segment", "shortlist")),
    "stores/features/columns.py",
    "stores/features/head.py",
    *(f"backbones/text_tower/{name}.py" for name in ("bpe", "card", "mapped", "tower")),
)


def sources(folder):
    return sorted(folder.rglob("*.py"))


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


@functools.cache
def every(path):
    """Return every node of a file."""
    return list(ast.walk(parsed(path)))


def layer_of(path):
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


@functools.cache
def imports(path, *, top_level_only=False, typing_only=True):
    """Return (module, line) of every import; top-level means executed when the file is imported.

    typing_only: whether imports for the type checker alone count as well.
    """
    return list(_imports(path, top_level_only, typing_only))


def _imports(path, top_level_only, typing_only):
    tree = parsed(path)
    nodes = _executed_at_import(tree) if top_level_only else every(path) if typing_only else _executed(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _executed_at_import(tree):
    return _executed(tree, functions=False)


def _executed(tree, *, functions=True):
    stack = list(tree.body)
    while stack:
        node = stack.pop()
        if not functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield node
        stack += list(ast.iter_child_nodes(node))


def test_layers_import_only_what_lies_below():
    wrong = []
    for path in sources(PACKAGE):
        layer = layer_of(path)
        if layer == "__init__":
            continue
        for module, line in imports(path):
            parts = module.split(".")
            if parts[0] == "tvr_kernels":
                below = "tvr_kernels"
            elif parts[0] == "tvr_cli" and len(parts) > 1:
                below = parts[1]
            else:
                continue
            if below.startswith("__") or below == layer:
                continue
            if below not in MAY_IMPORT[layer]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {layer} imports {module}")
    assert not wrong, "\n".join(sorted(set(wrong)))


@pytest.mark.parametrize("place", ["engine", "cli", "runs.py", "stores"])
def test_a_backbones_library_is_named_below_backbones_only(place):
    path = PACKAGE / place
    wrong = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in ([path] if path.is_file() else sources(path))
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if re.search("open_?clip", line, re.IGNORECASE)
    ]
    assert not wrong, "\n".join(wrong)


# The engine's parts, lowest first: each may import those before it. Training validates by the functions that evaluate.
ENGINE = (
    *("device", "suggest", "dataset", "scorers", "extraction", "features"),
    *("evaluation", "training", "searching", "showing", "whole"),
)


def test_the_engine_imports_downwards():
    wrong = []
    for path in sources(PACKAGE / "engine"):
        part = path.relative_to(PACKAGE / "engine").with_suffix("").parts[0]
        if part == "__init__":
            continue
        for module, line in imports(path):
            names = module.split(".")
            inside = names[:2] == ["tvr_cli", "engine"] and len(names) > 2 and names[2] in ENGINE
            if inside and ENGINE.index(names[2]) > ENGINE.index(part):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {module}")
    assert not wrong, "\n".join(wrong)
    parts = {path.relative_to(PACKAGE / "engine").with_suffix("").parts[0] for path in sources(PACKAGE / "engine")}
    assert parts - {"__init__"} == set(ENGINE)


def test_no_files_import_each_other_in_a_circle():
    """Imports inside functions count; those for the type checker alone do not."""
    files = {module_of(path): path for path in sources(PACKAGE)}
    below = {}
    for name, path in files.items():
        found = {(m, line) for m, line in imports(path, typing_only=False) if m in files and m != name}
        # `from package import file` is an import of the file, whatever else the package's __init__ holds.
        below[name] = {m for m, line in found if not any(o.startswith(f"{m}.") and at == line for o, at in found)}
    found = [" -> ".join(sorted(group)) for group in circles(below)]
    assert not found, found


def test_folder_names_stand_in_one_file():
    """Where frames, features, runs and the index lie is the business of workspace.py alone."""
    path_of_a_folder = re.compile(r"""/ (f?["'](frames|features|runs|index)["'/])|["'](frames|features|runs|index)/""")
    wrong = []
    for path in sources(PACKAGE):
        if path.name == "workspace.py" and path.parent == PACKAGE:
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if path_of_a_folder.search(line) or "parent.parent" in line:
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(below):
    """Return the groups of two or more names that reach each other (Tarjan's strongly connected components)."""
    order, low, stack, found = {}, {}, [], []

    def visit(name):
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in below[name]:
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(group)

    for name in below:
        if name not in order:
            visit(name)
    return found


@pytest.mark.parametrize("command", ["extract_frames", "precompute_features", "train", "evaluate", "index", "query"])
def test_the_verbs_of_the_pipeline_reach_the_engine_through_the_api_alone(command):
    """Flags in, a call of the api, rendering out: of the engine such a file knows the results that it renders."""
    path = PACKAGE / "cli" / f"{command}.py"
    found = [
        name.rpartition(".")[2]
        for name, _ in imports(path, typing_only=False)
        if name.startswith("tvr_cli.engine") and not module_exists(name)
    ]
    assert all(re.search("(Report|Preview|Estimate|Summary|Fair)$", name) for name in found), found
    assert "api." in path.read_text()


@pytest.mark.parametrize("path", sources(PACKAGE / "cli"), ids=lambda path: path.stem)
def test_a_command_calls_one_function_of_the_engine_at_most(path):
    """What is printed comes from one typed result; functions that take a result are renderings of it."""
    modules, functions = {}, {}
    tree = parsed(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("tvr_cli.engine"):
            for alias in node.names:
                name, full = alias.asname or alias.name, f"{node.module}.{alias.name}"
                (modules if module_exists(full) else functions)[name] = full
    called = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            called.add(f"{modules[node.value.id]}.{node.attr}")
        elif isinstance(node, ast.Name) and node.id in functions:
            called.add(functions[node.id])
    verbs = {name for name in called if (node := function_of(name)) is not None and not renders(node)}
    assert len(verbs) <= 1, verbs


def function_of(dotted):
    """Return the definition of a function by its dotted name, None of anything else."""
    module, _, name = dotted.rpartition(".")
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    found = parsed(path).body if path.is_file() else []
    return next((n for n in found if isinstance(n, ast.FunctionDef) and n.name == name), None)


def renders(function):
    """Whether a function takes a result, and nothing to find one with."""
    first = next(iter(function.args.args), None)
    return first is not None and bool(re.search("(Report|Preview)$", ast.unparse(first.annotation)))


def test_a_plan_says_which_frames_and_words_are_kept_and_nothing_else():
    """What a dry run returns is a preview, what a toy world is to be are options."""
    named = {
        node.name
        for path in sources(PACKAGE)
        for node in every(path)
        if isinstance(node, ast.ClassDef) and node.name.endswith("Plan")
    }
    assert named == {"FramePlan", "WordPlan", "FeaturePlan"}


def module_exists(name):
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file()


def test_methods_do_not_import_each_other():
    wrong = []
    for path in sources(PACKAGE / "methods"):
        for module, line in imports(path):
            parts = module.split(".")
            other = parts[2] if parts[:2] == ["tvr_cli", "methods"] and len(parts) > 2 else None
            own_part = other is not None and (
                other == "base" or other.startswith(f"_{path.stem.lstrip('_').split('_')[0]}") or other == path.stem
            )
            if other is not None and not own_part and (PACKAGE / "methods" / f"{other}.py").exists():
                wrong.append(f"{path.name}:{line}: {module}")
    assert not wrong, wrong


def test_kernels_know_nothing_of_the_command_line():
    wrong = [f"{p}:{n}" for p in sources(KERNELS) for m, n in imports(p) if m.split(".")[0] == "tvr_cli"]
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("typer", lambda p: "cli" in p.parts),
        ("yaml", lambda p: p.name == "yaml_text.py"),
        ("lancedb", lambda p: p.name == "lance_table.py"),
        ("ray", lambda p: p.name == "ray_runner.py"),
        ("pyarrow", lambda p: p.name == "lance_table.py"),
        ("triton", lambda p: p.name == "triton_impl.py" or "triton" in p.stem),
        ("rich", lambda p: "cli" in p.parts or p.name == "log.py"),
    ],
)
def test_a_library_is_imported_in_one_place_only(library, allowed):
    wrong = [
        f"{p.relative_to(ROOT)}:{n}"
        for p in [*sources(PACKAGE), *sources(KERNELS)]
        for m, n in imports(p)
        if m.split(".")[0] == library and not allowed(p.relative_to(ROOT))
    ]
    assert not wrong, wrong


def test_only_the_command_line_prints_and_exits():
    wrong = []
    for path in [*sources(PACKAGE), *sources(KERNELS)]:
        if "cli" in path.relative_to(PACKAGE.parent).parts[1:2] or path == KERNELS / "bench.py":
            continue
        for node in every(path):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit", "exit", "os._exit"):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}")
    assert not wrong, wrong


def test_json_is_parsed_in_one_place_only():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(PACKAGE)
        for node in every(path)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.loads", "json.load", "loads")
        if path != PACKAGE / "files.py" and "json.dumps" not in ast.unparse(node.args[0])  # what we wrote ourselves
    ]
    assert not wrong, wrong


def test_folders_are_removed_in_one_place_only():
    names = {"rmtree", "rmdir", "removedirs"}
    wrong = []
    for path in [*sources(PACKAGE), *sources(KERNELS)]:
        if path == PACKAGE / "removal.py":
            continue
        for node in every(path):
            called = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
            imported = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if names & {called, *imported}:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, wrong


def test_light_modules_import_nothing_heavy_at_import():
    wrong = [f"{name} is no file" for name in LIGHT_FILES if not (PACKAGE / name).is_file()]
    for path in sources(PACKAGE):
        relative = path.relative_to(PACKAGE).as_posix()
        if layer_of(path) not in LIGHT and relative not in LIGHT_FILES:
            continue
        for module, line in imports(path, top_level_only=True):
            if module.split(".")[0] in HEAVY:
                wrong.append(f"{relative}:{line}: {module}")
    assert not wrong, wrong


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from tvr_cli.cli import app;"
        "r = CliRunner().invoke(app, ['--help']); assert r.exit_code == 0, r.output;"
        f"heavy = sorted(set({sorted(HEAVY)!r}) & set(sys.modules)); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_presets_hold_no_code_and_kernels_has_no_init():
    assert not list((ROOT / "presets").rglob("*.py"))
    assert not (ROOT / "kernels" / "__init__.py").exists(), "it would shadow the PyPI package `kernels`"


def test_files_have_one_subject():
    long = {
        p.relative_to(ROOT).as_posix(): n
        for p in [*sources(PACKAGE), *sources(KERNELS)]
        if (n := len(p.read_text().splitlines())) > 600
    }
    assert not long, long
