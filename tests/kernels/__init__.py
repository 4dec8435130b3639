"""ktop on other kernels: stock Debian kernels, booted in a throw-away VM by software emulation.

`python -m tests.kernels` fetches (archive.py), boots (vm.py, init.sh), runs the test files of this
directory in the guest, and writes what it found into the README (table.py).
"""
