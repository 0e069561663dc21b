"""The generated pages: ``python -m bench.pages`` writes all of them from the records.

A page is a template (Markdown with named values), tables, and values that are computed from a
record. No measured number is typed: ``tests/bench/test_pages.py`` looks for digits in templates.
"""
