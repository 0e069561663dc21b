import importlib
import os

import pytest


@pytest.fixture(params=["_runtime", "_runtime_python"], ids=["compiled", "python"], scope="session")
def runtime(request):
    """Both implementations of the streaming runtime: every test here holds for either."""
    try:
        return importlib.import_module(f"autoemb.{request.param}")
    except ImportError as error:
        if os.environ.get("AUTOEMB_NATIVE") == "1":
            raise
        pytest.skip(f"the compiled runtime was not built: {error}")
