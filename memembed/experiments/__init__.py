"""The experiments of chapters 5 and 6, which take too long for a chapter."""
