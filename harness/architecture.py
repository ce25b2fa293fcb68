"""The package as a graph: its modules, who imports whom, and how long things are.

`python -m harness.architecture` (`make map`) prints the figures; test_architecture.py
checks them.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).resolve().parent.parent / "agent"
WORKSHOP = "workshop"

# A package may import what stands before it; inside a package there is no cycle.
PACKAGES = (
    "core",
    "mqtt",
    "protocol",
    "config",
    "telemetry",
    "inference",
    "evaluation",
    "outbox",
    "escalation",
    "fleet",
    "daemon",
    "broker",
    WORKSHOP,
    "cli",
)

Graph = Mapping[str, set[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    """Return a module's name below the package; the package itself is empty."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def package_of(module: str) -> str:
    """Return the first folder of a module; empty for those directly in `agent`."""
    return module.split(".", maxsplit=1)[0] if module not in {"", "__main__"} else ""


@cache
def tree(path: Path) -> ast.Module:
    """Return a parsed module."""
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Return the full name of every module that a module imports, lazily or not."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                is_module = inner.removeprefix("agent.") in MODULES
                yield inner if inner.startswith("agent.") and is_module else base


def ours(path: Path) -> set[str]:
    """Return the modules of ours that a module imports, below the package."""
    return {
        name.removeprefix("agent").removeprefix(".")
        for name in imports(path)
        if name.split(".")[0] == "agent"
    }


def functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Yield every function and method with its full name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}.{child.name}", child
            yield from functions(child, f"{prefix}.{child.name}")
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f"{prefix}.{child.name}")


def length(function: Function) -> int:
    """Return the lines of a function, from `def` to its end."""
    return (function.end_lineno or 0) - function.lineno + 1


def module_graph() -> Graph:
    """Return which modules each module imports; what re-exports nothing left out."""
    return {
        module: ours(path) - {module, ""}
        for module, path in MODULES.items()
        if module != ""
    }


def package_graph() -> Graph:
    """Return which packages each package imports."""
    graph: dict[str, set[str]] = {package: set() for package in PACKAGES}
    for module, imported in module_graph().items():
        package = package_of(module)
        if package:
            graph[package] |= {package_of(other) for other in imported} - {package, ""}
    return graph


def longest_chain(graph: Graph) -> list[str]:
    """Return the longest chain of imports, from the top; raises CycleError."""
    chains: dict[str, list[str]] = {}
    for module in TopologicalSorter(graph).static_order():
        below = max(
            (chains[other] for other in graph.get(module, ())), key=len, default=[]
        )
        chains[module] = [module, *below]
    return max(chains.values(), key=len)


def main() -> None:
    """Print the figures of the structure."""
    graph = module_graph()
    device = {m: o for m, o in graph.items() if package_of(m) != WORKSHOP}
    packages = package_graph()
    try:
        tuple(TopologicalSorter(packages).static_order())
        cycles = "none"
    except CycleError as error:
        cycles = " -> ".join(error.args[1])
    lengths = sorted(
        length(function)
        for module, path in MODULES.items()
        for _, function in functions(tree(path), module)
    )
    lines = {m: len(p.read_text("utf-8").splitlines()) for m, p in MODULES.items()}
    chain = longest_chain(device)
    rooms = longest_chain({"__main__": {"cli"}, **packages})
    print(f"modules                  {len(device)} ({len(graph)} with the workshop)")
    print(f"lines                    {sum(lines.values())}")
    print(f"import edges             {sum(map(len, device.values()))}")
    print(f"package edges            {sum(map(len, packages.values()))}")
    print(f"cycles between packages  {cycles}")
    print(f"longest chain, packages  {len(rooms)}: {' -> '.join(rooms)}")
    print(f"longest chain, modules   {len(chain)}: {' -> '.join(chain)}")
    print(f"function length          median {median(lengths):g}, longest {lengths[-1]}")
    print(f"modules over 400 lines   {[m for m, n in lines.items() if n > 400]}")


if __name__ == "__main__":
    main()
