"""Three trust domains, made once: their keys cost time and no test changes them."""

import pytest

from tests.support.pki import TestDomain


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> TestDomain:
    return TestDomain("alpha.example", tmp_path_factory.mktemp("alpha"))


@pytest.fixture(scope="module")
def beta(tmp_path_factory: pytest.TempPathFactory) -> TestDomain:
    return TestDomain("beta.example", tmp_path_factory.mktemp("beta"))
