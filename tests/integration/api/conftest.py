"""One controller for all tests of this folder: founded once, served by its own process over real TLS."""

from collections.abc import Iterator

import pytest

from certs.runtime.authority import RootAuthority
from tests.integration.api.joining import make_token, post_join, primary_request
from tests.integration.controller.installation import Caller, Controller, Installation
from tests.support.loopback import claim_block
from tests.support.pki import TestDomain
from tests.support.processes import ProcessSet


@pytest.fixture(scope="session")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    folder = tmp_path_factory.mktemp("api-controller")
    with claim_block() as block:
        installation = Installation(folder, block.host(1))
        installation.found()
        processes = ProcessSet(folder / "logs")
        try:
            process = installation.start(processes)
            installation.wait_ready(process)
            yield Controller(
                installation=installation,
                process=process,
                domain=installation.domain(folder / "pki"),
                stranger=TestDomain("mallory.example", folder / "pki"),
            )
        finally:
            processes.close()


@pytest.fixture
def operator(controller: Controller) -> Caller:
    return controller.installation.operator()


@pytest.fixture(scope="session")
def beta(controller: Controller) -> RootAuthority:
    """The root of beta, a primary that has joined; nothing of it ever runs."""
    root = RootAuthority.create("beta.example")
    token = make_token(controller, cluster="beta")
    status, answer = post_join(controller, primary_request(root, token, "beta"))
    assert status == 200, answer
    return root


@pytest.fixture(autouse=True)
def _still_runs(controller: Controller) -> Iterator[None]:
    """No test, whatever it sends, may end the controller."""
    yield
    controller.process.check_running()
