"""Records of any room on a terminal, as JSON, and as a page; computes nothing."""
