"""Lists and watches: versions, selectors, pages, tables."""
