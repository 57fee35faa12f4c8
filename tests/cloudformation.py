"""Reads a CloudFormation template and resolves it for given parameters, as far as `deploy/template.yaml` needs it.

Functions become `{"Ref": name}` and `{"Fn::Sub": text}`, as in JSON. A reference to a resource resolves to its logical
id, an attribute to `Id.Attribute`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

PSEUDO: Final = {
    "AWS::AccountId": "000000000000",
    "AWS::Region": "us-east-1",
    "AWS::Partition": "aws",
    "AWS::StackName": "stack",
}
_NO_VALUE: Final = object()


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML with the short forms of functions."""


def _function(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _function)


@cache
def parse(text: str) -> dict[str, Any]:
    """A template, its functions in the long form."""
    found: dict[str, Any] = yaml.load(text, _Loader)
    return found


@dataclass(frozen=True)
class Stack:
    """A template with parameters: the defaults and the given ones."""

    template: Mapping[str, Any]
    parameters: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path, **given: Any) -> "Stack":
        """The template in a file."""
        template = parse(path.read_text("utf-8"))
        assert given.keys() <= template["Parameters"].keys()
        defaults = {name: about["Default"] for name, about in template["Parameters"].items()}
        return cls(template, defaults | given)

    @property
    def resources(self) -> dict[str, Any]:
        """The resources that exist with these parameters, resolved. A function has the `Globals`, too."""
        found = {
            name: self.resolved(resource)
            for name, resource in self.template["Resources"].items()
            if "Condition" not in resource or self.holds(resource["Condition"])
        }
        shared = self.resolved(self.template["Globals"]["Function"])
        for resource in found.values():
            if resource["Type"] == "AWS::Serverless::Function":
                own = resource["Properties"]
                variables = shared["Environment"]["Variables"] | own.get("Environment", {}).get("Variables", {})
                resource["Properties"] = shared | own | {"Environment": {"Variables": variables}}
        return found

    def of_type(self, kind: str) -> dict[str, Any]:
        """The properties of each resource of a type."""
        return {name: one["Properties"] for name, one in self.resources.items() if one["Type"] == kind}

    def holds(self, condition: str) -> bool:
        """Whether a condition holds."""
        return bool(self.resolved(self.template["Conditions"][condition]))

    def refused(self) -> list[str]:
        """What the template's rules say against the parameters."""
        return [
            one["AssertDescription"]
            for rule in self.template["Rules"].values()
            if self.resolved(rule["RuleCondition"])
            for one in rule["Assertions"]
            if not self.resolved(one["Assert"])
        ]

    def resolved(self, value: Any) -> Any:
        """A part of the template, without functions."""
        if isinstance(value, list):
            return [found for one in value if (found := self.resolved(one)) is not _NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (name, argument), *_ = value.items()
            if name in ("Ref", "Condition") and isinstance(argument, str):
                return self._ref(argument) if name == "Ref" else self.holds(argument)
            if name.startswith("Fn::"):
                return self._call(name.removeprefix("Fn::"), argument)
        found = {key: self.resolved(one) for key, one in value.items() if key != "Condition" or isinstance(one, dict)}
        return {key: one for key, one in found.items() if one is not _NO_VALUE}

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _NO_VALUE
        return PSEUDO.get(name, self.parameters.get(name, name))

    def _call(self, name: str, argument: Any) -> Any:
        match name:
            case "If":
                return self.resolved(argument[1 if self.holds(argument[0]) else 2])
            case "Sub":
                text, more = (argument, {}) if isinstance(argument, str) else argument
                values = self.resolved(more)
                filled = re.sub(r"\$\{([\w:.]+)\}", lambda m: str(values.get(m[1], self._ref(m[1]))), text)
                return filled.replace("${!", "${")
            case "GetAtt":
                return ".".join(argument)
            case "Equals":
                return str(self.resolved(argument[0])) == str(self.resolved(argument[1]))
            case "Not":
                return not self.resolved(argument[0])
            case "And":
                return all(map(self.resolved, argument))
            case "FindInMap":
                table, first, second = argument
                return self.template["Mappings"][table][first][str(self.resolved(second))]
            case "Select":
                return f"Select {argument[0]}"
        raise AssertionError(f"Fn::{name} is not resolved here")
