import json
import json.decoder

from prealign.corpora.prose import PackageProse, docstrings
from prealign.corpora.source import PythonSource

MODULE = '''"""Of the module.

    More.
"""
async def f():
    """Of f."""
    def g():
        "Of g."
class C:
    """  """
    def h(self):
        """Of h."""
x = """no docstring"""
'''


def test_docstrings_come_in_order_with_their_indentation_taken_away():
    assert docstrings(MODULE) == "Of the module.\n\nMore.\n\nOf f.\n\nOf g.\n\nOf h.\n"


def test_what_is_no_python_or_has_none_gives_nothing():
    assert docstrings("def f(:\n") == ""
    assert docstrings("x = 1\n") == ""
    assert docstrings('class C:\n    """ """\n') == ""


def test_the_prose_of_a_package_has_the_source_of_its_files():
    reader = PackageProse(source=PythonSource(only=("stdlib/json",)), metadata=False)
    by_id = {document.id: document for document in reader()}
    one = by_id["stdlib/json/decoder.py#docstrings"]
    assert one.source == "stdlib/json"
    assert json.decoder.JSONDecoder.__doc__.strip().split("\n")[0] in one.text
    assert "import" not in one.text.split()


def test_packages_speak_for_themselves():
    reader = PackageProse(source=PythonSource(only=("stdlib/json",)))
    found = {d.id: d for d in reader() if d.id.startswith("metadata/")}
    assert "Name: hypothesis" in found["metadata/hypothesis"].text
    assert found["metadata/hypothesis"].source == "metadata/hypothesis"
    assert list(found) == sorted(found)
