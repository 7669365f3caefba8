"""Finds the command, runs it, and turns what happened into an answer, an error and an exit code."""

from __future__ import annotations

import io
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

from everlearn.cli import (
    craft,
    data,
    dataset,
    experiments,
    features,
    models,
    review,
    teaching,
    training,
    tuning,
    upload,
    wheel,
)  # fmt: skip
from everlearn.cli.console import Answer, Console, as_json
from everlearn.errors import BadInput, EverlearnError, NotInstalled

OURS = 70
_click: Any = sys.modules[typer.BadParameter.__mro__[1].__module__]  # Typer's own copy of click, or click itself
INTERRUPTED = 130
EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "timm", "accelerate", "optuna", "onnxscript"), "train"),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn"), "serve"),
}
"""What an optional part is installed with, where a command comes upon its absence."""

EPILOG = "Exit codes: 0 done, 1 the answer is no, 2 bad input, 70 a fault of Everlearn, 130 interrupted."


class EngineName(StrEnum):
    local = "local"
    ray = "ray"


app = typer.Typer(
    name="everlearn",
    help="Keeps a vision model learning after it is deployed: collect, check, label, learn, prove, deploy, watch.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=False)
def everlearn(
    context: typer.Context,
    workspace: Path | None = typer.Option(
        None, "--workspace", "-w", help="The workspace; default: the nearest at or above the current folder."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout, and nothing else."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress and no messages, only the answer."),
    engine: EngineName | None = typer.Option(
        None, help="Where features are computed and summed; default: the setting engine.kind."
    ),
    ray_address: str | None = typer.Option(
        None, metavar="ADDRESS", help="The Ray cluster: HOST:PORT, ray://HOST:PORT or auto; implies --engine ray."
    ),
) -> None:
    """Global options; they may also follow the verb."""
    console: Console = context.obj
    console.workspace, console.json, console.quiet = workspace, as_json, quiet
    _use_engine(console, engine, ray_address)


def _use_engine(console: Console, kind: EngineName | None, address: str | None) -> None:
    """For this command alone. A cluster that it starts, by the options or the settings, ends with it."""
    from everlearn import engine
    from everlearn.config import Engine

    if address is not None and kind is EngineName.local:
        raise BadInput("--ray-address needs --engine ray.", "Leave --engine out.")
    name = "ray" if address is not None else kind and kind.value
    engine.choose(Engine(kind=name, address=address) if name else None)
    console.open.callback(engine.choose, None)
    console.open.callback(engine.close)


for room in (data, dataset, review, features, models, training, teaching, tuning, craft, experiments, upload, wheel):
    room.add_to(app)


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    _prepare_streams()
    wants_json = "--json" in arguments[: arguments.index("--")] if "--" in arguments else "--json" in arguments
    arguments = global_first(arguments)
    console = Console(json=wants_json)
    try:
        with console.open:
            command = typer.main.get_command(app)
            answer = command.main(arguments, prog_name="everlearn", standalone_mode=False, obj=console)
            if isinstance(answer, Answer):
                console.note(answer.values)
        if answer == INTERRUPTED:  # newer versions of Typer take Ctrl-C for themselves
            raise KeyboardInterrupt
        return console.answer(answer) if isinstance(answer, Answer) else int(answer or 0)
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        return _interrupted(wants_json)
    except _click.UsageError as error:
        return _usage(error, wants_json)
    except _click.ClickException as error:
        return console.error(EverlearnError(error.format_message()))
    except EverlearnError as error:
        return console.error(error)
    except KeyboardInterrupt:
        return _interrupted(wants_json)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:  # whatever escapes is our fault, and is said to be
        return _not_installed(error, console) or _ours(error, wants_json)


def _not_installed(error: Exception, console: Console) -> int | None:
    """The exit code where an optional part is what was missing, after saying how it is installed."""
    extra = EXTRAS.get((error.name or "").partition(".")[0]) if isinstance(error, ModuleNotFoundError) else None
    if extra is None:
        return None
    return console.error(NotInstalled(f"This needs {error.name}.", f'pip install "everlearn[{extra}]"'))  # type: ignore[attr-defined]


def _prepare_streams() -> None:
    """A label in Korean must not stop a terminal in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def global_first(arguments: list[str]) -> list[str]:
    """Move the global options before the verb, wherever they stand; what follows `--` is left alone."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in ("--json", "--quiet", "-q"):
            front.append(word)
        elif word in ("-w", "--workspace", "--engine", "--ray-address"):
            value = next(words, None)
            if value is None or value in ("--json", "--quiet", "-q"):
                return [word]  # so that it is this option which is said to miss its value, not the verb
            front += [word, value]
        elif word.startswith(_JOINED) or (word.startswith("-w") and word[2:3] in "/.~"):
            front.append(word)
        elif rest[:1] == ["label"] and "--" not in rest and word[:1] == "-" and word[1:2] in _NUMBER:
            rest += ["--", word]  # `label ID -5`: a number below 0 is no option
        else:
            rest.append(word)
    return front + rest


_JOINED = ("--workspace=", "--engine=", "--ray-address=")
_NUMBER = tuple("0123456789.")


def _usage(error: Any, wants_json: bool) -> int:
    message = " ".join(error.format_message().replace("Value error, ", "").split())
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        message = "Missing command."
    hint = f"See: {error.ctx.command_path} --help" if error.ctx else "See: everlearn --help"
    if wants_json:
        as_json({"error": {"code": "usage", "message": message, "remedy": hint}})
    print(f"everlearn: {message}\n  {hint}", file=sys.stderr)
    return 2


def _interrupted(wants_json: bool) -> int:
    message, remedy = "Interrupted.", "Nothing is lost; run the command again to go on."
    if wants_json:
        as_json({"error": {"code": "interrupted", "message": message, "remedy": remedy}})
    print(f"everlearn: {message} {remedy}", file=sys.stderr)
    return INTERRUPTED


def _ours(error: Exception, wants_json: bool) -> int:
    message = f"A fault of Everlearn: {type(error).__name__}: {' '.join(str(error).split())}"
    remedy = "Please report it with the lines above. Nothing is lost; everlearn doctor checks the workspace."
    traceback.print_exception(error, file=sys.stderr)
    if wants_json:
        as_json({"error": {"code": "fault", "message": message, "remedy": remedy}})
    print(f"everlearn: {message}\n  {remedy}", file=sys.stderr)
    return OURS
