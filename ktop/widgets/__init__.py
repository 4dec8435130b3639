"""Widgets that know nothing of layers: table, charts, rules. All are drawn by hand as Strips."""
