"""The loss along lines and planes, to look at."""
