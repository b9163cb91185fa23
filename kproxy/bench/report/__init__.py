"""What was measured: results, ratios, tables, the page."""
