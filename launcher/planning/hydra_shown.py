"""What `--cfg` and `--info` show: the configuration as composed, and how Hydra came to it. Text; prints nothing.

Owns: these texts. Must not know: what is submitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra.types import RunMode
from omegaconf import OmegaConf

from launcher.errors import UsageError, near_choice
from launcher.planning.asked import read_grids
from launcher.planning.compose import Composed, compose_point, groups_of, hydra_at_conf
from launcher.planning.conf_places import config_name

CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_NOTHING = object()
_INSTEAD = "# Hydra composes the configuration and nothing more: these settings of its own have no effect here.\n"


def shown_config(argv: Sequence[str], kind: str, package: str | None, *, multirun: bool) -> tuple[str, int]:
    """The configuration of the first run as YAML, resolved, and how many runs there are.

    Args:
        argv: overrides, as of a launch.
        kind: one of CFG.
        package: only what is below this key, such as `trainer.lora`; None: all.
        multirun: whether values with commas are axes.

    Raises:
        UsageError: an override is wrong, or there is no such package.
    """
    point, number = _first(argv, multirun=multirun)
    config = {**(point.config if kind != "hydra" else {}), **(_hydra(point) if kind != "job" else {})}
    found = OmegaConf.create(config)
    if package in (None, "_global_"):
        return (_INSTEAD if kind == "hydra" else "") + OmegaConf.to_yaml(found), number
    below = OmegaConf.select(found, package, default=_NOTHING, throw_on_missing=False)
    if below is _NOTHING:
        raise UsageError(f"--package {package}: no such key in the configuration{near_choice(package, list(config))}")
    text = OmegaConf.to_yaml(below) if OmegaConf.is_config(below) else f"{'null' if below is None else below}\n"
    return f"# @package {package}\n{text}", number


def _first(argv: Sequence[str], *, multirun: bool) -> tuple[Composed, int]:
    with hydra_at_conf():
        overrides = list(read_grids(argv, multirun=multirun).points())
        if not overrides:
            raise UsageError("the grid is empty: every combination is excluded or an axis has no value")
        return compose_point(overrides[0]), len(overrides)


def _hydra(point: Composed) -> dict[str, object]:
    with hydra_at_conf() as loader:
        whole = loader.load_configuration(config_name(), list(groups_of(point.overrides)), RunMode.RUN)
    hydra: dict[str, object] = {"hydra": OmegaConf.to_container(whole.hydra, resolve=False)}
    return hydra


def shown_info(argv: Sequence[str], what: str, *, multirun: bool) -> str:
    """How the configuration comes about.

    Args:
        argv: overrides, as of a launch.
        what: one of INFO.
        multirun: whether values with commas are axes.

    Raises:
        UsageError: an override is wrong.
    """
    parts = [each for each in INFO if each != "all"] if what == "all" else [what]
    return "\n".join(line for part in parts for line in _part(argv, part, multirun=multirun))


def _part(argv: Sequence[str], part: str, *, multirun: bool) -> Iterator[str]:
    if part == "plugins":
        yield from (
            "plugins",
            "  none: runs are submitted by prefsweep itself (cluster=...), and axes are its own",
        )
    elif part == "config":
        yield from ("configuration", shown_config(argv, "job", None, multirun=multirun)[0].rstrip())
    else:
        point, _ = _first(argv, multirun=multirun)
        with hydra_at_conf() as loader:
            if part == "searchpath":
                yield "search path, the first that has a file wins"
                yield from (f"  {source.scheme()}://{source.path}" for source in loader.get_sources())
                return
            found = loader.compute_defaults_list(config_name(), list(groups_of(point.overrides)), RunMode.RUN)
            if part == "defaults":
                yield "defaults list, what comes later wins"
                yield from (
                    f"  {each.config_path}{f' @ {each.package}' * bool(each.package)}" for each in found.defaults
                )
            else:
                yield "defaults tree"
                yield from _tree(found.defaults_tree, 1)


def _tree(node: object, depth: int) -> Iterator[str]:
    path = getattr(getattr(node, "node", node), "get_config_path", lambda: str(node))()
    yield "  " * depth + str(path)
    for child in getattr(node, "children", None) or ():
        yield from _tree(child, depth + 1)
