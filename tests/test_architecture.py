"""The architecture, executable: who may import whom, and where each library lives."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from statistics import median

import pytest

from harness.architecture import (
    MODULES,
    PACKAGE,
    PACKAGES,
    WORKSHOP,
    functions,
    imports,
    length,
    longest_chain,
    module_graph,
    ours,
    package_graph,
    package_of,
    tree,
)

DEVICE = sorted(module for module in MODULES if package_of(module) != WORKSHOP)
# What everything speaks of: the standard library only.
VOCABULARY = ("core.types", "core.errors")
# These decide: no I/O, no waiting, no dice.
PURE = (
    *VOCABULARY,
    "core.jsonl",
    "core.circuit",
    "core.blame",
    "core.expressions",
    "mqtt.backlog",
    "mqtt.topic_filters",
    "mqtt.packets",
    "mqtt.incoming",
    "protocol.shortening",
    "protocol.payload",
    "protocol.messages",
    "protocol.cases",
    "protocol.prompt",
    "protocol.homeassistant",
    "protocol.figures",
    "protocol.health",
    "protocol.reading",
    "protocol.verdicts",
    "protocol.complaints",
    "protocol.forms",
    "protocol.guesses",
    "protocol.pauses",
    "protocol.unpacking",
    "escalation.answer_quality",
    "telemetry.counters",
    "inference.calibration",
    "inference.decide",
    "escalation.occurrences",
    "inference.certify",
    "evaluation.examples",
    "evaluation.scoring",
    "evaluation.fitting",
    "evaluation.regression",
    "evaluation.samples",
    "fleet.values",
    "inference.folding",
    "inference.patterns",
    "inference.reconcile",
    "inference.scripts",
    "inference.spoken",
    "inference.identifiers",
    "inference.places",
    "inference.secrets",
    "inference.logs",
)

# The only modules that may import a library; a package stands for all it holds.
# The workshop is a home of its own: it may use what it likes.
HOMES = {
    "prometheus_client": {"telemetry.metrics", "broker.metrics"},
    "paho": {
        "mqtt.abilities",
        "mqtt.connection",
        "mqtt.endpoint",
        "mqtt.properties",
        "mqtt.reader",
    },
    "msgspec": {"protocol.payload"},
    "onnxruntime": {"inference"},
    "tokenizers": {"inference"},
    "numpy": {"inference", "evaluation.fitting", "evaluation.regression"},
    "mmap": {"mqtt.message_ids"},
    "sqlite3": {"outbox"},
    "tomllib": {"config"},
    "ssl": {"mqtt", "escalation", "daemon.endpoint"},
    "httpx": {"escalation.http", "broker.wire"},
    "cryptography": {"fleet", "cli.fleet_push"},
    "click": {"cli"},
    "rich": {"cli"},
    "litellm": {"broker.llm"},
    "re2": {"core.expressions"},
    "torch": {"cli.train"},  # only to see whether it is there
}
HEAVY = {"onnxruntime", "tokenizers", "torch", "rich", "litellm", "cryptography"}
# What a pure module cannot do without these: I/O, waiting, randomness, threads.
IMPURE = {
    "asyncio",
    "http",
    "io",
    "os",
    "random",
    "secrets",
    "select",
    "shutil",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
}
# Where a pure module reads a file after all, and why.
PURE_BUT = {
    "evaluation.examples": {"pathlib"},
    "core.jsonl": {"pathlib"},
}  # what people hand us

# Each of these argues for itself, in a comment beside it.
CATCHES_ALL = {
    "core.errors.refusing",
    "inference.engine._ask",
    "escalation.questions.Questions.of",
    "mqtt.connection.Connection._readable",
    "inference.bundle.open_bundle",
    "broker.llm.ask",
    "fleet.rollout.FleetDevice.offer",
    "fleet.rollout.FleetDevice._reopened",
    *(f"outbox.store.Store.{name}" for name in ("_write", "_attempt", "_read")),
}
# In the daemon; a command may wait for two things at once.
STARTS_TASKS = {
    "daemon.supervise.Lifetime.serve",
    "escalation.cases.Escalation.run",
    "telemetry.metrics._in_loop.ask",
}

LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
MEDIAN_FUNCTION = 8
LONGEST_CHAIN = 11
# One subject each: splitting them would only satisfy the number.
LONG_MODULES = {
    "mqtt.connection": 570,
    "inference.encoder": 415,
    "escalation.cases": 410,
    "workshop.data.personal_values": 960,  # lists of made-up values
}


def places(module: str, wanted: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Yield each node of a kind with the innermost function that holds it."""
    pending: list[tuple[str, str, ast.AST]] = [(module, module, tree(MODULES[module]))]
    while pending:
        holder, prefix, node = pending.pop()
        if isinstance(node, wanted):
            yield holder, node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            holder = prefix = f"{prefix}.{node.name}"
        elif isinstance(node, ast.ClassDef):
            prefix = f"{prefix}.{node.name}"
        pending += [(holder, prefix, child) for child in ast.iter_child_nodes(node)]


