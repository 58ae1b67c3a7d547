"""Makes the documentation's site of the package's docstrings, `docs/` and `examples/`.

`docs/conf.py` is its configuration, `.ci/docs` its command. The page of each public name comes from
its docstring, which stays plain text for `help()`: `docstrings` makes reStructuredText of it, and
`equations` LaTeX of its formulas. `pages` prepares what lies outside of `docs/`, and `check` finds
what has no page, and links that lead nowhere.
"""
