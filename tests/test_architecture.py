"""The architecture, executable: who may import whom, and where each library lives."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "agent"
WORKSHOP = "workshop"
PATHS = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / WORKSHOP
)

# A module may import what stands in a layer below its own, or before it in its own.
# So the table is one order of all modules, and there can be no cycle.
LAYERS: tuple[tuple[str, ...], ...] = (
    # 0: what everything speaks of; the standard library only
    ("", "types", "errors"),
    # 1: pure; no I/O
    (
        *(
            "calibration",
            "decide",
            "text",
            "wire",
            "homeassistant",
            "backlog",
            "certify",
            "filters",
        ),
        *("jsonl", "examples", "scoring", "fitting", "counts", "cases", "prompt"),
        *("fleet", "fleet.values"),
        "occurrences",
    ),
    # 2: one outside world each
    (
        "clock",
        *("families", "families.bio", "families.patterns", "families.linear"),
        *("families.sessions", "families.encoder", "manifest", "bundle", "privacy"),
        *("outbox.aside", "outbox.spare", "outbox.store", "outbox.cases"),
        *("outbox.answers", "outbox.ledger", "outbox.spending", "outbox.repeats"),
        *("outbox", "outbox.reading", "outbox.rescue"),
        *("ids", "mqtt", "link", "subscriptions", "systemd", "log", "files", "vitals"),
        "interpreter",
        *("fleet.signing", "fleet.storage"),
    ),
    # 3: upstream transports
    ("transports.contract", "transports.mqtt", "transports.http", "transports"),
    # 4: what the operator says
    ("config", "fleet.model", "fleet.reading", "fleet.resolve", "fleet.standing"),
    # 5: the daemon
    (
        *("fleet.memory", "fleet.clock", "fleet.device"),
        *(
            "pipeline",
            "engine",
            "alerts",
            "refusals",
            "trial",
            "purse",
            "upstream",
            "finals",
        ),
        *(
            "escalation",
            "delivery",
            "recent",
            "control",
            "wiring",
            "presence",
            "metrics",
        ),
        *("steering", "pilot", "lasting", "watchdog", "app"),
    ),
    # 6: the commands
    (
        *("evaluate", "check", "recalibrate", "embedded", "simulated"),
        *("demo", "bench", "fleet.tables", "watching", "doctor"),
        *("fleet.checks", "fleet.differences", "fleet.pushing", "fleet.commands"),
        "egress",
        # the upstream side: nothing of the device's is above it
        *("broker", "broker.settings", "broker.llm", "broker.tally", "broker.claims"),
        "broker.metrics",
        *("broker.plan", "broker.replies", "broker.hearing", "broker.group"),
        *(
            "broker.progress",
            "broker.asking",
            "broker.answering",
            "broker.intake",
            "broker.service",
        ),
        "broker.process",
        "__main__",
    ),
)
ORDER = {
    module: (layer, place)
    for layer, modules in enumerate(LAYERS)
    for place, module in enumerate(modules)
}

# The only modules that may import a library; a package stands for all it holds.
# The workshop is a home of its own: it may use what it likes.
HOMES = {
    "aiolimiter": {"upstream"},
    "prometheus_client": {"metrics", "broker.metrics"},
    "purgatory": {"upstream"},
    "tenacity": {"upstream"},
    "paho": {"mqtt"},
    "onnxruntime": {"families"},
    "tokenizers": {"families"},
    "numpy": {"families", "fitting"},
    "mmap": {"ids"},
    "sqlite3": {"outbox"},
    "tomllib": {"config"},
    "ssl": {"mqtt", "transports", "wiring"},
    "httpx": {"transports.http"},
    "cryptography": {"fleet"},
    "click": {"__main__", "fleet.commands"},
    "rich": {"watching", "demo", "fleet.tables"},
    "litellm": {"broker.llm"},
    "torch": {"__main__"},  # only to see whether it is there
}
HEAVY = {"onnxruntime", "tokenizers", "torch", "rich", "litellm", "cryptography"}
# What a pure module cannot do without these: I/O, waiting, randomness, threads.
IMPURE = {
    *("asyncio", "http", "io", "os", "random", "secrets", "select", "shutil", "socket"),
    *("sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib"),
}
# Where a pure module reads a file after all, and why.
PURE_BUT = {"examples": {"pathlib"}, "jsonl": {"pathlib"}}  # what people hand us

# Each of these argues for itself, in a comment beside it.
CATCHES_ALL = {
    *(
        "engine._ask",
        "upstream.Upstream._request",
        "mqtt.Connection._readable",
        "bundle.open_bundle",
    ),
    "broker.llm.ask",
    *("fleet.device.FleetDevice.offer", "fleet.device.FleetDevice._reopened"),
    *(f"outbox.store.Store.{name}" for name in ("_write", "_attempt", "_read")),
}
# In the daemon; a command may wait for two things at once.
STARTS_TASKS = {"app.Daemon.run", "escalation.Escalation.run", "metrics._in_loop.ask"}
COMMANDS = len(LAYERS) - 1

LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
# One subject each: splitting them would only satisfy the number.
LONG_MODULES = {"__main__": 560, "mqtt": 590, "config": 700}


def name_of(path: Path) -> str:
    """Return a module's name below the package; the package itself is empty."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in PATHS}


