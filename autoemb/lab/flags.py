"""The flags of a run's options, made of their declarations, and how errors name them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BeforeValidator

from autoemb.errors import UserError
from autoemb.lab.config import OPTIONS, RunConfig
from autoemb.lab.sources import DataFlags, flag_of
from autoemb.optim import OPTIMIZERS
from autoemb.recipe import PRESETS, Recipe

#: Sections of the help, and which options they hold.
_GROUPS = {
    "Protocol": {*RunConfig.model_fields},
    "Recipe": {*Recipe.model_fields},
    "Data": {one.name for one in fields(DataFlags)},
}


class Grouped(typer.core.TyperCommand):
    """A command whose help tells data, protocol and recipe apart."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options section by section."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            name = parameter.name or ""
            if record is not None:
                titles = (title for title, names in _GROUPS.items() if name in names)
                groups.setdefault(next(titles, "Options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def with_run_options(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a run, but for some, as keyword arguments.

    :class:`RunConfig` and :class:`Recipe` stay the one list of options: their names, kinds,
    defaults and help come from there.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        shared = [_parameter(name) for name in OPTIONS if name not in left_out]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=parameters
        )
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    """Return the flag of an option; None where it is not given, which leaves it to RunConfig."""
    kind, metavar, choices = _kind(OPTIONS[name].annotation)
    if any(isinstance(check, BeforeValidator) for check in OPTIONS[name].metadata):
        kind, metavar = str, "SHARE|BYTES"  # which it parses
    text = OPTIONS[name].description or ""
    if choices:
        text += f" One of: {', '.join(choices)}."
    defaults = {"default": OPTIONS[name].default, **_preset_values(name)}
    if defaults["default"] is not None:
        said = (f"{who}: {_value_text(value)}" for who, value in defaults.items())
        text += f" [{'; '.join(said)}]"
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, typer.Option(help=text, metavar=metavar)],
    )


def _preset_values(name: str) -> dict[str, Any]:
    """Return an option's values by the optimizer and the preset that bring others."""
    rates = {kind.name: kind.rates._asdict() for kind in OPTIMIZERS.values()}
    found = {who: values[name] for who, values in (rates | PRESETS).items() if name in values}
    return {who: value for who, value in found.items() if value != OPTIONS[name].default}


def _kind(annotation: Any) -> tuple[Any, str | None, tuple[str, ...]]:
    """Return what a flag's text is made into, how it is shown, and the choices."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin in (Union, UnionType):
        return _kind(next(kind for kind in arguments if kind is not NoneType))
    if origin is Literal:
        return str, "NAME", arguments
    return (str, "N,N,...", ()) if origin is tuple else (annotation, None, ())


def _value_text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, lists of numbers parsed."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if get_origin(OPTIONS[name].annotation) is tuple:
            given[name] = tuple(integers(flag_of(name), given[name]))
    return given


def config_of(options: dict[str, Any]) -> RunConfig:
    """Return the options of a run that were given as flags; errors name these."""
    given = given_options(options)
    try:
        return RunConfig(**given)
    except UserError as error:
        raise UserError(_flagged(str(error))) from None


def _flagged(message: str) -> str:
    """Return an error about an option, which begins with its name, by its flag."""
    found = re.match(r"(\w+)(?:\[(\d+)\])? ", message)
    if found is None or found[1] not in OPTIONS:
        return message
    number = "" if found[2] is None else f", value {int(found[2]) + 1},"
    return f"{flag_of(found[1])}{number} {message[found.end() :]}"


def integers(option: str, text: str) -> list[int]:
    """Return the whole numbers of a flag's text."""
    if not re.fullmatch(r"\s*\d{1,18}\s*(,\s*\d{1,18}\s*)*", text):
        raise UserError(f"{option} is {text!r}; expected whole numbers separated by commas")
    return [int(part) for part in text.split(",")]
