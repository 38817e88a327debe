"""What all tests share: none is skipped where nothing may be, none reads the user's cache."""

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--forbid-skips", action="store_true", help="a skipped test counts as a failed one"
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and item.config.option.forbid_skips:
        report.outcome = "failed"
        report.longrepr = f"skipped, which --forbid-skips does not allow: {report.longrepr}"


@pytest.fixture(scope="session", autouse=True)
def _no_answers_from_disk():
    """Neither the user's nor an earlier test's; tests of the cache have a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPJAX_ACCOUNTING_CACHE", "off")
        yield
