"""Points: classify them, escape from them, and the Taylor model around them."""
