"""Remedies: what a finding suggests, as stages that a plan can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gapkit.family import Family, Size
from gapkit.gap import Finding, Remedy
from gapkit.knowledge import Knowledge
from gapkit.plans import Phase, Stage
from gapkit.recipe import Recipe


@dataclass(frozen=True)
class Workshop:
    """What stages are made of: the family, the recipe and its knowledge's name, and all knowledge by name.

    `earlier` names the earlier teacher that the controls tried, "" when there was none.
    """

    family: Family
    recipe: Recipe
    recipe_name: str
    knowledge: Mapping[str, tuple[Knowledge, ...]]
    earlier: str = ""


def with_stages(finding: Finding, shop: Workshop) -> Finding:
    """The finding with its remedy spelled out as stages, when training can carry it out.

    Knowledge, length, rate, an assistant, an earlier teacher or another size can; a broken pipeline, missing
    samples or a view that lacks something are for the user to mend and keep their words alone.
    """
    remedy = finding.remedy
    changes: dict[str, Any] = {}
    if remedy.fraction != 1.0:
        changes["epochs"] = max(1, round(shop.recipe.epochs * remedy.fraction))
    if remedy.rate != 1.0:
        changes["lr"] = shop.recipe.lr * remedy.rate
    if not (changes or remedy.knowledge or remedy.size or remedy.source):
        return finding
    stages = _stages(finding.cause, remedy, changes, shop)
    return finding.with_(remedy=remedy.with_(stages=stages)) if stages else finding


def _stages(
    cause: str, remedy: Remedy, changes: dict[str, Any], shop: Workshop
) -> tuple[Stage, ...]:
    name = remedy.knowledge or shop.recipe_name
    if name not in shop.knowledge:
        return ()
    student = shop.family.student
    if remedy.source:
        return (
            (_stage("student", student, name, changes, shop, shop.earlier),) if shop.earlier else ()
        )
    if not remedy.size:
        return (_stage("student", student, name, changes, shop, "teacher"),)
    size = shop.family.known(remedy.size)
    if cause == "capacity":
        return (_stage("student", size, name, changes, shop, "teacher"),)
    return (
        _stage("assistant", size, name, changes, shop, "teacher"),
        _stage("student", student, name, changes, shop, "assistant"),
    )


def _stage(
    title: str, size: Size, name: str, changes: dict[str, Any], shop: Workshop, source: str
) -> Stage:
    return Stage(
        name=title,
        size=size,
        sources=() if name == "scratch" else (source,),
        recipe=changes,
        phases=(Phase(knowledge=shop.knowledge[name]),),
    )