@cache
def tree(path: Path) -> ast.Module:
    """Return a parsed module."""
    return ast.parse(path.read_text("utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of every module that a module imports, lazily or not."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                is_module = inner.startswith("agent.") and (
                    inner.removeprefix("agent.") in MODULES
                    or inner == f"agent.{WORKSHOP}"
                )
                yield inner if is_module else base


def ours(path: Path) -> set[str]:
    """Return the modules of ours that a module imports, below the package."""
    return {
        name.removeprefix("agent").removeprefix(".")
        for name in imports(path)
        if name.split(".")[0] == "agent"
    }


def functions(
    node: ast.AST, prefix: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield every function and method with its full name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}.{child.name}", child
            yield from functions(child, f"{prefix}.{child.name}")
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f"{prefix}.{child.name}")


def places(module: str, wanted: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Yield each node of a kind with the innermost function that holds it."""
    holders = list(functions(tree(MODULES[module]), module))
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, wanted):
            inside = [name for name, f in holders if node in ast.walk(f)]
            yield (inside[-1] if inside else module), node


def test_every_module_has_its_layer() -> None:
    """The layer table names every module of the package, and no other."""
    unknown = sorted(set(MODULES) - set(ORDER))
    gone = sorted(set(ORDER) - set(MODULES))
    assert not unknown, f"add {unknown} to LAYERS in {Path(__file__).name}, and argue"
    assert not gone, f"remove {gone} from LAYERS in {Path(__file__).name}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """No module imports one above it, or one after it in its own layer."""
    for other in ours(MODULES[module]) - {module}:
        if other.split(".")[0] == WORKSHOP:
            assert module == "__main__", f"{module} imports the workshop"
            continue
        assert ORDER[other] < ORDER[module], f"{module} imports {other}"


@pytest.mark.parametrize("module", LAYERS[0])
def test_the_vocabulary_needs_nothing(module: str) -> None:
    """Layer 0 imports the standard library and itself, nothing else."""
    outside = {name.split(".")[0] for name in imports(MODULES[module])} - {"agent"}
    assert outside <= sys.stdlib_module_names


@pytest.mark.parametrize("module", [*LAYERS[0], *LAYERS[1]])
def test_what_decides_does_no_io(module: str) -> None:
    """Layers 0 and 1 cannot read, write, wait or roll dice."""
    found = {name.split(".")[0] for name in imports(MODULES[module])}
    assert not found & (IMPURE | {"pathlib"}) - PURE_BUT.get(module, set())
    called = {
        node.func.id
        for _, node in places(module, ast.Call)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "eval", "exec", "__import__"}


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_one_home(library: str) -> None:
    """Outside its home a library is not known by name."""
    users = {
        module
        for module, path in MODULES.items()
        if library in {name.split(".")[0] for name in imports(path)}
    }
    strangers = {
        user
        for user in users
        if not any(user == h or user.startswith(f"{h}.") for h in HOMES[library])
    }
    assert not strangers, f"{library} is imported by {sorted(strangers)}"


def test_heavy_libraries_are_loaded_when_needed() -> None:
    """No module imports a heavy library as it is imported itself."""
    for module, path in MODULES.items():
        for node in tree(path).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            heavy = {name.split(".")[0] for name in names}
            assert not heavy & HEAVY, module


def test_nothing_is_unpickled() -> None:
    """No module can load code from data."""
    for module, path in MODULES.items():
        found = {name.split(".")[0] for name in imports(path)}
        assert not found & {"pickle", "marshal", "shelve", "dill", "joblib"}, module


def test_tasks_are_started_in_one_place() -> None:
    """Only the daemon's task group starts tasks, so that none dies unseen."""
    starting = {"create_task", "ensure_future", "run_coroutine_threadsafe"}
    found = {
        place
        for module in MODULES
        if ORDER[module] < (COMMANDS, 0)
        for place, node in places(module, ast.Attribute)
        if isinstance(node, ast.Attribute) and node.attr in starting
    }
    assert found == STARTS_TASKS


def catches_all(handler: ast.ExceptHandler) -> bool:
    """Tell whether a handler catches everything."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None
        or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"})
        for kind in kinds
    )


def test_everything_is_caught_in_few_places() -> None:
    """`except Exception` stands only where it argues for itself."""
    found = {
        place
        for module in MODULES
        for place, node in places(module, ast.ExceptHandler)
        if isinstance(node, ast.ExceptHandler) and catches_all(node)
    }
    assert found == CATCHES_ALL


@pytest.mark.parametrize("module", MODULES)
def test_length(module: str) -> None:
    """A brake: what grows beyond this usually has two subjects."""
    lines = len(MODULES[module].read_text("utf-8").splitlines())
    assert lines <= LONG_MODULES.get(module, LONGEST_MODULE)
    for name, function in functions(tree(MODULES[module]), module):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= LONGEST_FUNCTION, f"{name} has {length} lines"


@pytest.mark.parametrize("path", [*PATHS, *(PACKAGE / WORKSHOP).glob("*.py")])
def test_every_module_says_what_it_is_for(path: Path) -> None:
    """Each module begins with a sentence about its purpose, and imports absolutely."""
    assert ast.get_docstring(tree(path))
    assert all(imports(path))
