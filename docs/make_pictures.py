"""Renews the pictures and the transcript from real runs: `python docs/make_pictures.py [tour] [dashboard] [judge]`.

- `tour`: runs `rebake tour`, keeps its whole output in docs/img/tour.txt, draws an excerpt as docs/img/tour.svg and
  puts a shorter one into README.md between its two marks.
- `dashboard`: raises the tour's service under load and photographs the dashboard with headless Chromium in the middle
  of a canary, as docs/img/dashboard.png.
- `judge`: rolls a bad release of the same service out under load and has `rebake judge explain` draw its course, as
  docs/img/judge.svg.

Nothing is drawn by hand: the excerpt only leaves out, and says `…` where it does.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
IMAGES = HERE / "img"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- the tour's own output, by docs/make_pictures.py -->", "<!-- end of the tour's output -->"
WIDTH = 112
TAKEN_BACK = 3
"""The exit code of a deploy that the judge ended."""

Shown = Sequence[tuple[str, str, str]]
"""By chapter of the tour: the command, and which lines of its output are shown."""
PICTURE: Shown = (
    ("2. A good change", "deploy production", r"holding|soaking|promoted:|stable   :|candidate:|✓ no request"),
    ("3. A bad change", "deploy production", r"holding|rolled-back:|cause:|candidate:|next:|✓ production|✓ no request"),
    ("4. A changed setting", "undo production", r"undone:|quarantine|env |what changes|✓ the earlier|✓ no request"),
    ("6. The record", "ledger verify", r"whole:|✓"),
)
TRANSCRIPT: Shown = (
    ("2. A good change", "deploy production", r"^promoted:|stable   :|candidate:|✓ no request"),
    ("3. A bad change", "deploy production", r"^rolled-back:|cause:|next:|✓ production|✓ no request"),
    ("4. A changed setting", "undo production", r"undone:|env |what changes|✓ no request"),
)


def chapters(output: str) -> dict[str, list[str]]:
    """The tour's output by chapter title."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in output.splitlines():
        if line.startswith("── "):
            title = line.removeprefix("── ")
            found[title] = []
        elif title:
            found[title].append(line)
    return found


def cut(line: str, width: int) -> str:
    """A line short enough for a page. What is left out is a `…`."""
    line = re.sub(r" · \d+ of \d+ healthy: ", " … ", line.rstrip())
    if len(line) <= width:
        return line
    return line[: line.rindex(" ", 0, width - 1)] + " …"


def shown(lines: Sequence[str], command: str, pattern: str, width: int) -> Iterator[str]:
    """The first run of a command in one chapter: its line, and the lines that match, with `…` for the others."""
    begin = lines.index(f"$ rebake {command}")
    yield lines[begin]
    gap = False
    for line in lines[begin + 1 :]:
        if line.startswith("$ "):
            return
        if re.search(pattern, line):
            if gap:
                yield "…"
            gap = False
            yield cut(line, width)
        elif line.strip():
            gap = True


def excerpt(output: str, chosen: Shown, width: int) -> str:
    """What is shown of the tour's output, and at its end all that was counted. Pure."""
    found = chapters(output)
    lines: list[str] = []
    for start, command, pattern in chosen:
        title = next(title for title in found if title.startswith(start))
        lines += [f"── {title}", found[title][0], *shown(found[title], command, pattern, width), ""]
    lines += ["── What was counted", *(line for line in found["What was counted"] if line.strip())]
    return "\n".join(lines) + "\n"


def transcript(output: str) -> str:
    """What README.md shows."""
    return excerpt(output, TRANSCRIPT, 200)


def with_transcript(readme: str, output: str) -> str:
    """The README with the transcript of this output between its marks."""
    text = transcript(output)
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n```text\n{text}```\n{END}{after}"


def picture(text: str) -> str:
    """The text as a terminal, drawn by rich."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=WIDTH + 2, file=io.StringIO(), force_terminal=True)
    for line in text.splitlines():
        drawn = Text(line)
        drawn.highlight_regex(r"^\$ .*", "bold cyan")
        drawn.highlight_regex(r"^── .*", "bold")
        drawn.highlight_regex(r"^(promoted|undone|whole)(?=:)|✓", "bold green")
        drawn.highlight_regex(r"^rolled-back(?=:)|✗", "bold red")
        drawn.highlight_regex(r"^\[.*?\]", "dim")
        console.print(drawn, highlight=False)
    return console.export_svg(title="rebake tour", unique_id="tour")


def tour() -> None:
    """Run the tour and keep what it printed. Ends the script when a claim of the tour is not true."""
    done = subprocess.run(
        [sys.executable, "-m", "rebake.cli", "tour"], capture_output=True, text=True, timeout=600, check=True
    )
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "tour.txt").write_text(done.stdout, encoding="utf-8")
    (IMAGES / "tour.svg").write_text(picture(excerpt(done.stdout, PICTURE, WIDTH)), encoding="utf-8")
    README.write_text(with_transcript(README.read_text(encoding="utf-8"), done.stdout), encoding="utf-8")


def dashboard() -> None:
    """Photograph the dashboard while a candidate serves a part of the users."""
    from rebake.tour.load import Load
    from rebake.tour.run import GOOD, MIX, RATE
    from rebake.tour.stage import stage

    with stage() as there:
        for environment in ("staging", "production"):
            _typed(there.rebake("deploy", environment))
        with Load(there.url, RATE, MIX):
            there.edit("guestbook/handlers.py", *GOOD)
            _typed(there.rebake("deploy", "staging"))
            _typed(there.rebake("deploy", "production", "--detach"))
            deadline = time.monotonic() + 60
            while (there.ask("status", "production")["rollout"] or {}).get("step", 0) < 3:
                if time.monotonic() > deadline:
                    raise TimeoutError("the candidate did not reach its third step")
                time.sleep(0.2)
            photograph(there.ask("dashboard")["url"], IMAGES / "dashboard.png")


def judge() -> None:
    """Draw the course of a release that is taken back."""
    from rebake.tour.load import Load
    from rebake.tour.run import BAD, MIX, RATE
    from rebake.tour.stage import stage

    with stage() as there:
        for environment in ("staging", "production"):
            _typed(there.rebake("deploy", environment))
        with Load(there.url, RATE, MIX):
            there.edit("guestbook/handlers.py", *BAD)
            _typed(there.rebake("deploy", "staging"))
            _typed(there.rebake("deploy", "production"), TAKEN_BACK)
        _typed(there.rebake("judge", "explain", "production", "--svg", str(IMAGES / "judge.svg")))


def _typed(code: int, wanted: int = 0) -> None:
    if code != wanted:
        raise RuntimeError(f"the command ended with {code}")


def photograph(url: str, target: Path) -> None:
    """What a browser shows of a page."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise RuntimeError("the picture of the dashboard needs a browser: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="rebake-picture-") as profile:
        subprocess.run(
            [
                browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
                "--hide-scrollbars", "--window-size=1100,540", "--virtual-time-budget=2500",
                f"--screenshot={target}", url,
            ],
            capture_output=True, timeout=90, check=True,
        )  # fmt: skip


if __name__ == "__main__":
    for name in sys.argv[1:] or ["tour", "dashboard", "judge"]:
        {"tour": tour, "dashboard": dashboard, "judge": judge}[name]()
