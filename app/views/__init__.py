"""One module a page: controls, one call into the packages below, a rendering."""
