import pytest
import traffic


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """One server for the tests that do not end it."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "saved").mkdir()
    limits = ("--timeout", 20, "--max-memory", 0.4, "--save-dir", folder / "saved")
    found = traffic.Served(folder, *limits)
    found.saved = folder / "saved"
    yield found
    found.stop()
