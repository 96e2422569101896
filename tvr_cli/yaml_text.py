"""YAML as configurations may have it: within limits of size and depth, plain values, the line of every key known."""

from __future__ import annotations

from typing import Any

import yaml

from tvr_cli.errors import ConfigError

YAMLError = yaml.YAMLError  # of a text that is not YAML

# What a configuration file or a value of `--set` may be at most; the largest shipped preset has 2.3 kB. A few lines
# of aliases can stand for more values than there is memory.
_MOST_CHARACTERS, _MOST_VALUES, _MOST_DEPTH = 100_000, 10_000, 50


def compose(text: str) -> yaml.Node | None:
    """Parse YAML, within limits. Raises YAMLError, and ValueError where it is larger or deeper than they allow."""
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters, more than the {_MOST_CHARACTERS:,} that are read")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise ValueError(f"its values lie deeper in each other than the {_MOST_DEPTH} levels that are read") from None
    if node is not None:
        _count(node, 1, {})
    return node


def _count(node: yaml.Node, depth: int, known: dict[int, int]) -> int:
    """Return how many values a node is once its aliases are written out. Raises ValueError beyond the limits.

    known: id of a node -> its values, 0 while they are counted: a node within itself has no end.
    """
    if depth > _MOST_DEPTH:
        raise ValueError(f"its values lie deeper in each other than the {_MOST_DEPTH} levels that are read")
    if (found := known.get(id(node))) is not None:
        if not found:
            raise ValueError("an alias (*name) stands within what it means, which has no end")
        return found
    known[id(node)], total = 0, 1
    if not isinstance(node, yaml.ScalarNode):
        for item in node.value:
            total += sum(_count(part, depth + 1, known) for part in (item if isinstance(item, tuple) else (item,)))
            if total > _MOST_VALUES:
                raise ValueError(
                    f"it stands for more than the {_MOST_VALUES:,} values that are read, aliases written out"
                )
    known[id(node)] = total
    return total


def construct(node: yaml.Node) -> Any:
    """Return the value of a YAML node. Raises YAMLError, and ValueError for a number or date that cannot be."""
    return yaml.SafeLoader("").construct_object(node, deep=True)


def plain(node: yaml.Node, path: str, lines: dict[str, int], shown: str) -> Any:
    """Turn a YAML node into plain values, noting the line of every dotted path."""
    if not isinstance(node, yaml.MappingNode):
        if path == "":
            raise ConfigError(f"{shown}:{node.start_mark.line + 1}: expected a mapping at the top")
        return construct(node)
    tree: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        full = f"{path}.{key}" if path else key
        line = key_node.start_mark.line + 1
        if key in tree:
            raise ConfigError(f"{shown}:{line}: {full}: the key stands twice")
        lines[full] = line
        tree[key] = plain(value_node, full, lines, shown)
    return tree
