"""A page taken apart: its elements, with their attributes and the text in them, as a browser would see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "hr", "link", "input", "rect", "line", "polygon", "polyline"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def has_class(self, name: str) -> bool:
        return name in (self.attributes.get("class") or "").split()


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[Element] = []
        self._open: list[Element] = []
        self.unbalanced: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        one = Element(tag, dict(attrs))
        assert len(one.attributes) == len(attrs), f"<{tag}> has an attribute twice"
        self.found.append(one)
        if tag not in _VOID:
            self._open.append(one)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1].tag != tag:
            self.unbalanced.append(tag)
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        for one in self._open:
            one.parts.append(data)


def elements(html: str) -> list[Element]:
    """Every element of a page in its order; each is closed where it should be."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert not parser.unbalanced and not parser._open, (parser.unbalanced, parser._open)
    return parser.found


def require_sound(html: str, *, scripts: int) -> list[Element]:
    """Hold a page to what every page is: one document of its own, nothing from elsewhere, nothing that runs."""
    found = elements(html)
    ids = [one.attributes["id"] for one in found if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    assert sum(one.tag == "script" for one in found) == scripts
    assert all(one.tag not in ("link", "iframe", "object", "embed", "base", "form", "use") for one in found)
    for one in found:
        assert "style" not in one.attributes
        assert not any(name.startswith("on") for name in one.attributes), one
        if one.tag == "img":
            assert one.attributes["alt"] and (one.attributes["src"] or "").startswith("data:image/jpeg;base64,")
        for name in ("src", "href", "poster", "action", "data", "srcset"):
            address = one.attributes.get(name) or ""
            assert "://" not in address and not address.startswith(("//", "javascript:")), one
        for name in ("aria-labelledby", "aria-describedby"):
            assert all(word in ids for word in (one.attributes.get(name) or "").split())
        if one.tag == "a" and (one.attributes["href"] or "").startswith("#"):
            assert one.attributes["href"][1:] in ids  # type: ignore[index]
    for one in found:
        if one.tag in ("style", "script"):
            assert not any(word in one.text for word in ("http:", "https:", "url(", "@import", "innerHTML"))
    levels = [int(one.tag[1]) for one in found if one.tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:]))  # noqa: B905, RUF007
    return found
