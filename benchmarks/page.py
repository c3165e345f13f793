"""docs/benchmarks.md and its plots, from the documents of all benchmarks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.frame import shown

Json = dict[str, Any]
#: Parts of docs/performance.md that are written here: `<!-- bars -->`, or one table of a benchmark,
#: `<!-- table: hotpath: its title -->`; each up to `<!-- end -->`.
_PART = re.compile(r"(<!-- (?:bars|table: (\w+): (.+?)) -->\n).*?(<!-- end -->)", re.DOTALL)
_COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e6c8a", "#b08900", "#555555")


def write_page(documents: dict[str, Json], names: Sequence[str], docs: Path) -> None:
    """Write docs/benchmarks.md, the plots beside it, and the tables in docs/performance.md."""
    docs.mkdir(parents=True, exist_ok=True)
    known = [documents[name] for name in names if name in documents]
    missing = [name for name in names if name not in documents]
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; raw documents in [benchmarks.json](benchmarks.json), how the hot path works and "
        "what limits it in [performance.md](performance.md).",
        "",
        *_machine(known),
        "",
        "## Bars",
        "",
        *bar_table(known),
        "",
    ]
    if missing:
        lines += [f"Not run: {', '.join(missing)}.", ""]
    for document in known:
        lines += [*_section(document, docs), ""]
    (docs / "benchmarks.md").write_text("\n".join(lines).rstrip() + "\n")
    performance = docs / "performance.md"
    if performance.exists():
        performance.write_text(with_parts(performance.read_text(), known))


def with_parts(text: str, documents: Sequence[Json], *, keeps: bool = False) -> str:
    """The text with its marked parts written anew; a part whose table was not measured says so.

    keeps  such a part stays as it is, for a page that is written from several runs
    """

    def part(found: re.Match[str]) -> str:
        begin, name, title, end = found.groups()
        if name is None:
            if keeps and not any(document.get("bars") for document in documents):
                return found.group()
            return f"{begin}{chr(10).join(bar_table(documents))}\n{end}"
        tables = [
            table
            for document in documents
            if document["benchmark"] == name
            for table in document.get("tables", [])
            if table["title"] == title
        ]
        if keeps and not tables:
            return found.group()
        lines = (
            _table({**tables[0], "title": ""}) if tables else [f"(`{name}` has not measured it)"]
        )
        return f"{begin}{chr(10).join(lines)}\n{end}"

    return _PART.sub(part, text)


def bar_table(documents: Sequence[Json]) -> list[str]:
    """All bars as a Markdown table; benchmarks without one are said below it."""
    lines = ["| bar | measured | wanted | | benchmark |", "|---|---|---|---|---|"]
    for document in documents:
        for name, bar in document.get("bars", {}).items():
            sign = {"at least": ">= ", "at most": "<= "}.get(bar.get("is", ""), "")
            unit = f" {bar['unit']}" if bar.get("unit") else ""
            met = "met" if bar["met"] else "**missed**"
            lines.append(
                f"| {_cell(name)} | {shown(bar['value'])}{unit} | {sign}{shown(bar['bar'])}{unit} | {met} "
                f"| [{document['benchmark']}](benchmarks.md#{document['benchmark']}) |"
            )
    for document in documents:
        for reason in ("cannot_run", "failed"):
            if reason in document:
                how = "could not run here" if reason == "cannot_run" else "failed"
                lines += ["", f"`{document['benchmark']}` {how}: {document[reason]}"]
    return lines


def _machine(documents: Sequence[Json]) -> list[str]:
    """One sentence for each machine and commit, with the benchmarks that ran there."""
    groups: dict[str, list[str]] = {}
    total_s = 0.0
    for document in documents:
        total_s += document.get("process_seconds", document.get("seconds", 0.0))
        machine = document.get("machine")
        if machine is None:
            continue
        packages = ", ".join(f"{n} {v}" for n, v in machine.get("packages", {}).items())
        kind = " (virtual machine)" if machine.get("virtual") else ""
        text = (
            f"{machine['cpu']}{kind}, {machine['cores']} cores, {machine.get('memory_gib', '?')} GiB, "
            f"{machine['system']}, Python {machine['python']}; {packages}; commit `{machine['commit']}`"
        )
        groups.setdefault(text, []).append(document["benchmark"])
    lines = []
    for text, names in groups.items():
        lines += [f"{text}: {', '.join(names)}.", ""] if len(groups) > 1 else [f"{text}.", ""]
    lines.append(f"All of it took {total_s / 60:.0f} minutes. Medians; ratios are of one run.")
    return lines


def _section(document: Json, docs: Path) -> list[str]:
    name = document["benchmark"]
    lines = [f"## {name}", ""]
    if document.get("question"):
        lines += [document["question"], ""]
    options = document.get("options", {})
    lines += [
        f"`python -m benchmarks.{name} --json`"
        + (f", seed {options['seed']}" if "seed" in options else "")
        + f", {document.get('at', '')}, {document.get('seconds', 0):.0f} s"
        + (
            f"; other processes used {document['other_cores']} cores meanwhile"
            if document.get("other_cores") is not None
            else ""
        )
        + (". **Smallest sizes: these figures mean nothing.**" if options.get("tiny") else ""),
        "",
    ]
    for reason in ("cannot_run", "failed"):
        if reason in document:
            return [*lines, f"**{reason.replace('_', ' ').capitalize()}**: {document[reason]}"]
    for table in document.get("tables", []):
        lines += [*_table(table), ""]
    if document.get("curves"):
        lines += [*(_plot(name, curve, docs) for curve in document["curves"]), ""]
    for note in document.get("notes", []):
        lines += [f"* {note}"]
    return lines


def _table(table: Json) -> list[str]:
    lines = [f"**{table['title']}**", ""] if table.get("title") else []
    lines.append("| " + " | ".join(_cell(c) for c in table["columns"]) + " |")
    lines.append("|" + "---|" + "---:|" * (len(table["columns"]) - 1))
    lines += ["| " + " | ".join(_cell(shown(c)) for c in row) + " |" for row in table["rows"]]
    if table.get("note"):
        lines += ["", table["note"]]
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plot(benchmark: str, curve: Json, docs: Path) -> str:
    """Draw a curve beside the page; without matplotlib its points as a table."""
    slug = re.sub(r"[^a-z0-9]+", "-", curve["title"].lower()).strip("-")
    path = docs / f"benchmarks-{benchmark}-{slug}.png"
    try:
        draw(curve, path)
    except ImportError:
        rows = [[name, x, y] for name, points in curve["lines"].items() for x, y in points]
        return "\n".join(
            _table({"title": curve["title"], "columns": ["", curve["x"], curve["y"]], "rows": rows})
        )
    return f"![{curve['title']}: {curve['y']} by {curve['x']}]({path.name})"


def draw(curve: Json, path: Path) -> None:
    """One plot as PNG, the same bytes for the same points. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import ScalarFormatter

    figure, axes = pyplot.subplots(figsize=(5.0, 3.1), dpi=100)
    for at, (name, points) in enumerate(curve["lines"].items()):
        xs, ys = zip(*points, strict=True)
        dashed = name == curve.get("fit")
        axes.plot(
            xs,
            ys,
            label=name,
            color=_COLOURS[at % len(_COLOURS)],
            marker=None if dashed else "o",
            linestyle="--" if dashed else "-",
            markersize=3.5,
            linewidth=1.4,
        )
    if curve.get("log_x"):
        axes.set_xscale("log")
        xs = sorted({x for points in curve["lines"].values() for x, _ in points})
        axes.set_xticks(xs)
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(bottom=0)
    axes.set_xlabel(curve["x"])
    axes.set_ylabel(curve["y"])
    axes.set_title(curve["title"], fontsize=10)
    axes.grid(alpha=0.3)
    if len(curve["lines"]) > 1:
        axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
