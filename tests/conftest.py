"""What all tests share. `pytest --shapes` checks the shapes in the library's annotations at every call."""

import pytest
import torch

torch.set_num_threads(1)  # the tests are small, and run side by side


def check_shapes():
    """From here on, whatever is imported of the packages with annotated shapes is checked."""
    from jaxtyping import install_import_hook

    install_import_hook(["metaloop.learners", "metaloop.nn", "metaloop.objectives"], "beartype.beartype")


def pytest_addoption(parser):
    parser.addoption("--shapes", action="store_true", help="check annotated shapes; leaves compile tests out")


def pytest_configure(config):
    if config.getoption("--shapes"):
        check_shapes()


def pytest_collection_modifyitems(config, items):
    if config.getoption("--shapes"):
        for item in items:
            if item.get_closest_marker("compile"):
                item.add_marker(pytest.mark.skip(reason="the shape checker cannot be traced"))
