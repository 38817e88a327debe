"""What all tests share: none is skipped where nothing may be, none reads the user's caches, and
what they compile is compiled once, quickly.
"""

import argparse
import gc
import importlib.util
import tempfile
import zlib

import hypothesis
import jax
import pytest

_COMPILED = pytest.StashKey[str]()


def pytest_addoption(parser):
    parser.addoption(
        "--forbid-skips", action="store_true", help="a skipped test counts as a failed one"
    )
    parser.addoption(
        "--compiled", metavar="FOLDER", help="of compiled functions, for several test runs"
    )
    for name, what in (("--part", "tests"), ("--slow-part", "slow tests")):
        parser.addoption(
            name,
            metavar="I/N",
            type=_part,
            help=f"leaves out all {what} but part I of N, of which 0 is the first",
        )


def _part(text):
    try:
        index, count = map(int, text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"give two numbers, such as 0/4, got {text!r}") from None
    if not 0 <= index < count:
        raise argparse.ArgumentTypeError(f"give I/N with 0 <= I < N, got {text!r}")
    return index, count


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and item.config.option.forbid_skips:
        report.outcome = "failed"
        report.longrepr = f"skipped, which --forbid-skips does not allow: {report.longrepr}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Marks as slow all cases of a test but those that `quick_cases(n)` leaves.

    Names are hashed: every n-th case would often be of one strategy. What needs the compiler for
    TPUs is left out where that is not installed: it is large, and no platform but Linux has it.
    """
    if importlib.util.find_spec("libtpu") is None:
        _leave_out(config, items, [item for item in items if item.get_closest_marker("tpu_aot")])
    cases = {}
    for item in items:
        mark = item.get_closest_marker("quick_cases")
        if mark is not None and item.get_closest_marker("slow") is None:
            cases.setdefault((item.path, item.originalname, mark.args[0]), []).append(item)
    for (*_, num_quick), group in cases.items():
        for item in sorted(group, key=lambda item: zlib.crc32(item.name.encode()))[num_quick:]:
            item.add_marker(pytest.mark.slow)
    if config.getoption("part") is not None:
        _leave_out(config, items, [item for item in items if not _is_in(item, "part")])
    if config.getoption("slow_part") is not None:
        slow = [item for item in items if item.get_closest_marker("slow") is not None]
        _leave_out(config, items, [item for item in slow if not _is_in(item, "slow_part")])


def _is_in(item, part):
    """Whether a test is in a part. Its cases stay together: they share what is compiled."""
    index, count = item.config.getoption(part)
    return zlib.crc32(f"{item.path.name}::{item.originalname}".encode()) % count == index


def _leave_out(config, items, others):
    left_out = set(others)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=others)


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector need not look through it any more.

    Tracing makes so many small objects that it would do so several times for each run.
    """
    # At its first use hypothesis looks for what refers to its generator, and finds nothing that is
    # frozen: old versions then warn.
    hypothesis.given(hypothesis.strategies.none())(lambda _: None)()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


@pytest.fixture(scope="session", autouse=True)
def _no_answers_from_disk():
    """Neither the user's nor an earlier test's; tests of the cache have a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPJAX_ACCOUNTING_CACHE", "off")
        yield


def pytest_configure(config):
    """One folder of compiled functions for all processes of a test run, empty at its start.

    Versions of the compiler and its options are in the names of what lies there.
    """
    given = config.getoption("compiled")
    if hasattr(config, "workerinput") or given:
        config.stash[_COMPILED] = given or config.workerinput["compiled"]
    else:
        folder = tempfile.TemporaryDirectory(prefix="dpjax-tests-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        config.stash[_COMPILED] = folder.name
    _compile_once_and_quickly(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Tells a process that pytest-xdist starts."""
    node.workerinput["compiled"] = node.config.stash[_COMPILED]


def _compile_once_and_quickly(config):
    """Small models take longer to compile than to run: LLVM, XLA's back end, optimises little.

    XLA's own passes, which decide what is computed and held in memory, stay. Programs of one shape
    are compiled once, although every test makes its own functions. Processes that tests start read
    the same from their environment. It is set before tests are collected, for modules of tests
    compile too.
    """
    settings = {
        "jax_compilation_cache_dir": config.stash[_COMPILED],
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_disable_most_optimizations": True,
    }
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    for name, value in settings.items():
        jax.config.update(name, value)
        patch.setenv(name.upper(), str(value))


@pytest.fixture
def full_optimisation(monkeypatch):
    """For tests of what comes out of the compiler as users run it: roundings, memory, programs."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "False")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def compilations_count():
    """For tests of `_cache_size`: with 8192 functions alive JAX keeps no more, and says 0."""
    jax.clear_caches()


@pytest.fixture
def pretend_package(monkeypatch):
    """Makes `importlib.util.find_spec` find one package as given, None for a missing one.

    Of others it says the truth: libraries that are first imported meanwhile ask it too.
    """

    def pretend(name, spec):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda asked, package=None: spec if asked == name else find(asked, package),
        )

    return pretend
