# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What of the package is public, and what its docstrings and its code say about it, for tests of the documentation."""

import ast
import builtins
import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, get_args

import llava_uhd_v2_hf


SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
INSTALLED_APART = ("lmms_eval", "vllm", "vlmeval")  # programs that only processes of their own can import
# what runs when a class is called, and when its objects are used as what they are
OF_A_CLASS = ("__init__", "__post_init__", "__call__", "__getitem__", "__iter__")


def modules() -> Iterator[ModuleType]:
    """Every module of the package, by its path; importing one that is broken is an error."""
    yield llava_uhd_v2_hf
    for module in pkgutil.walk_packages(llava_uhd_v2_hf.__path__, "llava_uhd_v2_hf.", onerror=_raise):
        try:
            yield importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in INSTALLED_APART:
                raise


def _raise(name: str) -> None:
    raise ImportError(f"{name} can't be imported")


@dataclass(frozen=True)
class Public:
    """A public class, function or method.

    Args:
        name: with module and class.
        value: the class or function, without decorators.
        owner: the class of a method.
    """

    name: str
    value: Any
    owner: type | None = None

    @cached_property
    def doc(self) -> str:
        """Its own docstring; empty where it is inherited, or made by `dataclass`."""
        text = vars(self.value).get("__doc__") if inspect.isclass(self.value) else self.value.__doc__
        generated = f"{self.value.__name__}("
        return "" if text is None or text.startswith(generated) else inspect.cleandoc(text)

    @cached_property
    def sections(self) -> dict[str, str]:
        """The docstring's text by section; what stands before the first is the summary."""
        parts = re.split(rf"^({'|'.join(SECTIONS)})(?: \(.*)?:$", self.doc, flags=re.MULTILINE)
        return {"summary": parts[0], **dict(zip(parts[1::2], parts[2::2]))}

    def entries(self, section: str) -> dict[str, str]:
        """Name -> text of the entries of a section; several names may share one."""
        indented = re.split(r"^(?=\S)", self.sections.get(section, "").lstrip("\n"), flags=re.MULTILINE)[0]
        parts = re.split(r"^(\w+(?:, \w+)*)(?= \(.*\):|:)", textwrap.dedent(indented), flags=re.MULTILINE)
        return {name: text for names, text in zip(parts[1::2], parts[2::2]) for name in names.split(", ")}

    @cached_property
    def documented(self) -> dict[str, str]:
        return self.entries("Args") | self.entries("Attributes")

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Of a call, without `self`; of a class, those that it adds to what it inherits."""
        names = vars(self.value)
        if inspect.isclass(self.value) and ("_is_protocol" in names or not {"__init__", "_fields"} & set(names)):
            return {}
        found = inspect.signature(self.value).parameters
        own = inspect.get_annotations(self.value) if dataclasses.is_dataclass(self.value) else found
        return {name: value for name, value in found.items() if name in own and name not in ("self", "cls")}

    @cached_property
    def keywords(self) -> set[str]:
        """What `**kwargs` takes, where an `Unpack` of a typed dict says so."""
        kinds = (value.annotation for value in self.parameters.values() if value.kind is value.VAR_KEYWORD)
        return {name for kind in kinds for keys in get_args(kind) for name in keys.__annotations__}

    @property
    def raised(self) -> set[type[BaseException]]:
        """What its own code raises, and that of the private functions that it calls itself."""
        if not inspect.isclass(self.value):
            return raised(self.value, self.owner)
        own = [function for name in OF_A_CLASS if inspect.isfunction(function := vars(self.value).get(name))]
        own = [function for function in own if function.__module__ == self.value.__module__]  # not of `Protocol`
        return {error for function in own for error in raised(function, self.value)}


def public() -> Iterator[Public]:
    """Every name in the `__all__` of a module, and the public methods and properties that a class defines itself."""
    for module in modules():
        for name in getattr(module, "__all__", ()):
            value = inspect.unwrap(getattr(module, name))
            if getattr(value, "__module__", None) != module.__name__ or not callable(value):
                continue  # a constant, or the name of another module
            place = f"{module.__name__.removeprefix('llava_uhd_v2_hf.')}.{name}"
            yield Public(place, value)
            if inspect.isclass(value):
                for method, function in own_methods(value).items():
                    yield Public(f"{place}.{method}", function, value)


def own_methods(owner: type) -> dict[str, Callable]:
    methods = {}
    for name, member in vars(owner).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if inspect.isfunction(function) and (not name.startswith("_") or name == "__call__"):
            methods[name] = inspect.unwrap(function)
    return methods


def raised(function: Callable, owner: type | None, helpers: bool = True) -> set[type[BaseException]]:
    """The exceptions that a function's `raise` statements name, and those of the private functions that it calls."""
    function = inspect.unwrap(function)
    names = function.__globals__
    if function.__code__.co_filename != names["__file__"]:
        return set()  # made by `dataclass`
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            found.add(_exception_of(names.get(node.exc.func.id, getattr(builtins, node.exc.func.id, None))))
        elif helpers and isinstance(node, ast.Call) and (helper := _private_helper(node.func, names, owner)):
            found |= raised(helper, owner, helpers=False)
    return found


def _exception_of(value: Any) -> type[BaseException]:
    """The class itself, or what a function that makes an exception returns."""
    return value if inspect.isclass(value) else inspect.get_annotations(value, eval_str=True)["return"]


def _private_helper(called: ast.expr, names: dict[str, Any], owner: type | None) -> Callable | None:
    if isinstance(called, ast.Name):
        name, value = called.id, names.get(called.id)
    elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "self":
        name, value = called.attr, vars(owner).get(called.attr) if owner else None
    else:
        return None
    return value if name.startswith("_") and inspect.isfunction(value) else None
