"""What all rooms' tests share: no skipped tests where nothing may be skipped."""

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
