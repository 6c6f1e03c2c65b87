"""What the guestbook answers. No sockets here: a request comes in, an answer goes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from urllib.parse import parse_qs

from guestbook import page
from guestbook.store import Store

LONGEST_NOTE = 500  # characters
LONGEST_NAME = 60
SHOWN = 20  # notes


@dataclass(frozen=True)
class Instance:
    """The one that answers."""

    store: Store
    greeting: str
    name: str
    revision: str


@dataclass(frozen=True)
class Request:
    """`number`: how many requests for the same path this instance has got before."""

    instance: Instance
    number: int
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    content_type: str = "application/json"
    location: str = ""

    @classmethod
    def of(cls, value: object, status: int = 200) -> Answer:
        """Any value as JSON."""
        return cls(status, json.dumps(value).encode() + b"\n")


def health(request: Request) -> Answer:
    """`GET /healthz`: ready when the notes can be counted."""
    return Answer.of({"notes": request.instance.store.count()})


def list_notes(request: Request) -> Answer:
    """`GET /notes`: the newest notes, newest first."""
    notes = request.instance.store.newest(SHOWN)
    return Answer.of([asdict(note) for note in notes])


def add_note(request: Request) -> Answer:
    """`POST /notes`: a note as JSON (`{"text": …, "author": …}`), or from the page's form."""
    from_form = request.content_type.startswith("application/x-www-form-urlencoded")
    try:
        fields = _form(request.body) if from_form else json.loads(request.body)
        text, author = str(fields["text"]).strip(), str(fields.get("author") or "somebody").strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        return Answer.of({"error": 'expected an object such as {"text": "hello", "author": "me"}'}, 400)
    if not 0 < len(text) <= LONGEST_NOTE or len(author) > LONGEST_NAME:
        return Answer.of({"error": f"a note has 1 to {LONGEST_NOTE} characters, a name at most {LONGEST_NAME}"}, 400)
    note = request.instance.store.add(author, text)
    return Answer(303, location="/") if from_form else Answer.of(asdict(note), 201)


def front_page(request: Request) -> Answer:
    """`GET /`: the page for people."""
    instance = request.instance
    text = page.render(instance.greeting, instance.store.newest(SHOWN), instance.revision, instance.name)
    return Answer(200, text.encode(), "text/html; charset=utf-8")


ROUTES: dict[tuple[str, str], Callable[[Request], Answer]] = {
    ("GET", "/"): front_page,
    ("GET", "/healthz"): health,
    ("GET", "/notes"): list_notes,
    ("POST", "/notes"): add_note,
}


def answer(method: str, path: str, request: Request) -> Answer:
    """Find the handler and let it answer."""
    handler = ROUTES.get(("GET" if method == "HEAD" else method, path))
    if handler is not None:
        return handler(request)
    if any(path == other for _, other in ROUTES):
        return Answer.of({"error": f"{method} is not for {path}"}, 405)
    return Answer.of({"error": f"nothing is at {path}"}, 404)


def _form(body: bytes) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(body.decode()).items()}
