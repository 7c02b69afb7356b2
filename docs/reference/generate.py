"""What the reference pages say, taken from the program: `cog -r` writes it, `cog --check` in `make lint` compares.

Each function returns Markdown. It is the same on every machine: nothing here looks at the environment.
"""

import ast
import importlib
import inspect
import itertools
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

PROGRAMS = ("service", "training", "registry", "corrections", "benchmarks")
MARKUP = re.compile(r"[\\]?\[(?=[a-z#])")


def settings() -> str:
    """Return a table of the service's settings."""
    from service.settings import Settings

    lines = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `WHISPERLOOP_{name.upper()}` | {_default(field)} | {_cell(field.description or '')} |")
    return "\n".join(lines)


def command_lines() -> str:
    """Return each program's commands, with their options."""
    parts: list[str] = []
    for program in PROGRAMS:
        app = importlib.import_module(f"{program}.__main__").app
        command = typer.main.get_command(app)
        parts += [f"## python -m {program}", _help(command.help)]
        for path, one in _commands(command, f"python -m {program}"):
            parts += [f"### {path}", f"```text\n{_usage(one, path)}\n```", _help(one.help), _parameters(one)]
    return "\n\n".join(part for part in parts if part)


def http() -> str:
    """Return the service's paths, as its OpenAPI document has them."""
    from service.app import create_app
    from service.settings import Settings

    document = create_app(Settings.model_construct(), load=_nothing).openapi()
    parts: list[str] = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += [f"## {method.upper()} {path}", *_operation(operation, document)]
    parts.append("## Schemas")
    for name, schema in sorted(document["components"]["schemas"].items()):
        if schema.get("properties") and not name.startswith("Body_"):
            parts += [f"### {name}", _cell(schema.get("description", "")), _properties(schema)]
    return "\n\n".join(part for part in parts if part)


def recipe() -> str:
    """Return the fields of a training recipe, and of everything in it."""
    from training.config import TrainingConfig

    parts = []
    for section in _sections(TrainingConfig, {}):
        said = _attribute_docstrings(section)
        kind = section.model_fields.get("kind")
        title = f"A source of kind {kind.default}" if kind else section.__name__
        title = "A recipe" if section is TrainingConfig else title
        lines = [
            f"## {title}",
            inspect.cleandoc(section.__doc__ or ""),
            "| field | type | default | |\n|---|---|---|---|",
        ]
        for name, field in section.model_fields.items():
            typed = "list of sources" if name in {"sources", "replay", "guards"} else _cell(_type(field.annotation))
            lines[-1] += f"\n| `{name}` | {typed} | {_default(field)} | {_cell(said.get(name, ''))} |"
        parts.append("\n\n".join(lines))
    return "\n\n".join(parts)


def _nothing(_settings: object) -> Any:
    raise RuntimeError("the reference loads no model")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.default if field.default is not PydanticUndefined else None
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if not value and value is not False and value != 0:
        return ""
    if isinstance(value, BaseModel):
        return "its own defaults"
    return f"`{list(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))  # code stays


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield commands and their paths, groups' own ones in their place."""
    for name, one in getattr(command, "commands", {}).items():
        if hasattr(one, "commands"):
            yield from _commands(one, f"{path} {name}")
        else:
            yield f"{path} {name}", one


def _usage(command: Any, path: str) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    shown = [(one.metavar or one.name.upper()) + (" ..." if one.nargs == -1 else "") for one in arguments]
    words = [name if one.required else f"[{name}]" for name, one in zip(shown, arguments, strict=True)]
    return " ".join([path, "[OPTIONS]", *words])


def _help(text: str | None) -> str:
    return _plain(inspect.cleandoc(text or "").replace("\f", ""))


def _plain(text: str) -> str:
    """Leave out the escapes that keep brackets from being taken for a terminal's markup."""
    return MARKUP.sub("[", text)


