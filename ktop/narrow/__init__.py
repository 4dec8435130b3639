"""A layer of a Frame as a scope sees it: pure functions, one module a layer."""
