"""Commands about people: review, at the terminal or in the browser; serve; reviewers."""

from __future__ import annotations

import os
import signal
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from everlearn.cli.console import Answer, Console, as_json
from everlearn.cli.data import opened, queued
from everlearn.errors import BadInput
from everlearn.naming import denied
from everlearn.text import table

Context = typer.Context
PORT = 8420

Host = Annotated[str, typer.Option(metavar="HOST", help="The address to listen at; 0.0.0.0 for every one.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The port to listen at; 0 takes a free one.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Processes that answer requests.")]


class RoleName(StrEnum):
    reviewer = "reviewer"
    admin = "admin"


def add_to(app: typer.Typer) -> None:
    app.command("review")(review)
    app.command("serve")(serve)
    app.add_typer(reviewers, name="reviewers")


def review(
    context: Context,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 20,
    browser: Annotated[
        bool, typer.Option("--browser", help="Serve the review page, and print the address to open.")
    ] = False,
    person: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="With --browser: who reviews; default: you.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = PORT,
) -> Answer:
    """Answer the queue, most informative first. At the terminal, or with --browser on a page; with --json, or without a
    terminal, list it. Where labels are boxes they are drawn in the browser."""
    from everlearn.label import person as people

    workspace = opened(context)
    if browser:
        return _in_the_browser(context.obj, workspace, person, host, port)
    if person is not None:
        raise BadInput("--as is for the review in the browser.", "Add --browser.")
    detect = workspace.config.task == "detect"
    waiting = people.waiting(workspace, limit)
    answered = 0
    if sys.stdin.isatty() and not context.obj.json and not detect:
        answered = _ask(workspace, waiting, context.obj)
    number = queued(workspace)
    rows = [
        [one.id, one.queue_reason, "-" if detect or not one.label else one.label, one.suspect or "-",
         workspace.where(one.key)]
        for one in waiting
    ]  # fmt: skip
    lines = [f"Answered {answered}; {number} wait."] if answered else table(
        rows, ["sample", "why", "label", "rather", "file"]
    )  # fmt: skip
    if not waiting:
        lines = ["Nothing waits for a person."]
    elif detect:
        lines += ["", f"{number} wait. Boxes are drawn in the browser: everlearn review --browser"]
    items = [
        {"sample": o.id, "reason": o.queue_reason, "label": o.label, "suggestion": o.suspect, "urgency": o.urgency,
         "path": workspace.where(o.key)}
        for o in waiting
    ]  # fmt: skip
    return Answer({"labelled": answered, "queued": number, "items": items}, lines)


