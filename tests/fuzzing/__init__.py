"""A fuzzer of everything that hsyn reads: valid files, the same files damaged, and what must come.

`cases` makes them with hypothesis, `warm` reads each in a fork of a process that has imported
everything, `verdict` says what went wrong. tests/test_fuzz.py runs it shortly, examples/fuzz.py at
length.
"""