def _parameters(command: Any) -> str:
    lines = []
    for parameter in command.params:
        is_option = parameter.param_type_name == "option"
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts)) if is_option else ""
        names = names or f"`{parameter.metavar or parameter.name.upper()}`"
        if "--help" in parameter.opts:
            continue
        default = parameter.default
        shown = "" if callable(default) or default in (None, False, (), []) else f"`{_shown(default)}`"
        if parameter.required:
            shown = "required"
        variable = f" (`{parameter.envvar}`)" if getattr(parameter, "envvar", None) else ""
        lines.append(f"| {names} | {shown} | {_cell(_plain(getattr(parameter, 'help', '') or ''))}{variable} |")
    return "\n".join(["| | default | |", "|---|---|---|", *lines]) if lines else ""


def _shown(default: object) -> str:
    if isinstance(default, list | tuple):
        return ", ".join(map(_shown, default))
    return str(getattr(default, "value", default)) if not isinstance(default, Path) else default.as_posix()


def _operation(operation: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    yield operation.get("description") or operation.get("summary", "")
    rows = [
        f"| `{one['name']}` | {one['in']} | {_kind(one.get('schema', {}))} | {_cell(one.get('description', ''))} |"
        for one in operation.get("parameters", [])
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(content.get("schema", {}), document)
        required = set(schema.get("required", ()))
        for name, field in schema.get("properties", {}).items():
            place = kind.partition("/")[2] + (", required" if name in required else "")
            rows.append(f"| `{name}` | {place} | {_kind(field)} | {_cell(field.get('description', ''))} |")
    if rows:
        yield "\n".join(["| | in | type | |", "|---|---|---|---|", *rows])
    answers: dict[tuple[str, str], list[str]] = {}
    for status, answer in sorted(operation.get("responses", {}).items()):
        schemas = {_kind(content.get("schema", {})) for content in answer.get("content", {}).values()} - {""}
        said = "" if status[0] in "45" else _cell(answer.get("description", ""))
        answers.setdefault((", ".join(sorted(schemas)), said), []).append(status)
    rows = [f"| {', '.join(statuses)} | {kind} | {said} |" for (kind, said), statuses in answers.items()]
    yield "\n".join(["| status | answer | |", "|---|---|---|", *rows])


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return typing.cast("dict[str, Any]", document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    return schema


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_kind(one) for one in alternatives if one.get("type") != "null"))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {})) or 'any'}"
    if schema.get("format") == "binary":
        return "file"
    kind = schema.get("type", "")
    return " or ".join(one for one in kind if one != "null") if isinstance(kind, list) else str(kind)


def _properties(schema: dict[str, Any]) -> str:
    rows = [
        f"| `{name}` | {_kind(field)} | {_cell(field.get('description', ''))} |"
        for name, field in schema["properties"].items()
    ]
    return "\n".join(["| | type | |", "|---|---|---|", *rows])


def _sections(section: type[BaseModel], seen: dict[type[BaseModel], None]) -> dict[type[BaseModel], None]:
    """Collect a section and those that its fields are made of, in the order in which they are named."""
    if section not in seen:
        seen[section] = None
        for field in section.model_fields.values():
            for part in _parts(field.annotation):
                if inspect.isclass(part) and issubclass(part, BaseModel):
                    _sections(part, seen)
    return seen


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in typing.get_args(annotation):
        yield from _parts(argument)


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner = arguments[0]
        sections = [part.__name__ for part in _parts(inner) if inspect.isclass(part) and issubclass(part, BaseModel)]
        return " or ".join(sections) if len(sections) > 1 else _type(inner)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_type(one) for one in arguments if one is not type(None))
    if origin in {tuple, list}:
        return "list of " + " or ".join(dict.fromkeys(_type(one) for one in arguments if one is not Ellipsis))
    name: str = annotation.__name__
    return {"Path": "path", "str": "text"}.get(name, name)


def _attribute_docstrings(section: type[BaseModel]) -> dict[str, str]:
    """Return what is written below each field, in a class and in those that it stands on."""
    said: dict[str, str] = {}
    for one in reversed(section.__mro__):
        if not issubclass(one, BaseModel) or one is BaseModel:
            continue
        body = typing.cast("ast.ClassDef", ast.parse(inspect.cleandoc("\n" + inspect.getsource(one))).body[0]).body
        for field, after in itertools.pairwise(body):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    said[name] = inspect.cleandoc(text)
                case _:
                    pass
    return said
