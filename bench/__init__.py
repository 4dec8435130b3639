"""Every performance figure in the README comes out of here: `make bench`."""