def _ask(workspace: Any, waiting: list[Any], console: Console) -> int:
    from everlearn.label import person

    console.say("For each image: a label, Enter to keep what is suggested, s to skip, q to stop.")
    answered = 0
    for number, one in enumerate(waiting, 1):
        proposal: str | None = one.suspect or (None if denied(one.label) else one.label)
        print(f"[{number}/{len(waiting)}] {workspace.where(one.key)}  ({one.queue_reason})", file=sys.stderr)
        print(f"  label{f' [{proposal}]' if proposal else ''}: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        said = line.strip()
        if not line or said == "q":
            break
        if said == "s" or (not said and not proposal):
            continue
        try:
            person.say(workspace, one.id, said or proposal or "")
        except BadInput as error:  # a slip of the fingers: the image waits on
            console.say(f"  {error}")
            continue
        answered += 1
    return answered


def _in_the_browser(console: Console, workspace: Any, person: str | None, host: str, port: int) -> Answer:
    """A token for this person, for as long as this server runs."""
    from everlearn.catalog import reviewers as people
    from everlearn.catalog.tables import who
    from everlearn.serve import run

    console.begin(workspace, "review")
    listening = run.bound(host, port)
    with workspace.catalog.write() as tx:
        made, secret = people.add(tx, person or who())
    base = run.address(listening, host)
    url = f"{base}/sign-in#token={secret}"
    before = queued(workspace)

    def ready() -> None:
        _warn(console, host)
        if console.json:
            as_json({"url": url, "name": made.name, "queued": before})
        else:
            print(
                f"{before} wait. Open this address; it is good for {made.name} until this command ends:\n{url}",
                flush=True,
            )
        console.say("Ctrl-C ends it.")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the token ends with it too
    try:
        run.run(workspace, listening, ready=ready)
    finally:
        with workspace.catalog.write() as tx:
            people.revoke(tx, made.id)
    left = queued(workspace)
    return Answer({"labelled": max(0, before - left), "queued": left}, [f"{left} wait."])


def serve(
    context: Context,
    host: Host = "127.0.0.1",
    port: Port = PORT,
    workers: Workers = 1,
) -> Answer | None:
    """Serve the API and the review page. Everybody signs in with a token of their own: see everlearn reviewers.

    Ends with Ctrl-C; with --json, one object a line."""
    from everlearn.catalog import reviewers as people
    from everlearn.serve import run

    workspace = opened(context)
    console: Console = context.obj
    with workspace.catalog.read() as tx:
        known = people.anybody(tx)
    if not known and not run.is_local(host):
        raise BadInput(
            f"Nobody has a token, so nobody could sign in at {host}.", "Make one: everlearn reviewers add NAME"
        )
    listening = run.bound(host, port)
    url = run.address(listening, host)

    def ready() -> None:
        _warn(console, host)
        if not known:
            console.say("Nobody has a token yet, so nobody can sign in: everlearn reviewers add NAME")
        if console.json:
            as_json({"event": "started", "url": url, "workers": workers, "process": os.getpid()})
        else:
            print(f"Serving {workspace.root} at {url}", flush=True)
        console.say("Ctrl-C ends it.")

    try:
        run.run(workspace, listening, workers=workers, ready=ready)
    finally:
        if console.json:
            as_json({"event": "ended", "url": url})
    return None


def _warn(console: Console, host: str) -> None:
    from everlearn.serve import run

    if not run.is_local(host):
        console.say(
            f"Note: what goes to and from {host} is NOT ENCRYPTED, tokens and images too. Put a TLS proxy (nginx, "
            "Caddy) before it, or leave --host out and use an SSH tunnel."
        )


reviewers = typer.Typer(
    help="Who may review in the browser and use the API: one token for each.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@reviewers.command("add")
def reviewers_add(
    context: Context,
    name: Annotated[str, typer.Argument(help="The person; what they answer is kept under this name.")],
    role: Annotated[
        RoleName, typer.Option(help="admin may also make and revoke tokens over the API.")
    ] = RoleName.reviewer,
) -> Answer:
    """Make a token. It is shown once, and only its digest is kept."""
    from everlearn.catalog import reviewers as people

    workspace = opened(context)
    with workspace.catalog.write() as tx:
        made, secret = people.add(tx, name, role.value)
    values = {"id": made.id, "name": made.name, "role": made.role, "token": secret}
    lines = [f"The token of {made.name} ({made.role}), shown this once:", secret, "They sign in with it at /sign-in."]
    return Answer(values, lines)


@reviewers.command("list")
def reviewers_list(context: Context) -> Answer:
    """All tokens, without their secrets, and when each was last used."""
    from everlearn.catalog import reviewers as people

    workspace = opened(context)
    with workspace.catalog.read() as tx:
        found = people.listed(tx)
    rows = [
        [o.id, o.name, o.role, f"{o.made_at:%Y-%m-%d %H:%M}", f"{o.used_at:%Y-%m-%d %H:%M}" if o.used_at else "never",
         "revoked" if o.revoked_at else ""] for o in found
    ]  # fmt: skip
    listed = [{"id": o.id, "name": o.name, "role": o.role, "made_at": o.made_at, "used_at": o.used_at,
               "revoked_at": o.revoked_at} for o in found]  # fmt: skip
    shown = table(rows, ["token", "name", "role", "made (UTC)", "last used", ""]) if rows else ["Nobody has a token."]
    return Answer({"reviewers": listed}, shown)


@reviewers.command("revoke")
def reviewers_revoke(
    context: Context, name: Annotated[str, typer.Argument(help="A person, or the id of one token.")]
) -> Answer:
    """Close the door to a person, at once: all their tokens, or one by its id."""
    from everlearn.catalog import reviewers as people

    workspace = opened(context)
    with workspace.catalog.write() as tx:
        closed = people.revoke(tx, name)
    return Answer({"revoked": closed}, [f"Revoked {len(closed)} of {name}."])
