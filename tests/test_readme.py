"""What README shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def text():
    return README.read_text(encoding="utf-8")


def test_python_examples_run_in_order(text):
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    assert "StreamLearner" in code
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_links_to_files_lead_somewhere(text):
    for page in (README, README.with_name("CONTRIBUTING.md")):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (README.parent / link).exists(), link
