"""Find what has no page, and links that lead nowhere.

`python -m tools.site.check` reads the sources alone, in seconds; `python -m tools.site.check HTML`
looks through a site that was built, too. It prints what it finds, and then ends with 1.
"""

import html.parser
import pathlib
import re
import sys
import urllib.parse
import zlib

from tools.site.names import ROOT, definition, links, pages
from tools.site.pages import DOCS, GENERATED, LESSONS, MIRRORED, markdown

_CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def names_without_entry(reference=ROOT / "docs/api.rst"):
    """List the public modules that the API reference leaves out, and names without a definition."""
    listed = set(re.findall(r"^   (keras_bp[\w.]*)$", reference.read_text(), re.MULTILINE))
    faults = [f"{reference.name} must list {module}" for module in sorted(set(pages()) - listed)]
    faults += [
        f"{reference.name} lists {module}, which has no __all__"
        for module in sorted(listed - set(pages()))
    ]
    for page in sorted(set(links().values())):
        try:
            definition(page)
        except LookupError:
            faults.append(f"{page} is in an __all__, but defined nowhere")
    return faults


def documents():
    """List the files in Markdown that the site is made of, lessons among them, and the README."""
    own = [p for p in DOCS.rglob("*.md") if not p.is_relative_to(GENERATED)]
    return [ROOT / "README.md", *MIRRORED, *LESSONS, *own]


def broken_markdown_links(paths):
    """List the links of files in Markdown to files that are not there."""
    faults = []
    for path in paths:
        for target in re.findall(r"\]\(([^)\s]+)\)", _CODE.sub("", markdown(path))):
            place = target.partition("#")[0]
            if place and ":" not in target and not (path.parent / place).exists():
                faults.append(f"{path}: no file {target}")
    return faults


class _Page(html.parser.HTMLParser):
    """The targets that a page links to, and the ids that it has."""

    def __init__(self, path):
        super().__init__()
        self.targets, self.ids = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.targets.append(value)


def broken_links(site):
    """List the links within a built site that lead to no file, or to no place in it."""
    read = {path: _Page(path) for path in sorted(site.rglob("*.html"))}
    faults = []
    for path, page in read.items():
        for target in dict.fromkeys(page.targets):
            url = urllib.parse.urlsplit(target)
            if url.scheme or url.netloc:
                continue
            place = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            if not place.exists():
                faults.append(f"{path.relative_to(site)}: no file {target}")
            elif url.fragment and place in read and url.fragment not in read[place].ids:
                faults.append(f"{path.relative_to(site)}: no place {target}")
    return faults


def names_without_page(site):
    """List the public modules and names that the site's inventory does not have."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    inventory = {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}
    return [f"{name} has no page" for name in sorted({*pages(), *links().values()} - inventory)]


def main(arguments):
    """Print the faults; return 1 if there are any."""
    faults = names_without_entry() + broken_markdown_links(documents())
    for site in map(pathlib.Path, arguments):
        faults += broken_links(site.resolve()) + names_without_page(site)
    print("\n".join(faults) or "every public name has a page, and every link leads somewhere")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
