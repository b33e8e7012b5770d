"""Why training stands still: the point, what it means, a way out that was tried, and the pictures."""