def test_the_folders_are_the_architecture() -> None:
    """Each folder of the package stands in the tuple, and no module beside them."""
    folders = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert folders == set(PACKAGES)
    assert {p.name for p in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """No module imports a package above its own."""
    if package_of(module):
        place = PACKAGES.index(package_of(module))
        above = {
            other
            for other in ours(MODULES[module])
            if package_of(other) and PACKAGES.index(package_of(other)) > place
        }
        assert not above, f"{module} imports {above}"


def test_no_module_imports_itself_round_a_corner() -> None:
    """Inside a package, too, imports form no cycle."""
    tuple(TopologicalSorter(module_graph()).static_order())


def test_the_longest_way_down_is_short() -> None:
    """In the folder listing nobody follows more than eleven imports in a row."""
    chain = longest_chain(package_graph())
    assert len(chain) <= LONGEST_CHAIN, " -> ".join(chain)


@pytest.mark.parametrize("module", DEVICE)
def test_the_workshop_stays_out_of_the_device(module: str) -> None:
    """Only the command line imports the workshop, when its command is called."""
    assert package_of(module) == "cli" or WORKSHOP not in {
        package_of(other) for other in ours(MODULES[module])
    }


@pytest.mark.parametrize("module", VOCABULARY)
def test_the_vocabulary_needs_nothing(module: str) -> None:
    """The vocabulary imports the standard library and itself, nothing else."""
    outside = {name.split(".")[0] for name in imports(MODULES[module])} - {"agent"}
    assert outside <= sys.stdlib_module_names


@pytest.mark.parametrize("module", PURE)
def test_what_decides_does_no_io(module: str) -> None:
    """Pure modules cannot read, write, wait or roll dice."""
    imported = {name.split(".")[0] for name in imports(MODULES[module])}
    assert not imported & (IMPURE | {"pathlib"}) - PURE_BUT.get(module, set())
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
        if package_of(module) != WORKSHOP
        and library in {name.split(".")[0] for name in imports(path)}
    }
    strangers = {
        user
        for user in users
        if not any(user == h or user.startswith(f"{h}.") for h in HOMES[library])
    }
    assert not strangers, f"{library} is imported by {sorted(strangers)}"


def test_heavy_libraries_are_loaded_when_needed() -> None:
    """No module imports a heavy library as it is imported itself."""
    for module in DEVICE:
        for node in tree(MODULES[module]).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            heavy = {name.split(".")[0] for name in names}
            assert not heavy & HEAVY, module


def test_nothing_is_unpickled() -> None:
    """No module can load code from data."""
    for module in DEVICE:
        imported = {name.split(".")[0] for name in imports(MODULES[module])}
        assert not imported & {"pickle", "marshal", "shelve", "dill", "joblib"}, module


def test_tasks_are_started_in_one_place() -> None:
    """Only the daemon's task group starts tasks, so that none dies unseen."""
    starting = {"create_task", "ensure_future", "run_coroutine_threadsafe"}
    found = {
        place
        for module in DEVICE
        if package_of(module) not in {"broker", "cli"}
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
        for module in DEVICE
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
        assert length(function) <= LONGEST_FUNCTION, f"{name}: {length(function)} lines"


def test_functions_are_short() -> None:
    """Half of all functions have at most eight lines."""
    lengths = [
        length(function)
        for module, path in MODULES.items()
        for _, function in functions(tree(path), module)
    ]
    assert median(lengths) <= MEDIAN_FUNCTION


@pytest.mark.parametrize("module", MODULES)
def test_nothing_dodges_the_formatter(module: str) -> None:
    """No literal is unpacked into another to keep several values on a line.

    Rows of words in the workshop's data are the exception.
    """
    if module.startswith("workshop.data."):
        return
    packed = [
        starred.lineno
        for _, starred in places(module, ast.Starred)
        if isinstance(starred, ast.Starred)
        and isinstance(starred.value, ast.Tuple | ast.List)
        and starred.value.elts
    ]
    assert not packed, f"{module}: lines {packed}"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_for(module: str) -> None:
    """Each module begins with a sentence about its purpose, and imports absolutely."""
    assert ast.get_docstring(tree(MODULES[module]))
    imports(MODULES[module])  # raises where an import is relative


def test_one_class_for_a_name() -> None:
    """Who greps the name of a class finds one."""
    homes: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module)
    assert not {name: where for name, where in homes.items() if len(where) > 1}
