"""What several studies measure alike."""
